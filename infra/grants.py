"""Who may do what: every policy that this app writes, in one place, by the exact names of what it is about.

CDK's own ``grant_…`` methods are not used: ``bucket.grant_read`` alone allows ``s3:GetObject*``, ``s3:GetBucket*`` and
``s3:List*``. Where a ``*`` stands here, no name can; the reason is beside it, and in `infra.findings` again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_sns as sns

from infra.machine import SHARDS
from infra.storage import INCOMING, PLANS, SPECS, Storage

if TYPE_CHECKING:
    from infra.administration import Administration
    from infra.bastion import Bastion
    from infra.database import Database
    from infra.fleet import Fleet
    from infra.function import LoadFunction
    from infra.intake import Intake

NETWORK_INTERFACES = (
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
)
"""What Lambda needs to connect a function to a VPC (Lambda developer guide, "Giving Lambda functions access to
resources in an Amazon VPC"), with the function's role, before the function exists."""


def _allow(
    sid: str, actions: Sequence[str], on: Sequence[str], when: Mapping[str, Any] | None = None
) -> iam.PolicyStatement:
    return iam.PolicyStatement(sid=sid, actions=list(actions), resources=list(on), conditions=when)


# --- the function that loads


def let_load(load: LoadFunction, *, storage: Storage, intake: Intake, database: Database) -> None:
    """Read what was dropped and the specs, take messages from its queue, show them again or put them aside, log in.
    Nothing else."""
    for statement in (
        *_reading(storage),
        _allow(
            "TakeMessages",
            ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"],
            [intake.queue.queue_arn],
        ),
        _allow("PutMessagesAside", ["sqs:SendMessage"], [intake.dead_letters.queue_arn]),
        *_logging_in(database),
    ):
        load.role.add_to_policy(statement)
    _let_run(load.function, load.role, load.logs)


def _reading(storage: Storage) -> list[iam.PolicyStatement]:
    objects = [f"{storage.arn}/{INCOMING}*", f"{storage.arn}/{SPECS}*"]  # keys are the uploaders' to choose
    return [
        # the attributes are the checksums of an upload's parts, where S3 keeps none of the whole object
        _allow(
            "ReadObjects",
            ["s3:GetObject", "s3:GetObjectAttributes", "s3:GetObjectVersion", "s3:GetObjectVersionAttributes"],
            objects,
        ),
        # of the whole bucket: a listing's prefix is no part of a GET, which without this right answers 403 for 404
        _allow("ListObjects", ["s3:ListBucket", "s3:ListBucketVersions"], [storage.arn]),
        _decrypt("DecryptObjects", storage.key, "s3"),
    ]


def _logging_in(database: Database) -> list[iam.PolicyStatement]:
    return [
        _allow("LogIn", ["secretsmanager:GetSecretValue"], [database.secret.secret_arn]),
        _decrypt("DecryptSecret", database.key, "secretsmanager"),
    ]


# --- the fleet


def let_fleet(fleet: Fleet, *, load: LoadFunction, storage: Storage, database: Database) -> None:
    """The function that takes an upload starts the machine; the machine calls the fleet's function and runs its task.

    The fleet's function and its task may do what the one that loads may, apart from the queue, and keep plans.
    """
    load.role.add_to_policy(_allow("StartFleet", ["states:StartExecution"], [fleet.arn]))
    plans = [f"{storage.arn}/{PLANS}*"]  # named by executions
    for role in (fleet.function_role, fleet.task_role):
        for statement in (
            *_reading(storage),
            _allow("KeepPlans", ["s3:GetObject", "s3:PutObject"], plans),
            _allow("EncryptPlans", ["kms:GenerateDataKey"], [storage.key.key_arn], _via(storage, "s3")),
            *_logging_in(database),
        ):
            role.add_to_policy(statement)
    _let_run(fleet.function, fleet.function_role, fleet.logs)
    _let_start_task(fleet)
    _let_run_machine(fleet, storage)


def _let_start_task(fleet: Fleet) -> None:
    """ECS fetches the image and opens the log (ECS developer guide, "Amazon ECS task execution IAM role")."""
    layers = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    for statement in (
        _allow("FetchImage", layers, [fleet.asset.repository.repository_arn]),
        # the action knows no resources (Service Authorization Reference, Amazon ECR)
        _allow("LogInToRegistry", ["ecr:GetAuthorizationToken"], ["*"]),
        _allow("WriteLog", ["logs:CreateLogStream", "logs:PutLogEvents"], [fleet.task_logs.log_group_arn]),
    ):
        fleet.start_role.add_to_policy(statement)


def _let_run_machine(fleet: Fleet, storage: Storage) -> None:
    """Start its shards, follow them, and fetch their list; call the one function; run the one task.

    (Step Functions developer guide, "IAM policies for using Distributed Map states", and those for ECS and logging.)
    """
    stack = Stack.of(fleet)

    def arn(service: str, resource: str) -> str:
        return f"arn:{stack.partition}:{service}:{stack.region}:{stack.account}:{resource}"

    for statement in (
        _allow("CallFunction", ["lambda:InvokeFunction"], [fleet.function.function_arn]),
        _allow("ReadPlans", ["s3:GetObject"], [f"{storage.arn}/{PLANS}*"]),
        _decrypt("DecryptPlans", storage.key, "s3"),
        _allow("StartShards", ["states:StartExecution"], [fleet.arn]),
        # the guide names the machine's executions; a shard's have the label of their Map in their ARNs, too
        _allow(
            "FollowShards",
            ["states:DescribeExecution", "states:StopExecution"],
            [arn("states", f"execution:{fleet.name}:*"), arn("states", f"execution:{fleet.name}/{SHARDS}:*")],
        ),
        _allow("RedriveShards", ["states:RedriveExecution"], [arn("states", f"execution:{fleet.name}/{SHARDS}:*")]),
        _allow("RunTask", ["ecs:RunTask"], [fleet.task.task_definition_arn]),
        _allow(
            "FollowTask",
            ["ecs:DescribeTasks", "ecs:StopTask"],
            [arn("ecs", f"task/{fleet.cluster.cluster_name}/*")],
        ),
        _allow(
            "HearOfTask",
            ["events:DescribeRule", "events:PutRule", "events:PutTargets"],
            [arn("events", "rule/StepFunctionsGetEventsForECSTaskRule")],
        ),
        _allow(
            "PassRoles",
            ["iam:PassRole"],
            [fleet.task_role.role_arn, fleet.start_role.role_arn],
            {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
        ),
        # these know no resources (Service Authorization Reference, CloudWatch Logs and X-Ray)
        _allow(
            "DeliverLog",
            [
                "logs:CreateLogDelivery",
                "logs:DeleteLogDelivery",
                "logs:DescribeLogGroups",
                "logs:DescribeResourcePolicies",
                "logs:GetLogDelivery",
                "logs:ListLogDeliveries",
                "logs:PutResourcePolicy",
                "logs:UpdateLogDelivery",
            ],
            ["*"],
        ),
        _allow(
            "Trace",
            [
                "xray:GetSamplingRules",
                "xray:GetSamplingTargets",
                "xray:PutTelemetryRecords",
                "xray:PutTraceSegments",
            ],
            ["*"],
        ),
    ):
        fleet.role.add_to_policy(statement)


# --- the administrator


def let_administer(administration: Administration, *, database: Database) -> None:
    """Log in as the master; read, and at a rotation write, the loader's secret."""
    loaders = [database.secret.secret_arn]
    for statement in (
        _allow("LogInAsMaster", ["secretsmanager:GetSecretValue"], [database.master_secret.secret_arn]),
        _allow(
            "RotateSecret",
            [
                "secretsmanager:DescribeSecret",
                "secretsmanager:GetSecretValue",
                "secretsmanager:PutSecretValue",
                "secretsmanager:UpdateSecretVersionStage",
            ],
            loaders,
        ),
        _decrypt("UseSecretsKey", database.key, "secretsmanager", "kms:GenerateDataKey"),
    ):
        administration.role.add_to_policy(statement)
    _let_run(administration.function, administration.role, administration.logs)


def let_rotate(function: lambda_.Function, secret: secretsmanager.ISecret) -> lambda_.CfnPermission:
    """Secrets Manager may call ``function`` for this one secret."""
    return lambda_.CfnPermission(
        function,
        "Rotation",
        action="lambda:InvokeFunction",
        function_name=function.function_arn,
        principal="secretsmanager.amazonaws.com",
        source_account=Stack.of(function).account,
        source_arn=secret.secret_arn,
    )


# --- the bastion


def let_administrators_in(bastion: Bastion, *, database: Database) -> None:
    """Session Manager may reach the bastion, and psql on it logs in as the master."""
    for statement in (
        # these actions know no resources (Service Authorization Reference, Systems Manager and its message gateway)
        _allow(
            "SessionManager",
            [
                "ssm:UpdateInstanceInformation",
                "ssmmessages:CreateControlChannel",
                "ssmmessages:CreateDataChannel",
                "ssmmessages:OpenControlChannel",
                "ssmmessages:OpenDataChannel",
            ],
            ["*"],
        ),
        _allow("LogInAsMaster", ["secretsmanager:GetSecretValue"], [database.master_secret.secret_arn]),
        _allow(
            "ReadCertificates",
            ["s3:GetObject"],
            [bastion.certificates.bucket.arn_for_objects(bastion.certificates.s3_object_key)],
        ),
    ):
        bastion.role.add_to_policy(statement)


# --- the bucket, the queue, the alarms


def let_bucket_notify(storage: Storage, intake: Intake) -> None:
    """S3 may send to the queue on behalf of this one bucket."""
    intake.queue.add_to_resource_policy(
        iam.PolicyStatement(
            sid="BucketNotifies",
            principals=[iam.ServicePrincipal("s3.amazonaws.com")],
            actions=["sqs:SendMessage"],
            resources=[intake.queue.queue_arn],
            conditions={
                "ArnEquals": {"aws:SourceArn": storage.arn},
                "StringEquals": {"aws:SourceAccount": Stack.of(storage).account},
            },
        )
    )


def let_nothing_in_unencrypted(storage: Storage) -> None:
    """An upload that says how it is to be encrypted has to say: with the bucket's key. The bucket does so by itself.

    What another key encrypts the function could not read; so it is told to the uploader, not to the dead-letter queue.
    """
    for sid, header, value in (
        ("EncryptionByKms", "s3:x-amz-server-side-encryption", "aws:kms"),
        ("EncryptionByOurKey", "s3:x-amz-server-side-encryption-aws-kms-key-id", storage.key.key_arn),
    ):
        storage.bucket.add_to_resource_policy(
            iam.PolicyStatement(
                sid=sid,
                effect=iam.Effect.DENY,
                principals=[iam.AnyPrincipal()],
                actions=["s3:PutObject"],
                resources=[storage.bucket.arn_for_objects("*")],
                # a condition that negates is met where the header is not there at all, hence the first
                conditions={"Null": {header: "false"}, "StringNotEquals": {header: value}},
            )
        )


def let_upload(storage: Storage, uploaders: Sequence[str]) -> None:
    """``uploaders``, ARNs of roles or users of any account, may drop files, and neither read nor delete any."""
    if not uploaders:
        return
    principals = [iam.ArnPrincipal(arn) for arn in uploaders]
    storage.bucket.add_to_resource_policy(
        iam.PolicyStatement(
            sid="Upload",
            principals=principals,
            actions=["s3:PutObject", "s3:AbortMultipartUpload"],
            resources=[f"{storage.bucket.bucket_arn}/{INCOMING}*"],
        )
    )
    storage.key.add_to_resource_policy(
        iam.PolicyStatement(
            sid="EncryptUploads",
            principals=principals,
            actions=["kms:GenerateDataKey", "kms:Decrypt"],  # Decrypt: S3 puts the parts of a large upload together
            resources=["*"],  # in a key's own policy: this key
            conditions=_via(storage, "s3"),
        )
    )


def let_alarms_publish(topic: sns.Topic, key: kms.Key) -> None:
    """CloudWatch's alarms of this account may publish to ``topic``, which ``key`` encrypts."""
    cloudwatch = iam.ServicePrincipal("cloudwatch.amazonaws.com")
    own = {"StringEquals": {"aws:SourceAccount": Stack.of(topic).account}}
    topic.add_to_resource_policy(
        iam.PolicyStatement(
            sid="AlarmsPublish",
            principals=[cloudwatch],
            actions=["sns:Publish"],
            resources=[topic.topic_arn],
            conditions=own,
        )
    )
    key.add_to_resource_policy(
        iam.PolicyStatement(
            sid="AlarmsEncrypt",
            principals=[cloudwatch],
            actions=["kms:Decrypt", "kms:GenerateDataKey"],
            # in a key's own policy "*" is this key. No condition: an alarm's call of KMS carries no account
            resources=["*"],
        )
    )


def looking_up_prefix_lists() -> list[iam.PolicyStatement]:
    """Ask for the id of S3's prefix list, once, at deployment. The action knows no resources."""
    return [_allow("LookUpPrefixLists", ["ec2:DescribeManagedPrefixLists"], ["*"])]


# --- what they have in common


def _let_run(function: lambda_.Function, role: iam.Role, group: logs.LogGroup) -> None:
    """Lambda may connect the function to the VPC, and the function may write its log.

    Interfaces have no names yet when Lambda asks whether it could make them, so the role has the right for all. The
    code must not use it: calls of the function itself carry its ARN, and are denied. (Same chapter of the guide. A
    policy of its own, because it needs the function's ARN, and the function needs its role.)
    """
    role.add_to_policy(_allow("WriteLog", ["logs:CreateLogStream", "logs:PutLogEvents"], [group.log_group_arn]))
    role.add_to_policy(_allow("ConnectToVpc", NETWORK_INTERFACES, ["*"]))
    iam.Policy(
        function,
        "CodeLeavesTheVpcAlone",
        roles=[role],
        statements=[
            iam.PolicyStatement(
                sid="CodeLeavesTheVpcAlone",
                effect=iam.Effect.DENY,
                actions=list(NETWORK_INTERFACES),
                resources=["*"],
                conditions={"ArnEquals": {"lambda:SourceFunctionArn": function.function_arn}},
            )
        ],
    )


def _decrypt(sid: str, key: kms.Key, service: str, *more: str) -> iam.PolicyStatement:
    """Through ``service`` alone, for what it holds."""
    return _allow(sid, ["kms:Decrypt", *more], [key.key_arn], _via(key, service))


def _via(scope: Storage | kms.Key, service: str) -> dict[str, Any]:
    return {"StringEquals": {"kms:ViaService": f"{service}.{Stack.of(scope).region}.amazonaws.com"}}
