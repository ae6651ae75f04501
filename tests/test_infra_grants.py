"""The roles can do what they must, and nothing else: their own statements, put to a list of calls."""

from __future__ import annotations

from typing import Any

import pytest
from support.iam import as_list, is_allowed, is_denied
from support.synthesis import ACCOUNT, REGION, Synthesis, Template

S3_KEY = {"kms:ViaService": f"s3.{REGION}.amazonaws.com"}
SECRETS_KEY = {"kms:ViaService": f"secretsmanager.{REGION}.amazonaws.com"}
ANY = "*"


class Names:
    """ARNs of a template's resources."""

    def __init__(self, template: Template) -> None:
        self.bucket = template.arn("S3::Bucket", "StorageBucket")
        self.access_logs = template.arn("S3::Bucket", "StorageAccessLogs")
        self.queue = template.arn("SQS::Queue", "IntakeQueue")
        self.dead_letters = template.arn("SQS::Queue", "IntakeDeadLetters")
        self.secret = template.arn("SecretsManager::Secret", "DatabaseSecret")
        self.master = template.resolve({"Fn::GetAtt": [template.id("RDS::DBInstance"), "MasterUserSecret.SecretArn"]})
        self.bucket_key = template.arn("KMS::Key", "StorageKey")
        self.database_key = template.arn("KMS::Key", "DatabaseKey")
        self.function = template.arn("Lambda::Function", "LoadFunction")
        self.administrator = template.arn("Lambda::Function", "AdministrationFunction")
        self.plan = f"{self.bucket}/fleet/load-0123/plan.json"
        if template.has_fleet:
            self.machine = template.arn("StepFunctions::StateMachine")
            self.fleet = template.arn("Lambda::Function", "FleetFunction")
            self.shard = f"{self.machine.replace(':stateMachine:', ':execution:')}/Shards:0123"
            self.task = template.arn("ECS::TaskDefinition")
        self.log = template.arn("Logs::LogGroup", "LoadLogs").removesuffix("*") + "log-stream:2026/11/23/[$LATEST]0"


def load_statements(template: Template) -> list[dict[str, Any]]:
    return template.policies_of(template.id("IAM::Role", "LoadRole"))


def test_the_loader_can_do_what_it_must(template: Template) -> None:
    """Each call that the handler makes, and those that Lambda makes for it."""
    statements, at = load_statements(template), Names(template)
    for action, resource, context in (
        ("s3:GetObject", f"{at.bucket}/incoming/trips/2026 05.csv", {}),
        ("s3:GetObjectVersion", f"{at.bucket}/incoming/a.csv", {}),
        ("s3:GetObjectAttributes", f"{at.bucket}/incoming/a.csv", {}),
        ("s3:GetObjectVersionAttributes", f"{at.bucket}/incoming/a.csv", {}),
        ("s3:GetObject", f"{at.bucket}/specs/trips.toml", {}),
        ("s3:ListBucket", at.bucket, {}),
        ("s3:ListBucketVersions", at.bucket, {}),
        ("kms:Decrypt", at.bucket_key, S3_KEY),
        ("sqs:ReceiveMessage", at.queue, {}),
        ("sqs:DeleteMessage", at.queue, {}),
        ("sqs:GetQueueAttributes", at.queue, {}),
        ("sqs:ChangeMessageVisibility", at.queue, {}),
        ("sqs:SendMessage", at.dead_letters, {}),
        ("secretsmanager:GetSecretValue", at.secret, {}),
        ("kms:Decrypt", at.database_key, SECRETS_KEY),
        ("logs:CreateLogStream", at.log, {}),
        ("logs:PutLogEvents", at.log, {}),
        ("ec2:CreateNetworkInterface", ANY, {}),  # Lambda, before there is a function
        ("ec2:DeleteNetworkInterface", ANY, {}),
    ):
        assert is_allowed(statements, action, resource, context), f"{action} {resource}"
    if template.has_fleet:
        assert is_allowed(statements, "states:StartExecution", at.machine)


def test_the_loader_can_do_nothing_else(template: Template) -> None:
    """What somebody would want who has got hold of its role."""
    statements, at = load_statements(template), Names(template)
    for action, resource, context in (
        ("s3:PutObject", f"{at.bucket}/incoming/a.csv", {}),
        ("s3:DeleteObject", f"{at.bucket}/incoming/a.csv", {}),
        ("s3:DeleteObjectVersion", f"{at.bucket}/incoming/a.csv", {}),
        ("s3:PutObject", f"{at.bucket}/specs/a.toml", {}),
        ("s3:GetObject", f"{at.bucket}/other/a.csv", {}),
        ("s3:GetObject", at.plan, {}),
        ("s3:PutObject", at.plan, {}),
        ("states:StartExecution", f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:another", {}),
        ("states:StopExecution", ANY, {}),
        ("s3:GetObject", f"{at.access_logs}/a", {}),
        ("s3:GetObject", f"{at.bucket}-2/incoming/a.csv", {}),
        ("s3:ListBucket", at.access_logs, {}),
        ("s3:PutBucketPolicy", at.bucket, {}),
        ("s3:PutBucketNotification", at.bucket, {}),
        ("s3:ListAllMyBuckets", ANY, {}),
        ("kms:Decrypt", at.bucket_key, {}),
        ("kms:Decrypt", at.bucket_key, SECRETS_KEY),
        ("kms:Decrypt", at.database_key, S3_KEY),
        ("kms:GenerateDataKey", at.bucket_key, S3_KEY),
        ("kms:CreateGrant", at.database_key, SECRETS_KEY),
        ("kms:ScheduleKeyDeletion", at.bucket_key, {}),
        ("secretsmanager:GetSecretValue", at.master, {}),
        ("secretsmanager:GetSecretValue", f"{at.secret}-2", {}),
        ("secretsmanager:PutSecretValue", at.secret, {}),
        ("secretsmanager:ListSecrets", ANY, {}),
        ("sqs:SendMessage", at.queue, {}),
        ("sqs:PurgeQueue", at.queue, {}),
        ("sqs:ReceiveMessage", at.dead_letters, {}),
        ("sqs:DeleteMessage", at.dead_letters, {}),
        ("lambda:InvokeFunction", at.function, {}),
        ("lambda:InvokeFunction", at.administrator, {}),
        ("lambda:UpdateFunctionCode", at.function, {}),
        ("logs:PutLogEvents", f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:another:log-stream:a", {}),
        ("logs:CreateLogGroup", ANY, {}),
        ("logs:DeleteLogGroup", at.log, {}),
        ("rds:DeleteDBInstance", ANY, {}),
        ("rds-db:connect", ANY, {}),
        ("iam:PassRole", ANY, {}),
        ("sts:AssumeRole", ANY, {}),
        ("ec2:RunInstances", ANY, {}),
        ("ec2:DescribeInstances", ANY, {}),
    ):
        assert not is_allowed(statements, action, resource, context), f"{action} {resource}"


@pytest.mark.parametrize(("role", "function"), [("LoadRole", "function"), ("AdministrationRole", "administrator")])
def test_a_functions_code_leaves_the_network_alone(template: Template, role: str, function: str) -> None:
    """Lambda has to make network interfaces with the role; a call from the function's own code carries its ARN."""
    statements = template.policies_of(template.id("IAM::Role", role))
    own = {"lambda:SourceFunctionArn": getattr(Names(template), function)}
    for action in ("CreateNetworkInterface", "DeleteNetworkInterface", "DescribeNetworkInterfaces", "DescribeSubnets"):
        assert is_allowed(statements, f"ec2:{action}", ANY)
        assert is_denied(statements, f"ec2:{action}", ANY, own)


def test_the_administrator_can_do_what_it_must_and_nothing_else(template: Template) -> None:
    """Both secrets, and the loader's new one; neither files nor messages."""
    statements, at = template.policies_of(template.id("IAM::Role", "AdministrationRole")), Names(template)
    for action, resource, context, allowed in (
        ("secretsmanager:GetSecretValue", at.master, {}, True),
        ("secretsmanager:GetSecretValue", at.secret, {}, True),
        ("secretsmanager:DescribeSecret", at.secret, {}, True),
        ("secretsmanager:PutSecretValue", at.secret, {}, True),
        ("secretsmanager:UpdateSecretVersionStage", at.secret, {}, True),
        ("kms:Decrypt", at.database_key, SECRETS_KEY, True),
        ("kms:GenerateDataKey", at.database_key, SECRETS_KEY, True),
        ("secretsmanager:PutSecretValue", at.master, {}, False),
        ("secretsmanager:DeleteSecret", at.secret, {}, False),
        ("secretsmanager:PutResourcePolicy", at.secret, {}, False),
        ("secretsmanager:GetSecretValue", f"{at.master}-2", {}, False),
        ("kms:Decrypt", at.database_key, {}, False),
        ("kms:Decrypt", at.bucket_key, S3_KEY, False),
        ("s3:GetObject", f"{at.bucket}/incoming/a.csv", {}, False),
        ("sqs:ReceiveMessage", at.queue, {}, False),
        ("rds:ModifyDBInstance", ANY, {}, False),
        ("logs:PutLogEvents", at.log, {}, False),
    ):
        assert is_allowed(statements, action, resource, context) is allowed, f"{action} {resource}"


def test_the_bastion_can_do_what_it_must_and_nothing_else(template: Template) -> None:
    """Session Manager, the master's secret, and the certificates; no parameters, files or keys."""
    statements, at = template.policies_of(template.id("IAM::Role", "BastionRole")), Names(template)
    for action, resource, allowed in (
        ("ssm:UpdateInstanceInformation", ANY, True),
        ("ssmmessages:OpenDataChannel", ANY, True),
        ("secretsmanager:GetSecretValue", at.master, True),
        ("ssm:GetParameter", ANY, False),
        ("ssm:SendCommand", ANY, False),
        ("secretsmanager:GetSecretValue", at.secret, False),
        ("s3:GetObject", f"{at.bucket}/incoming/a.csv", False),
        ("s3:GetObject", f"arn:aws:s3:::cdk-hnb659fds-assets-{ACCOUNT}-{REGION}/another.zip", False),
        ("kms:Decrypt", at.database_key, False),
    ):
        assert is_allowed(statements, action, resource) is allowed, f"{action} {resource}"
    (certificates,) = [each for each in statements if each["Sid"] == "ReadCertificates"]
    assert certificates["Resource"].endswith(".pem")
    assert ANY not in certificates["Resource"]


def test_no_wildcard_stands_where_a_name_can(template: Template) -> None:
    """In the policies of our roles: no action has one, and of the resources those that are listed here."""
    at = Names(template)
    found = set()
    for role in template.our_roles:
        for statement in template.policies_of(template.id("IAM::Role", role)):
            assert not any(ANY in action for action in as_list(statement["Action"])), statement["Sid"]
            found |= {(role, statement["Sid"], each) for each in as_list(statement["Resource"]) if ANY in each}
    logs = {(role, "WriteLog", template.arn("Logs::LogGroup", f"{role.removesuffix('Role')}Logs")) for role in (
        "LoadRole", "AdministrationRole")}  # fmt: skip
    if template.has_fleet:
        logs |= wildcards_of_the_fleet(template, at)
    assert found == logs | {
        ("LoadRole", "ReadObjects", f"{at.bucket}/incoming/*"),
        ("LoadRole", "ReadObjects", f"{at.bucket}/specs/*"),
        ("LoadRole", "ConnectToVpc", ANY),
        ("LoadRole", "CodeLeavesTheVpcAlone", ANY),
        ("AdministrationRole", "ConnectToVpc", ANY),
        ("AdministrationRole", "CodeLeavesTheVpcAlone", ANY),
        ("BastionRole", "SessionManager", ANY),
    }


def wildcards_of_the_fleet(template: Template, at: Names) -> set[tuple[str, str, str]]:
    """Objects and plans, log streams, and what AWS's own services take for no resource."""
    objects = [("ReadObjects", f"{at.bucket}/incoming/*"), ("ReadObjects", f"{at.bucket}/specs/*")]
    found = {(role, *each) for role in ("FleetFunctionRole", "FleetTaskRole") for each in objects}
    return found | {
        ("FleetFunctionRole", "KeepPlans", f"{at.bucket}/fleet/*"),
        ("FleetTaskRole", "KeepPlans", f"{at.bucket}/fleet/*"),
        ("FleetRole", "ReadPlans", f"{at.bucket}/fleet/*"),
        ("FleetFunctionRole", "WriteLog", template.arn("Logs::LogGroup", "FleetLogs")),
        ("FleetStartRole", "WriteLog", template.arn("Logs::LogGroup", "FleetTaskLogs")),
        ("FleetFunctionRole", "ConnectToVpc", ANY),
        ("FleetFunctionRole", "CodeLeavesTheVpcAlone", ANY),
        ("FleetStartRole", "LogInToRegistry", ANY),
        ("FleetRole", "DeliverLog", ANY),
        ("FleetRole", "Trace", ANY),
        ("FleetRole", "FollowShards", at.shard.replace("0123", ANY)),
        ("FleetRole", "FollowShards", at.shard.replace("/Shards:0123", f":{ANY}")),
        ("FleetRole", "RedriveShards", at.shard.replace("0123", ANY)),
        ("FleetRole", "FollowTask", f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/{template.id('ECS::Cluster')}/*"),
    }


def test_our_roles_have_no_managed_policies(template: Template) -> None:
    """Those of AWS are made for everybody, and change."""
    for role in template.our_roles:
        assert "ManagedPolicyArns" not in template.one("IAM::Role", role)


def test_roles_are_assumed_by_services_only(template: Template) -> None:
    """Of AWS, never by another account."""
    services = set()
    for role in template.all("IAM::Role"):
        for statement in role["AssumeRolePolicyDocument"]["Statement"]:
            assert statement["Principal"].keys() == {"Service"}
            services.add(statement["Principal"]["Service"])
    fleets = {"states.amazonaws.com", "ecs-tasks.amazonaws.com"} if template.has_fleet else set()
    assert services == {"lambda.amazonaws.com", "ec2.amazonaws.com", "vpc-flow-logs.amazonaws.com"} | fleets


def test_every_statement_of_ours_has_a_name(synthesis: Synthesis) -> None:
    """By which AWS's messages of refusal, and these tests, tell it."""
    template = synthesis.templates["options"]
    for role in template.our_roles:
        names = [each["Sid"] for each in template.policies_of(template.id("IAM::Role", role))]
        assert len(names) == len(set(names))
