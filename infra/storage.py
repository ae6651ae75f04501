"""The bucket that files are dropped in, its key, and the bucket of its access logs.

    incoming/   what arrives; each object created there is told to the queue
    specs/      the specs, read by the function within a minute of a change
    fleet/      plans of loads by many functions (`infra.fleet`), kept as long as such a load can be redriven

Nothing of ours writes under ``incoming/``: it would be its own input.
"""

from __future__ import annotations

from aws_cdk import Duration, RemovalPolicy, Stack
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.sizes import Size

INCOMING = "incoming/"
SPECS = "specs/"
PLANS = "fleet/"

PLAN_DAYS = 30
"""Step Functions redrives an execution within 14 days of its end ("Restarting state machine executions")."""

KEPT = RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE
"""For what must outlive the stack. A first deployment that fails leaves nothing behind, or the next could not have its
names."""


class Storage(Construct):
    """``bucket``, ``key``, ``access_logs``. All three outlive the stack."""

    def __init__(self, scope: Construct, id: str, *, size: Size, name: str) -> None:
        super().__init__(scope, id)
        self.name = name
        self.key = kms.Key(
            self,
            "Key",
            description="What is dropped in the loader's bucket",
            enable_key_rotation=True,
            removal_policy=KEPT,  # without it nothing in the bucket can be read again
        )
        self.access_logs = s3.Bucket(
            self,
            "AccessLogs",
            encryption=s3.BucketEncryption.S3_MANAGED,  # the only kind that S3's log delivery can write to
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            lifecycle_rules=[s3.LifecycleRule(expiration=Duration.days(size.log_days))],
            removal_policy=KEPT,
        )
        self.bucket = s3.Bucket(
            self,
            "Bucket",
            bucket_name=name,
            encryption=s3.BucketEncryption.KMS,
            encryption_key=self.key,
            bucket_key_enabled=True,  # one call of KMS a while, not one an object
            versioned=True,  # a load is pinned to one version
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            server_access_logs_bucket=self.access_logs,
            server_access_logs_prefix="incoming-bucket/",
            lifecycle_rules=[
                s3.LifecycleRule(id="unfinished-uploads", abort_incomplete_multipart_upload_after=Duration.days(7)),
                s3.LifecycleRule(id="plans", prefix=PLANS, expiration=Duration.days(PLAN_DAYS)),
                s3.LifecycleRule(id="old-versions", noncurrent_version_expiration=Duration.days(size.old_version_days)),
            ],
            removal_policy=KEPT,
        )

    @property
    def arn(self) -> str:
        """Made of the name, not asked of the bucket: the queue's policy has to be there before the bucket is."""
        return Stack.of(self).format_arn(service="s3", region="", account="", resource=self.name)

    def notify(self, queue: sqs.Queue) -> None:
        """Have S3 tell ``queue`` of each object that is created under `INCOMING`.

        As a property of the bucket: CDK's own way is a helper function that may change every bucket's notifications.
        S3 tries the queue when the bucket is made, so its policy has to come first.
        """
        resource = self.bucket.node.default_child
        assert isinstance(resource, s3.CfnBucket)
        prefix = s3.CfnBucket.FilterRuleProperty(name="prefix", value=INCOMING)
        resource.notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(
            queue_configurations=[
                s3.CfnBucket.QueueConfigurationProperty(
                    event="s3:ObjectCreated:*",
                    queue=queue.queue_arn,
                    filter=s3.CfnBucket.NotificationFilterProperty(
                        s3_key=s3.CfnBucket.S3KeyFilterProperty(rules=[prefix])
                    ),
                )
            ]
        )
        resource.node.add_dependency(queue.node.find_child("Policy"))
