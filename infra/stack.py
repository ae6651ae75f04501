"""The stack: which parts there are and how they are joined. What they are is in their own files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aws_cdk import CfnOutput, Stack
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra import grants
from infra.administration import Administration
from infra.bastion import Bastion
from infra.database import Database
from infra.firewall import Firewall
from infra.fleet import Fleet
from infra.function import LoadFunction
from infra.image import Image
from infra.intake import Intake
from infra.network import Network
from infra.observability import Observability
from infra.sizes import BATCH_SIZE, Size
from infra.storage import INCOMING, SPECS, Storage

RETENTION = {30: logs.RetentionDays.ONE_MONTH, 365: logs.RetentionDays.ONE_YEAR}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a deployment may be told beside its size; each is a context parameter of the same name (docs/deploy.md).

    ``schemas``: in which the loader may make tables. ``uploaders``: ARNs that may drop files. ``internet``: whether
    the function that loads may call out by HTTPS. ``fleet``: whether large objects are loaded by many functions.
    ``batch_size``: messages that the function gets at once.
    """

    architecture: str = "x86_64"
    cidr: str = "10.0.0.0/16"
    schemas: Sequence[str] = ("public",)
    uploaders: Sequence[str] = ()
    alarm_email: str | None = None
    internet: bool = False
    fleet: bool = False
    batch_size: int = BATCH_SIZE


class LoaderStack(Stack):
    """S3 → SQS → Lambda → PostgreSQL, and all that keeps it safe and in sight."""

    def __init__(self, scope: Construct, id: str, *, size: Size, options: Options, **stack: Any) -> None:
        super().__init__(
            scope,
            id,
            stack_name=f"csv-loader-{size.name}",
            description="CSV files from S3 into PostgreSQL, exactly once",
            termination_protection=size.protected,
            **stack,
        )
        prefix, retention = self.stack_name, RETENTION[size.log_days]
        image = Image(options.architecture)

        self.network = Network(self, "Network", size=size, cidr=options.cidr, retention=retention)
        vpc = self.network.vpc
        self.firewall = Firewall(
            self, "Firewall", vpc=vpc, internet=options.internet, fleet=options.fleet, retention=retention
        )
        self.network.open_endpoints(self.firewall.endpoints, fleet=options.fleet)

        self.storage = Storage(self, "Storage", size=size, name=f"{prefix}-incoming-{self.account}-{self.region}")
        self.intake = Intake(self, "Intake", prefix=prefix)
        self.database = Database(
            self,
            "Database",
            size=size,
            prefix=prefix,
            vpc=vpc,
            security_group=self.firewall.database,
            retention=retention,
        )
        self.load = LoadFunction(
            self,
            "Load",
            size=size,
            image=image,
            vpc=vpc,
            security_group=self.firewall.loader,
            database=self.database,
            storage=self.storage,
            retention=retention,
        )
        self.administration = Administration(
            self,
            "Administration",
            image=image,
            vpc=vpc,
            security_group=self.firewall.administrator,
            database=self.database,
            schemas=options.schemas,
            reached_by=[self.network, self.firewall],
            retention=retention,
        )
        self.bastion = Bastion(self, "Bastion", vpc=vpc, security_group=self.firewall.bastion, database=self.database)
        self.fleet = self._fleet(size, prefix, image, retention) if self.firewall.task else None
        self.observability = Observability(
            self,
            "Observability",
            size=size,
            prefix=prefix,
            load=self.load,
            intake=self.intake,
            database=self.database,
            fleet=self.fleet,
            email=options.alarm_email,
        )

        grants.let_bucket_notify(self.storage, self.intake)
        grants.let_nothing_in_unencrypted(self.storage)
        grants.let_upload(self.storage, options.uploaders)
        grants.let_load(self.load, storage=self.storage, intake=self.intake, database=self.database)
        if self.fleet:
            grants.let_fleet(self.fleet, load=self.load, storage=self.storage, database=self.database)
            self.load.send_large_ones_to(self.fleet.arn)
        grants.let_administer(self.administration, database=self.database)
        grants.let_administrators_in(self.bastion, database=self.database)
        grants.let_alarms_publish(self.observability.topic, self.observability.key)

        self.storage.notify(self.intake.queue)
        self.load.put_aside_to(self.intake.dead_letters)
        source = self.load.consume(self.intake.queue, batch_size=options.batch_size)
        source.node.add_dependency(self.administration.user)  # who must exist before the first file comes
        self._tell(source.event_source_mapping_id)

    def _fleet(self, size: Size, prefix: str, image: Image, retention: logs.RetentionDays) -> Fleet:
        assert self.firewall.task is not None
        return Fleet(
            self,
            "Fleet",
            size=size,
            prefix=prefix,
            image=image,
            vpc=self.network.vpc,
            functions=self.firewall.loader,
            tasks=self.firewall.task,
            database=self.database,
            storage=self.storage,
            retention=retention,
        )

    def _tell(self, mapping: str) -> None:
        """What the commands of docs/deploy.md and docs/operate.md ask for."""
        for name, value in {
            "UploadTo": f"s3://{self.storage.bucket.bucket_name}/{INCOMING}",
            "SpecsIn": f"s3://{self.storage.bucket.bucket_name}/{SPECS}",
            "QueueUrl": self.intake.queue.queue_url,
            "QueueArn": self.intake.queue.queue_arn,
            "DeadLettersUrl": self.intake.dead_letters.queue_url,
            "DeadLettersArn": self.intake.dead_letters.queue_arn,
            "MappingId": mapping,
            "FunctionName": self.load.function.function_name,
            "AdministratorName": self.administration.function.function_name,
            "LogGroup": self.load.logs.log_group_name,
            "DatabaseEndpoint": self.database.instance.instance_endpoint.hostname,
            "SecretArn": self.database.secret.secret_arn,
            "MasterSecretArn": self.database.master_secret.secret_arn,
            "BastionId": self.bastion.instance.instance_id,
            "ConnectCommand": self.bastion.connect_command,
            "AlarmTopic": self.observability.topic.topic_arn,
            "Dashboard": self.observability.dashboard.dashboard_name,
            **({"StateMachine": self.fleet.arn, "FleetLogGroup": self.fleet.logs.log_group_name} if self.fleet else {}),
        }.items():
            CfnOutput(self, name, value=value)
