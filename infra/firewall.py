"""Who may talk to whom: every security group and every rule, in one place. What is not here does not pass.

    functions ──▶ database, endpoints       the one that loads also ──▶ S3
    bastion   ──▶ database, endpoints, S3 (its packages' repository is there)
    the task of a fleet ──▶ database, endpoints, S3 (its image's layers are there)

Nothing may come in from outside: there is no rule with an address as its source.
"""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_logs as logs
from aws_cdk import custom_resources as cr
from constructs import Construct

from infra import grants

DATABASE_PORT = 15432
"""Not PostgreSQL's own: scanners that have got in try that one first (AwsSolutions-RDS11)."""

HTTPS = ec2.Port.tcp(443)


class Firewall(Construct):
    """A security group for each party: ``loader``, ``administrator``, ``bastion``, ``database``, ``endpoints``; and
    ``task`` where there is a ``fleet``, whose functions are of the group ``loader``: they do what that one does.

    ``internet``: the function that loads may also call out by HTTPS, through the NAT gateway, as a hook may want to.
    """

    def __init__(
        self, scope: Construct, id: str, *, vpc: ec2.IVpc, internet: bool, fleet: bool, retention: logs.RetentionDays
    ) -> None:
        super().__init__(scope, id)
        self.loader = self._group("Loader", vpc, "The function that loads")
        self.administrator = self._group("Administrator", vpc, "The function that looks after the database user")
        self.bastion = self._group("Bastion", vpc, "The bastion: nothing comes in, it calls Session Manager")
        self.database = self._group("Database", vpc, "PostgreSQL")
        self.endpoints = self._group("Endpoints", vpc, "Interface endpoints of AWS services")

        self.task = self._group("Task", vpc, "The task that merges what a fleet has loaded") if fleet else None

        with_task = [self.task] if self.task else []
        for party in (self.loader, self.administrator, self.bastion, *with_task):
            self._allow(party, self.database, ec2.Port.tcp(DATABASE_PORT), "PostgreSQL")
            self._allow(party, self.endpoints, HTTPS, "AWS services")
        s3 = ec2.Peer.prefix_list(self._prefix_list_of_s3(retention))
        for party in (self.loader, self.bastion, *with_task):
            party.add_egress_rule(s3, HTTPS, "S3, through the gateway endpoint")
        if internet:
            self.loader.add_egress_rule(ec2.Peer.any_ipv4(), HTTPS, "Hooks that call out, through the NAT gateway")

    def _group(self, id: str, vpc: ec2.IVpc, description: str) -> ec2.SecurityGroup:
        return ec2.SecurityGroup(self, id, vpc=vpc, description=description, allow_all_outbound=False)

    @staticmethod
    def _allow(source: ec2.SecurityGroup, target: ec2.SecurityGroup, port: ec2.Port, what: str) -> None:
        source.add_egress_rule(target, port, what)
        target.add_ingress_rule(source, port, what)

    def _prefix_list_of_s3(self, retention: logs.RetentionDays) -> str:
        """Its id differs from region to region, and CloudFormation cannot name it: it is asked for when deployed.

        A look-up by the CDK would need an account at synthesis.
        """
        name = f"com.amazonaws.{Stack.of(self).region}.s3"
        call = cr.AwsSdkCall(
            service="EC2",
            action="describeManagedPrefixLists",
            parameters={"Filters": [{"Name": "prefix-list-name", "Values": [name]}]},
            physical_resource_id=cr.PhysicalResourceId.of("prefix-list-of-s3"),
            output_paths=["PrefixLists.0.PrefixListId"],
        )
        found = cr.AwsCustomResource(
            self,
            "PrefixListOfS3",
            resource_type="Custom::PrefixListOfS3",
            on_create=call,
            on_update=call,
            install_latest_aws_sdk=False,
            log_group=logs.LogGroup(self, "PrefixListLogs", retention=retention),
            policy=cr.AwsCustomResourcePolicy.from_statements(grants.looking_up_prefix_lists()),
        )
        return found.get_response_field("PrefixLists.0.PrefixListId")
