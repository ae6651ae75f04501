"""What cdk-nag finds (its pack AwsSolutions) and is to stay as it is: where, what, and why.

A finding that is not here makes synthesis fail. One that is here and is found no more fails a test.
"""

from __future__ import annotations

from dataclasses import dataclass

from aws_cdk import Acknowledgment, Stack, Validations
from constructs import IConstruct

from infra.sizes import Size

LOG_ONLY = "A helper of CDK's own, with CDK's own role: the managed policy allows it to write its log and nothing else."
BASIC_EXECUTION = "IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole]"
NETWORK = (
    "Lambda asks whether it may make network interfaces before there are any to be named (Lambda developer guide, "
    "'Giving Lambda functions access to resources in an Amazon VPC'). The function's own code is denied these actions."
)


@dataclass(frozen=True, slots=True)
class Finding:
    """``path``: of the construct, below the stack. ``rule``: without the pack's name."""

    path: str
    rule: str
    reason: str


def acknowledged(size: Size, stack_name: str, *, fleet: bool = False) -> list[Finding]:
    """The findings of a stack of this size. Pseudo parameters are spelt as cdk-nag spells them."""
    objects = f"IAM5[Resource::arn:<AWS::Partition>:s3:::{stack_name}-incoming-<AWS::AccountId>-<AWS::Region>/"
    findings = [
        Finding("Load/Role/DefaultPolicy", "IAM5[Resource::*]", NETWORK),
        Finding("Administration/Role/DefaultPolicy", "IAM5[Resource::*]", NETWORK),
        Finding(
            "Load/Role/DefaultPolicy",
            f"{objects}incoming/*]",
            "The objects' names are their uploaders' to choose; the right is to read, below this prefix.",
        ),
        Finding(
            "Load/Role/DefaultPolicy",
            f"{objects}specs/*]",
            "Specs are added without a deployment, so no name is known; the right is to read, below this prefix.",
        ),
        Finding(
            "Bastion/Role/DefaultPolicy",
            "IAM5[Resource::*]",
            "The agent's actions towards Session Manager know no resources (Service Authorization Reference).",
        ),
        Finding(
            "Bastion/Instance",
            "EC29",
            "The bastion holds nothing, and is replaced whenever its image or its set-up changes.",
        ),
        Finding(
            "Firewall/PrefixListOfS3/CustomResourcePolicy",
            "IAM5[Resource::*]",
            "ec2:DescribeManagedPrefixLists knows no resources (Service Authorization Reference, Amazon EC2).",
        ),
        Finding("AWS679f53fac002430cb0da5b7982bd2287/ServiceRole", BASIC_EXECUTION, LOG_ONLY),
        Finding("Administration/Provider/framework-onEvent/ServiceRole", BASIC_EXECUTION, LOG_ONLY),
        Finding(
            "Administration/Provider/framework-onEvent/ServiceRole/DefaultPolicy",
            "IAM5[Resource::<AdministrationFunction7D633CB8.Arn>:*]",
            "CDK's framework for custom resources may call this one function, in each of its versions.",
        ),
    ]
    if fleet:
        findings += _of_fleet(stack_name)
    if not size.multi_az:
        findings.append(Finding("Database/Instance", "RDS3", f"The size {size.name} saves the standby; prod has one."))
    if not size.protected:
        findings.append(
            Finding(
                "Database/Instance",
                "RDS10",
                f"The size {size.name} can be torn down at once, and leaves a snapshot; prod is protected.",
            )
        )
    return findings


def _of_fleet(stack_name: str) -> list[Finding]:
    """Those that come with `infra.fleet`."""
    objects = f"IAM5[Resource::arn:<AWS::Partition>:s3:::{stack_name}-incoming-<AWS::AccountId>-<AWS::Region>/"
    here = "<AWS::Region>:<AWS::AccountId>"
    below = {
        "incoming": "The objects' names are their uploaders' to choose; the right is to read, below this prefix.",
        "specs": "Specs are added without a deployment, so no name is known; the right is to read, below this prefix.",
        "fleet": "Plans are named by executions of the state machine, whose names are not known when it is deployed.",
    }
    roles = {"FunctionRole": below, "TaskRole": below, "Role": {"fleet": below["fleet"]}}
    return [
        *(
            Finding(f"Fleet/{role}/DefaultPolicy", f"{objects}{prefix}/*]", reason)
            for role, reasons in roles.items()
            for prefix, reason in reasons.items()
        ),
        Finding("Fleet/FunctionRole/DefaultPolicy", "IAM5[Resource::*]", NETWORK),
        Finding(
            "Fleet/StartRole/DefaultPolicy",
            "IAM5[Resource::*]",
            "ecr:GetAuthorizationToken knows no resources (Service Authorization Reference, Amazon ECR).",
        ),
        Finding(
            "Fleet/Role/DefaultPolicy",
            "IAM5[Resource::*]",
            "Deliveries of logs and traces know no resources"
            " (Service Authorization Reference, CloudWatch Logs; X-Ray).",
        ),
        *(
            Finding(
                "Fleet/Role/DefaultPolicy",
                f"IAM5[Resource::arn:<AWS::Partition>:states:{here}:execution:{stack_name}-fleet{shards}:*]",
                "Executions of this one machine and of its shards get their names when they are started.",
            )
            for shards in ("", "/Shards")
        ),
        Finding(
            "Fleet/Role/DefaultPolicy",
            f"IAM5[Resource::arn:<AWS::Partition>:ecs:{here}:task/<FleetClusterE89F8D7D>/*]",
            "Tasks get their names when they are run; the right is for those of this one cluster, the fleet's own.",
        ),
        Finding(
            "Fleet/Task",
            "ECS2",
            "The environment names the secret and the bucket, as the functions' does; nothing in it is secret itself.",
        ),
    ]


def acknowledge(stack: Stack, findings: list[Finding]) -> None:
    """Raises RuntimeError where there is no such construct."""
    for finding in findings:
        construct: IConstruct = stack
        for part in finding.path.split("/"):
            construct = construct.node.find_child(part)
        Validations.of(construct).acknowledge(Acknowledgment(id=f"AwsSolutions-{finding.rule}", reason=finding.reason))
