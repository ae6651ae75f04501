"""The VPC: public subnets (NAT gateway, bastion), private ones (the functions), isolated ones (the database).

What the functions and the bastion talk to is inside: S3 by a gateway endpoint, so that gigabytes do not pay for a
NAT gateway; Secrets Manager, SQS and Session Manager by interface endpoints.
"""

from __future__ import annotations

from aws_cdk import CfnResource, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.sizes import Size

PUBLIC = ec2.SubnetSelection(subnet_group_name="public")
PRIVATE = ec2.SubnetSelection(subnet_group_name="private")
ISOLATED = ec2.SubnetSelection(subnet_group_name="isolated")

ENDPOINTS = {
    "Secrets": ec2.InterfaceVpcEndpointAwsService.SECRETS_MANAGER,
    "Queue": ec2.InterfaceVpcEndpointAwsService.SQS,  # the function makes a message visible again
    "Session": ec2.InterfaceVpcEndpointAwsService.SSM,  # these two: the bastion, which has no public address
    "SessionMessages": ec2.InterfaceVpcEndpointAwsService.SSM_MESSAGES,
}
"""Metrics and logs are not among them: the function writes both to its standard output, and Lambda carries them."""

ENDPOINTS_OF_A_FLEET = {
    "States": ec2.InterfaceVpcEndpointAwsService.STEP_FUNCTIONS,  # the function that loads starts an execution
    "Registry": ec2.InterfaceVpcEndpointAwsService.ECR,  # these three: the task, whose image comes from there, by way
    "Images": ec2.InterfaceVpcEndpointAwsService.ECR_DOCKER,  # of S3, and whose output nobody carries
    "Logs": ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
}
"""A month of them is what a fleet costs while nothing is loaded (docs/fleet.md)."""


class Network(Construct):
    """``vpc`` and its ``flow_logs``. Endpoints are added by `open_endpoints`, once there are security groups."""

    def __init__(self, scope: Construct, id: str, *, size: Size, cidr: str, retention: logs.RetentionDays) -> None:
        super().__init__(scope, id)
        self._size = size
        self.vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(cidr),
            max_azs=2,
            nat_gateways=size.nat_gateways,
            restrict_default_security_group=True,
            subnet_configuration=[
                ec2.SubnetConfiguration(
                    name="public", subnet_type=ec2.SubnetType.PUBLIC, cidr_mask=24, map_public_ip_on_launch=False
                ),
                ec2.SubnetConfiguration(
                    name="private", subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS, cidr_mask=22
                ),  # /22: a network interface a function, and room for more
                ec2.SubnetConfiguration(name="isolated", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED, cidr_mask=24),
            ],
        )
        self.flow_logs = logs.LogGroup(self, "FlowLogs", retention=retention)
        self._log_of_the_helper(retention)
        self.vpc.add_flow_log("Flow", destination=ec2.FlowLogDestination.to_cloud_watch_logs(self.flow_logs))
        self.vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3)

    def _log_of_the_helper(self, retention: logs.RetentionDays) -> None:
        """CDK has a function of its own close the default security group; its log would be kept for ever."""
        provider = Stack.of(self).node.find_child("Custom::VpcRestrictDefaultSGCustomResourceProvider")
        handler = provider.node.find_child("Handler")
        assert isinstance(handler, CfnResource)
        group = logs.LogGroup(self, "DefaultGroupLogs", retention=retention)
        handler.add_property_override("LoggingConfig.LogGroup", group.log_group_name)

    def open_endpoints(self, security_group: ec2.ISecurityGroup, *, fleet: bool) -> None:
        """The interface endpoints, in as many zones as the size pays for; each answers for the whole VPC."""
        zones = self.vpc.availability_zones[: self._size.endpoint_zones]
        for name, service in (ENDPOINTS | (ENDPOINTS_OF_A_FLEET if fleet else {})).items():
            self.vpc.add_interface_endpoint(
                name,
                service=service,
                subnets=ec2.SubnetSelection(subnet_group_name="private", availability_zones=zones),
                security_groups=[security_group],
                open=False,  # else CDK admits the whole VPC
            )
