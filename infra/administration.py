"""The administrator: a function that makes the loader's database user, and rotates its password.

It runs `loader.aws.database_user`, out of the same image. It alone reads the master's secret, and CloudFormation and
Secrets Manager alone call it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from aws_cdk import CustomResource, Duration
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import custom_resources as cr
from constructs import Construct, IDependable

from infra import grants
from infra.database import NAME, Database
from infra.firewall import DATABASE_PORT
from infra.image import ROOT, Image
from infra.network import PRIVATE

HANDLER = "loader.aws.database_user.handler"

ROTATION_DAYS = 30


class Administration(Construct):
    """``function``, its ``role`` and ``logs``, and ``user``: the custom resource that stands for the database user.

    ``schemas``: in which the loader may make tables, and write to those that the master may grant. ``reached_by``: what
    has to be there for the function to reach the database and its secrets, and is not named by it.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        image: Image,
        vpc: ec2.IVpc,
        security_group: ec2.ISecurityGroup,
        database: Database,
        schemas: Sequence[str],
        reached_by: Sequence[IDependable],
        retention: logs.RetentionDays,
    ) -> None:
        super().__init__(scope, id)
        self.logs = logs.LogGroup(self, "Logs", retention=retention)
        self.role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            description="The administrator of the loader's database user: what it may do is in infra/grants.py",
        )
        self.function = lambda_.DockerImageFunction(
            self,
            "Function",
            description="Makes the loader's database user and rotates its password",
            code=image.running(HANDLER),
            architecture=image.architecture,
            memory_size=512,
            timeout=Duration.minutes(2),
            role=self.role,
            vpc=vpc,
            vpc_subnets=PRIVATE,
            security_groups=[security_group],
            log_group=self.logs,
            logging_format=lambda_.LoggingFormat.JSON,
            environment={
                "LOADER_MASTER_SECRET_ID": database.master_secret.secret_arn,
                "LOADER_SECRET_ID": database.secret.secret_arn,
                "PGHOST": database.instance.instance_endpoint.hostname,  # RDS's own secret names no host
                "PGPORT": str(DATABASE_PORT),
                "PGDATABASE": NAME,
                "PGSSLMODE": "verify-full",
            },
        )
        self.user = self._user(schemas, retention)
        self.user.node.add_dependency(self.role, *reached_by)
        self._rotate(database)

    def _user(self, schemas: Sequence[str], retention: logs.RetentionDays) -> CustomResource:
        """Made anew whenever what makes it has changed; `loader.aws.database_user` is idempotent."""
        framework = cr.Provider(
            self,
            "Provider",
            on_event_handler=self.function,
            log_group=logs.LogGroup(self, "ProviderLogs", retention=retention),
            framework_lambda_logging_level=lambda_.ApplicationLogLevel.FATAL,
        )
        code = (ROOT / "loader" / "aws" / "database_user.py").read_bytes()
        return CustomResource(
            self,
            "User",
            resource_type="Custom::DatabaseUser",
            service_token=framework.service_token,
            properties={"Schemas": list(schemas), "Version": hashlib.sha256(code).hexdigest()},
        )

    def _rotate(self, database: Database) -> None:
        permission = grants.let_rotate(self.function, database.secret)
        schedule = secretsmanager.CfnRotationSchedule(
            self,
            "Rotation",
            secret_id=database.secret.secret_arn,
            rotation_lambda_arn=self.function.function_arn,
            rotate_immediately_on_update=False,
            rotation_rules=secretsmanager.CfnRotationSchedule.RotationRulesProperty(
                automatically_after_days=ROTATION_DAYS
            ),
        )
        schedule.node.add_dependency(permission)
        schedule.node.add_dependency(self.user)  # there must be somebody whose password can be changed
