"""RDS for PostgreSQL, in the isolated subnets; its key, its parameters, its logs, and the loader's own secret.

The master's password is made and rotated by RDS. The loader logs in as a user of its own, whose secret is here, and
whom the administrator (`infra.administration`) makes.
"""

from __future__ import annotations

from aws_cdk import Duration, RemovalPolicy, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_rds as rds
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from infra.firewall import DATABASE_PORT
from infra.network import ISOLATED
from infra.sizes import Size
from infra.storage import KEPT

VERSION = rds.PostgresEngineVersion.VER_18_3
"""Pinned: an upgrade is a change of this line, rehearsed in dev (docs/operate.md)."""

NAME = "loader"
MASTER = "loader_master"
LOADER = "loader"

PARAMETERS = {
    "rds.force_ssl": "1",
    "ssl_min_protocol_version": "TLSv1.2",
    "log_lock_waits": "1",
    "log_min_duration_statement": "-1",  # statements are not logged: they may hold data
}


class Database(Construct):
    """``instance``, ``master_secret``, ``secret`` (the loader's), ``key``, ``logs``."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        size: Size,
        prefix: str,
        vpc: ec2.IVpc,
        security_group: ec2.ISecurityGroup,
        retention: logs.RetentionDays,
    ) -> None:
        super().__init__(scope, id)
        self.key = kms.Key(
            self,
            "Key",
            description="The loader's database, its backups, and the secrets to log in",
            enable_key_rotation=True,
            removal_policy=KEPT,  # snapshots need it
        )
        engine = rds.DatabaseInstanceEngine.postgres(version=VERSION)
        self.instance = rds.DatabaseInstance(
            self,
            "Instance",
            instance_identifier=prefix,
            engine=engine,
            instance_type=ec2.InstanceType(size.database_class),
            vpc=vpc,
            vpc_subnets=ISOLATED,
            security_groups=[security_group],
            publicly_accessible=False,
            port=DATABASE_PORT,
            database_name=NAME,
            credentials=rds.Credentials.from_username(MASTER),
            manage_master_user_password=True,
            storage_encrypted=True,
            storage_encryption_key=self.key,
            storage_type=rds.StorageType.GP3,
            allocated_storage=size.storage_gb,
            max_allocated_storage=size.storage_limit_gb,
            multi_az=size.multi_az,
            backup_retention=Duration.days(size.backup_days),
            delete_automated_backups=False,
            copy_tags_to_snapshot=True,
            deletion_protection=size.protected,
            removal_policy=RemovalPolicy.SNAPSHOT,
            auto_minor_version_upgrade=False,
            allow_major_version_upgrade=False,
            ca_certificate=rds.CaCertificate.RDS_CA_RSA2048_G1,
            cloudwatch_logs_exports=["postgresql", "upgrade"],
            enable_performance_insights=True,
            performance_insight_encryption_key=self.key,
            parameter_group=rds.ParameterGroup(self, "Parameters", engine=engine, parameters=PARAMETERS),
        )
        self.logs = self._logs(prefix, retention)
        self.secret = self._secret()

    @property
    def master_secret(self) -> secretsmanager.ISecret:
        secret = self.instance.secret
        assert secret is not None, "RDS manages the master's password in a secret"
        return secret

    def _logs(self, prefix: str, retention: logs.RetentionDays) -> list[logs.LogGroup]:
        """Made before RDS makes them itself, without an end to what they keep."""
        groups = []
        for kind in ("postgresql", "upgrade"):
            group = logs.LogGroup(
                self,
                f"Logs{kind.capitalize()}",
                log_group_name=f"/aws/rds/instance/{prefix}/{kind}",
                retention=retention,
                removal_policy=KEPT,
            )
            self.instance.node.add_dependency(group)
            groups.append(group)
        return groups

    def _secret(self) -> secretsmanager.Secret:
        """As RDS writes them: all that it takes to log in. The password is made by Secrets Manager."""
        template = {
            "engine": "postgres",
            "host": self.instance.instance_endpoint.hostname,
            "port": DATABASE_PORT,
            "dbname": NAME,
            "username": LOADER,
        }
        return secretsmanager.Secret(
            self,
            "Secret",
            description="How the loader logs in to PostgreSQL",
            encryption_key=self.key,
            generate_secret_string=secretsmanager.SecretStringGenerator(
                secret_string_template=Stack.of(self).to_json_string(template),
                generate_string_key="password",
                password_length=40,
                exclude_punctuation=True,
            ),
        )
