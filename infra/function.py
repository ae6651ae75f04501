"""The function that loads: the image in the private subnets, fed by the queue."""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.database import Database
from infra.image import Image
from infra.network import PRIVATE
from infra.sizes import TIMEOUT_SECONDS, Size
from infra.storage import SPECS, Storage

HANDLER = "loader.handler.handler"


class LoadFunction(Construct):
    """``function``, its ``role`` (which `infra.grants` fills) and its ``logs``.

    ``LOADER_REINVOKE`` is not set: with a queue a load is handed over by its message, and the function needs neither
    the right nor a way to call itself.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        size: Size,
        image: Image,
        vpc: ec2.IVpc,
        security_group: ec2.ISecurityGroup,
        database: Database,
        storage: Storage,
        retention: logs.RetentionDays,
    ) -> None:
        super().__init__(scope, id)
        self._size = size
        self.logs = logs.LogGroup(self, "Logs", retention=retention)
        self.role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            description="The loader: what it may do is in infra/grants.py",
        )
        self.function = lambda_.DockerImageFunction(
            self,
            "Function",
            description="Loads CSV files from S3 into PostgreSQL",
            code=image.running(HANDLER),
            architecture=image.architecture,
            memory_size=size.memory_mb,
            timeout=Duration.seconds(TIMEOUT_SECONDS),
            role=self.role,
            vpc=vpc,
            vpc_subnets=PRIVATE,
            security_groups=[security_group],
            log_group=self.logs,
            logging_format=lambda_.LoggingFormat.JSON,
            environment={
                "LOADER_SECRET_ID": database.secret.secret_arn,
                "LOADER_SPECS": f"s3://{storage.name}/{SPECS}",
                "PGSSLMODE": "verify-full",
            },
        )

    def send_large_ones_to(self, machine: str) -> None:
        """To the state machine with this ARN goes what one function would be too long about (`loader.aws.dispatch`)."""
        self.function.add_environment("LOADER_STATE_MACHINE", machine)

    def put_aside_to(self, dead_letters: sqs.Queue) -> None:
        """To this queue go messages whose loads cannot succeed (`loader.aws.redelivery`)."""
        self.function.add_environment("LOADER_DEAD_LETTERS", dead_letters.queue_url)

    def consume(self, queue: sqs.Queue, *, batch_size: int) -> lambda_.EventSourceMapping:
        """Load what ``queue`` tells of, up to ``batch_size`` messages an invocation, as many invocations at once as the
        database bears. No message waits for a batch to fill."""
        return lambda_.EventSourceMapping(
            self,
            "Source",
            target=self.function,
            event_source_arn=queue.queue_arn,
            batch_size=batch_size,
            report_batch_item_failures=True,
            max_concurrency=self._size.concurrency,
        )
