"""The bastion: a small machine in a public subnet with psql on it, and no way in but Session Manager.

It has no public address and no key pair, and nothing may connect to it: its agent calls Session Manager, through an
endpoint, and who may open a session is IAM's to say and CloudTrail's to record.
"""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3_assets as s3_assets
from constructs import Construct

from infra.database import NAME, Database
from infra.firewall import DATABASE_PORT
from infra.image import ROOT
from infra.network import PUBLIC

CONNECT = "/usr/local/bin/loader-psql"
CERTIFICATES = "/etc/ssl/certs/rds-ca-bundle.pem"


class Bastion(Construct):
    """``instance``, its ``role``, which `infra.grants` fills, and ``certificates``: those of RDS, as in the image."""

    def __init__(
        self, scope: Construct, id: str, *, vpc: ec2.IVpc, security_group: ec2.ISecurityGroup, database: Database
    ) -> None:
        super().__init__(scope, id)
        self.role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"),
            description="The loader's bastion: what it may do is in infra/grants.py",
        )
        self.certificates = s3_assets.Asset(self, "Certificates", path=str(ROOT / "container" / "rds-ca-bundle.pem"))
        self.instance = ec2.Instance(
            self,
            "Instance",
            vpc=vpc,
            vpc_subnets=PUBLIC,
            security_group=security_group,
            associate_public_ip_address=False,
            instance_type=ec2.InstanceType("t4g.nano"),
            machine_image=ec2.MachineImage.latest_amazon_linux2023(
                cpu_type=ec2.AmazonLinuxCpuType.ARM_64, cached_in_context=False
            ),
            role=self.role,
            require_imdsv2=True,
            detailed_monitoring=True,
            block_devices=[
                ec2.BlockDevice(
                    device_name="/dev/xvda",
                    volume=ec2.BlockDeviceVolume.ebs(8, encrypted=True, volume_type=ec2.EbsDeviceVolumeType.GP3),
                )
            ],
            user_data=_prepare(database, self.certificates.s3_object_url, Stack.of(self).region),
            user_data_causes_replacement=True,
        )

    @property
    def connect_command(self) -> str:
        """One line, which ends in psql's prompt."""
        return (
            f"aws ssm start-session --region {Stack.of(self).region} --target {self.instance.instance_id} "
            f"--document-name AWS-StartInteractiveCommand --parameters command={CONNECT}"
        )


def _prepare(database: Database, certificates: str, region: str) -> ec2.UserData:
    """psql, and a command that logs in with it. The password is fetched for each session and written nowhere.

    Amazon Linux takes its packages from S3, in the same region, so the gateway endpoint is all that it needs. The
    newest client that there is will do: psql speaks to servers of other versions. The server must show a certificate
    of RDS's, in its own name.
    """
    script = f"""#!/bin/bash
set -euo pipefail
secret=$(aws secretsmanager get-secret-value --region {region} --secret-id {database.master_secret.secret_arn} \\
    --query SecretString --output text)
field() {{ python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1" <<< "$secret"; }}
export PGUSER=$(field username) PGPASSWORD=$(field password)
export PGHOST={database.instance.instance_endpoint.hostname} PGPORT={DATABASE_PORT} PGDATABASE={NAME}
export PGSSLMODE=verify-full PGSSLROOTCERT={CERTIFICATES}
exec psql "$@"
"""
    prepare = ec2.UserData.for_linux()
    prepare.add_commands(
        f"aws s3 cp --region {region} {certificates} {CERTIFICATES}",
        "for version in 18 17 16 15; do dnf install -y postgresql$version && break; done",
        f"cat > {CONNECT} <<'END_OF_SCRIPT'\n{script}END_OF_SCRIPT",
        f"chmod 755 {CONNECT}",
    )
    return prepare
