"""The network: three kinds of subnets, and no way but those that are drawn."""

from __future__ import annotations

from typing import Any

from support.synthesis import Synthesis, Template

DATABASE_PORT = 15432
PARTIES = ("Loader", "Administrator", "Bastion")


def subnets(template: Template, kind: str) -> list[str]:
    return list(template.named("EC2::Subnet", f"NetworkVpc{kind}Subnet"))


def routes(template: Template, kind: str) -> list[dict[str, Any]]:
    return template.all("EC2::Route", f"NetworkVpc{kind}Subnet")


def group(template: Template, party: str) -> str:
    return f"{template.id('EC2::SecurityGroup', f'Firewall{party}')}.GroupId"


def rules(template: Template, direction: str) -> set[tuple[str, str, int]]:
    """Who, with whom, on which port: of all rules, wherever they stand."""
    found = set()
    peers = ("SourceSecurityGroupId", "DestinationSecurityGroupId", "DestinationPrefixListId", "CidrIp", "CidrIpv6")

    def add(owner: str, rule: dict[str, Any]) -> None:
        if rule.get("CidrIp") == "255.255.255.255/32":
            return  # CDK's way of writing "nothing": CloudFormation takes no rules for everything
        assert rule["IpProtocol"] == "tcp"
        assert rule["FromPort"] == rule["ToPort"]
        (peer,) = [rule[name] for name in peers if name in rule]
        found.add((owner, peer, rule["FromPort"]))

    for name in template.named("EC2::SecurityGroup"):
        for rule in template.properties(name).get(f"SecurityGroup{direction}", []):
            add(f"{name}.GroupId", rule)
    for rule in template.all(f"EC2::SecurityGroup{direction}"):
        add(rule["GroupId"], rule)
    return found


# --- subnets


def test_public_subnets_lead_to_the_internet_gateway(template: Template) -> None:
    """They hold NAT gateways and the bastion; nothing gets a public address by itself."""
    gateway = template.ref("EC2::InternetGateway")
    assert len(subnets(template, "public")) == 2
    assert {route["GatewayId"] for route in routes(template, "public")} == {gateway}
    assert not any(template.properties(name)["MapPublicIpOnLaunch"] for name in template.named("EC2::Subnet"))


def test_private_subnets_lead_to_a_nat_gateway(synthesis: Synthesis) -> None:
    """In prod each zone has its own."""
    for size, gateways in (("dev", 1), ("prod", 2)):
        template = synthesis.templates[size]
        assert len(template.named("EC2::NatGateway")) == gateways
        assert all(nat["SubnetId"] in subnets(template, "public") for nat in template.all("EC2::NatGateway"))
        assert {route["NatGatewayId"] for route in routes(template, "private")} == set(
            template.named("EC2::NatGateway")
        )


def test_isolated_subnets_lead_nowhere(template: Template) -> None:
    assert len(subnets(template, "isolated")) == 2
    assert routes(template, "isolated") == []


def test_functions_are_in_private_subnets(template: Template) -> None:
    """All that talk to the database; CDK's own helpers are in no VPC."""
    for name in template.our_functions:
        assert set(template.one("Lambda::Function", name)["VpcConfig"]["SubnetIds"]) == set(
            subnets(template, "private")
        )
    inside = [each for each in template.all("Lambda::Function") if "VpcConfig" in each]
    assert len(inside) == len(template.our_functions)


def test_the_database_is_in_isolated_subnets(template: Template) -> None:
    assert set(template.one("RDS::DBSubnetGroup")["SubnetIds"]) == set(subnets(template, "isolated"))


def test_the_bastion_is_in_a_public_subnet_without_a_public_address(template: Template) -> None:
    """Session Manager's endpoints are how it is reached."""
    (interface,) = template.one("EC2::Instance")["NetworkInterfaces"]
    assert interface["SubnetId"] in subnets(template, "public")
    assert interface["AssociatePublicIpAddress"] is False


def test_the_only_public_addresses_are_those_of_nat_gateways(template: Template) -> None:
    assert {nat["AllocationId"].partition(".")[0] for nat in template.all("EC2::NatGateway")} == set(
        template.named("EC2::EIP")
    )
    assert template.named("EC2::EIPAssociation") == {}


def test_the_address_range_is_a_parameter(synthesis: Synthesis) -> None:
    """All subnets lie in it."""
    for name, cidr, begins in (("dev", "10.0.0.0/16", "10.0."), ("options", "10.8.0.0/20", "10.8.")):
        template = synthesis.templates[name]
        assert template.one("EC2::VPC")["CidrBlock"] == cidr
        assert all(subnet["CidrBlock"].startswith(begins) for subnet in template.all("EC2::Subnet"))


# --- endpoints


def test_s3_is_reached_by_a_gateway_endpoint(template: Template) -> None:
    """From every subnet: gigabytes neither leave the network nor pay a NAT gateway."""
    (endpoint,) = [each for each in template.all("EC2::VPCEndpoint") if each["VpcEndpointType"] == "Gateway"]
    assert endpoint["ServiceName"] == "com.amazonaws.eu-central-1.s3"
    assert set(endpoint["RouteTableIds"]) == set(template.named("EC2::RouteTable"))


def test_services_are_reached_by_interface_endpoints(synthesis: Synthesis) -> None:
    """By their usual names; in prod in each zone."""
    for size, zones in (("dev", 1), ("prod", 2)):
        template = synthesis.templates[size]
        endpoints = [each for each in template.all("EC2::VPCEndpoint") if each["VpcEndpointType"] == "Interface"]
        services = {each["ServiceName"].rpartition(".")[2] for each in endpoints}
        assert services == {"secretsmanager", "sqs", "ssm", "ssmmessages"}
        for endpoint in endpoints:
            assert endpoint["PrivateDnsEnabled"] is True
            assert len(endpoint["SubnetIds"]) == zones
            assert set(endpoint["SubnetIds"]) <= set(subnets(template, "private"))
            assert endpoint["SecurityGroupIds"] == [group(template, "Endpoints")]


def test_a_fleet_has_endpoints_of_its_own(synthesis: Synthesis) -> None:
    """To be started, and for the task's image and log: nothing of it passes the NAT gateway."""
    names = {
        variant: {each["ServiceName"] for each in synthesis.templates[variant].all("EC2::VPCEndpoint")}
        for variant in ("dev", "fleet")
    }
    added = {name.removeprefix("com.amazonaws.eu-central-1.") for name in names["fleet"] - names["dev"]}
    assert added == {"states", "ecr.api", "ecr.dkr", "logs"}


# --- security groups


def test_what_may_come_in_is_drawn(template: Template) -> None:
    """From security groups alone, never from an address; and nothing at all to the functions and the bastion."""
    database, endpoints = group(template, "Database"), group(template, "Endpoints")
    assert rules(template, "Ingress") == {
        (target, group(template, party), port)
        for party in (*PARTIES, *(("Task",) if template.has_fleet else ()))
        for target, port in ((database, DATABASE_PORT), (endpoints, 443))
    }


def test_what_may_go_out_is_drawn(synthesis: Synthesis) -> None:
    """To the database, the endpoints and S3; from the database and the endpoints nothing goes out."""
    for size, task in (("dev", ()), ("prod", ()), ("fleet", ("Task",))):
        template = synthesis.templates[size]
        database, endpoints = group(template, "Database"), group(template, "Endpoints")
        s3 = f"{template.id('Custom::PrefixListOfS3')}.PrefixLists.0.PrefixListId"
        drawn = {
            (group(template, party), target, port)
            for party in (*PARTIES, *task)
            for target, port in ((database, DATABASE_PORT), (endpoints, 443))
        }
        drawn |= {(group(template, party), s3, 443) for party in ("Loader", "Bastion", *task)}
        assert rules(template, "Egress") == drawn


def test_calling_out_is_an_option(synthesis: Synthesis) -> None:
    """For the functions that load alone, and by HTTPS."""
    template = synthesis.templates["options"]
    open_rules = {rule for rule in rules(template, "Egress") if rule[1] == "0.0.0.0/0"}
    assert open_rules == {(group(template, "Loader"), "0.0.0.0/0", 443)}


def test_every_party_has_its_own_group(template: Template) -> None:
    functions = {name: template.one("Lambda::Function", f"{name}Function") for name in ("Load", "Administration")}
    assert functions["Load"]["VpcConfig"]["SecurityGroupIds"] == [group(template, "Loader")]
    assert functions["Administration"]["VpcConfig"]["SecurityGroupIds"] == [group(template, "Administrator")]
    assert template.one("RDS::DBInstance")["VPCSecurityGroups"] == [group(template, "Database")]
    assert template.one("EC2::Instance")["NetworkInterfaces"][0]["GroupSet"] == [group(template, "Bastion")]


def test_the_default_group_is_closed(template: Template) -> None:
    """What somebody forgets to put into a group gets nowhere."""
    assert len(template.named("Custom::VpcRestrictDefaultSG")) == 1


def test_flows_are_logged(template: Template) -> None:
    flow = template.one("EC2::FlowLog")
    assert flow["TrafficType"] == "ALL"
    assert flow["LogGroupName"] == template.id("Logs::LogGroup", "NetworkFlowLogs")
