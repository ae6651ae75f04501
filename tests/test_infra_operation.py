"""How it is looked after: the bastion, logs, metrics, alarms, and what the stack tells."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
from support.iam import is_allowed
from support.synthesis import ACCOUNT, ROOT, Synthesis, Template

METRICS = {
    "Loads", "LoadsFailed", "LoadsSuperseded", "RowsRead", "RowsRejected", "RowsPerSecond", "BytesRead", "Seconds",
    "Lag",
}  # fmt: skip
"""What the function writes, in namespace ``Loader`` with the dimension ``service``."""


# --- the bastion


def test_the_bastion_has_no_way_in_but_session_manager(template: Template) -> None:
    """No key pair, no rule that lets anybody in (`test_infra_network`), no public address."""
    bastion = template.one("EC2::Instance")
    assert "KeyName" not in bastion
    assert template.named("EC2::KeyPair") == {}


def test_the_bastion_is_hardened(template: Template) -> None:
    """IMDSv2 alone, an encrypted disk, watched each minute."""
    bastion = template.one("EC2::Instance")
    (disk,) = bastion["BlockDeviceMappings"]
    assert disk["Ebs"]["Encrypted"] is True
    assert bastion["Monitoring"] is True
    options = template.one("EC2::LaunchTemplate")["LaunchTemplateData"]["MetadataOptions"]
    assert options["HttpTokens"] == "required"


def user_data(template: Template) -> str:
    script: str = template.one("EC2::Instance")["UserData"]
    return script


def test_the_bastion_has_psql_ready(template: Template) -> None:
    """Its set-up is a script that bash can read, and so is the command that it writes, which holds no password."""
    script = user_data(template)
    assert re.search(r"dnf install -y postgresql\$version", script)
    command = re.search(r"<<'END_OF_SCRIPT'\n(.*?)END_OF_SCRIPT", script, re.DOTALL)
    assert command is not None
    for text in (script, command[1]):
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert "PGSSLMODE=verify-full" in command[1]
    assert "get-secret-value" in command[1]
    assert 'exec psql "$@"' in command[1]


def test_the_bastions_command_logs_in_with_what_the_secret_says(template: Template, tmp_path: Any) -> None:
    """Run, with stand-ins for the AWS command line and psql: odd characters of a password come through."""
    command = re.search(r"<<'END_OF_SCRIPT'\n(.*?)END_OF_SCRIPT", user_data(template), re.DOTALL)
    assert command is not None
    password = """a'b"c$d\\e`f g"""
    (tmp_path / "secret").write_text(json.dumps({"username": "loader_master", "password": password}))
    (tmp_path / "aws").write_text(f"#!/bin/bash\ncat {tmp_path}/secret\n")
    (tmp_path / "psql").write_text('#!/bin/bash\nprintf "%s\\n" "$PGUSER" "$PGPASSWORD" "$PGSSLMODE" "$PGPORT" "$@"\n')
    for name in ("aws", "psql"):
        (tmp_path / name).chmod(0o755)
    run = subprocess.run(
        ["bash", "-s", "-", "-c", "SELECT 1"],
        input=command[1],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin:/usr/local/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.splitlines() == ["loader_master", password, "verify-full", "15432", "-c", "SELECT 1"]


def test_connecting_is_one_line(template: Template) -> None:
    """Which ends in psql's prompt."""
    command = template.resolve(template.body["Outputs"]["ConnectCommand"]["Value"])
    assert "\n" not in command
    assert re.fullmatch(
        r"aws ssm start-session --region \S+ --target Bastion\S+ --document-name AWS-StartInteractiveCommand "
        r"--parameters command=/usr/local/bin/loader-psql",
        command,
    )
    assert "cat > /usr/local/bin/loader-psql" in user_data(template)


# --- logs


def test_every_log_group_ends(synthesis: Synthesis) -> None:
    """None keeps for ever; every function writes to one of them."""
    for size, days in (("dev", 30), ("prod", 365), ("fleet", 30)):
        template = synthesis.templates[size]
        assert {group["RetentionInDays"] for group in template.all("Logs::LogGroup")} == {days}
        functions = template.all("Lambda::Function")
        assert len(functions) == 3 + len(template.our_functions)  # the others are CDK's helpers
        for function in functions:
            assert function["LoggingConfig"]["LogGroup"] in template.named("Logs::LogGroup")


def test_the_database_writes_to_groups_that_end(template: Template) -> None:
    """Made before it, else RDS makes them, without an end."""
    database = template.one("RDS::DBInstance")
    assert database["EnableCloudwatchLogsExports"] == ["postgresql", "upgrade"]
    for kind in database["EnableCloudwatchLogsExports"]:
        name = template.id("Logs::LogGroup", f"DatabaseLogs{kind.capitalize()}")
        expected = f"/aws/rds/instance/{database['DBInstanceIdentifier']}/{kind}"
        assert template.properties(name)["LogGroupName"] == expected
        assert name in template.resources[template.id("RDS::DBInstance")]["DependsOn"]


def test_the_functions_logs_are_json(template: Template) -> None:
    for name in template.our_functions:
        assert template.one("Lambda::Function", name)["LoggingConfig"]["LogFormat"] == "JSON"


# --- metrics and alarms


def dashboard_metrics(template: Template) -> list[list[Any]]:
    body = json.loads(template.one("CloudWatch::Dashboard")["DashboardBody"])
    return [metric for widget in body["widgets"] for metric in widget["properties"].get("metrics", [])]


def test_the_dashboard_shows_what_the_function_tells(template: Template) -> None:
    """Every metric of its own, with its dimension."""
    own = [metric for metric in dashboard_metrics(template) if metric[0] == "Loader"]
    assert {metric[1] for metric in own} == METRICS
    assert all(metric[2:4] == ["service", "loader"] for metric in own)


@pytest.mark.parametrize(
    ("namespace", "metric"),
    [
        ("AWS/SQS", "ApproximateNumberOfMessagesVisible"),
        ("AWS/SQS", "ApproximateAgeOfOldestMessage"),
        ("AWS/Lambda", "Errors"),
        ("AWS/Lambda", "Throttles"),
        ("AWS/RDS", "CPUUtilization"),
        ("AWS/RDS", "DatabaseConnections"),
        ("AWS/RDS", "FreeStorageSpace"),
    ],
)
def test_the_dashboard_shows_what_is_around_it(template: Template, namespace: str, metric: str) -> None:
    assert [namespace, metric] in [each[:2] for each in dashboard_metrics(template)]


def test_the_dead_letters_are_on_the_dashboard(template: Template) -> None:
    queues = {each[3].partition(".")[0] for each in dashboard_metrics(template) if each[0] == "AWS/SQS"}
    assert queues == set(template.named("SQS::Queue"))


ALARMS = {
    "DeadLetters": ("AWS/SQS", "ApproximateNumberOfMessagesVisible", "GreaterThanOrEqualToThreshold", 1),
    "LoadsFailed": ("Loader", "LoadsFailed", "GreaterThanOrEqualToThreshold", 1),
    "LoadsSuperseded": ("Loader", "LoadsSuperseded", "GreaterThanOrEqualToThreshold", 1),
    "FunctionErrors": ("AWS/Lambda", "Errors", "GreaterThanOrEqualToThreshold", 1),
    "QueueAge": ("AWS/SQS", "ApproximateAgeOfOldestMessage", "GreaterThanOrEqualToThreshold", 3600),
    "DatabaseStorage": ("AWS/RDS", "FreeStorageSpace", "LessThanThreshold", None),
    "DatabaseCpu": ("AWS/RDS", "CPUUtilization", "GreaterThanOrEqualToThreshold", 90),
    "FleetFailed": ("AWS/States", "ExecutionsFailed", "GreaterThanOrEqualToThreshold", 1),
}


def test_alarms_are_those_that_the_guide_explains(template: Template) -> None:
    """Each publishes to the topic when it goes off and when it is over; docs/operate.md says what to do."""
    guide = (ROOT / "docs" / "operate.md").read_text("utf-8")
    topic = template.id("SNS::Topic")
    found = {alarm["AlarmName"].rpartition("-")[2]: alarm for alarm in template.all("CloudWatch::Alarm")}
    assert found.keys() == ALARMS.keys() - (set() if template.has_fleet else {"FleetFailed"})
    for name, alarm in found.items():
        namespace, metric, comparison, threshold = ALARMS[name]
        assert (alarm["Namespace"], alarm["MetricName"]) == (namespace, metric)
        assert alarm["ComparisonOperator"] == comparison
        assert threshold is None or alarm["Threshold"] == threshold
        assert alarm["AlarmActions"] == alarm["OKActions"] == [topic]
        assert alarm["TreatMissingData"] == "notBreaching"
        assert f"### {name}" in guide


def test_storage_alarms_at_a_tenth(synthesis: Synthesis) -> None:
    for template in synthesis.templates.values():
        alarm = template.one("CloudWatch::Alarm", "ObservabilityDatabaseStorage")
        allocated = int(template.one("RDS::DBInstance")["AllocatedStorage"])
        assert alarm["Threshold"] == allocated * 2**30 // 10


def test_the_topic_is_encrypted_and_speaks_tls_only(template: Template) -> None:
    """CloudWatch's alarms of this account may publish; a key of AWS's own would keep them from it."""
    topic = template.one("SNS::Topic")
    assert topic["KmsMasterKeyId"] == template.arn("KMS::Key", "ObservabilityKey")
    statements = template.one("SNS::TopicPolicy")["PolicyDocument"]["Statement"]
    arn, ours = template.id("SNS::Topic"), {"aws:SecureTransport": "true", "aws:SourceAccount": ACCOUNT}
    assert is_allowed(statements, "sns:Publish", arn, ours)
    assert not is_allowed(statements, "sns:Publish", arn, {**ours, "aws:SourceAccount": "999988887777"})
    assert not is_allowed(statements, "sns:Publish", arn, {**ours, "aws:SecureTransport": "false"})
    allowed = [each["Principal"] for each in statements if each["Effect"] == "Allow"]
    assert allowed == [{"Service": "cloudwatch.amazonaws.com"}]


def test_alarms_are_mailed_where_an_address_is_given(synthesis: Synthesis) -> None:
    (subscription,) = synthesis.templates["options"].all("SNS::Subscription")
    assert subscription["Endpoint"] == "someone@example.com"
    assert synthesis.templates["prod"].all("SNS::Subscription") == []


# --- the stack


def test_the_stack_tells_what_the_guides_ask_for(template: Template) -> None:
    """Every output that a command in docs/ names is one of the stack's; the fleet's, where there is one."""
    named = set()
    for guide in ("deploy.md", "operate.md"):
        named |= set(re.findall(r"\bout ([A-Z]\w+)", (ROOT / "docs" / guide).read_text("utf-8")))
    of_fleet = {"StateMachine", "FleetLogGroup"}
    assert named > of_fleet
    assert named - (set() if template.has_fleet else of_fleet) <= template.body["Outputs"].keys()


NAMES = {
    "S3::Bucket": "BucketName",
    "SQS::Queue": "QueueName",
    "RDS::DBInstance": "DBInstanceIdentifier",
    "Logs::LogGroup": "LogGroupName",
    "CloudWatch::Alarm": "AlarmName",
    "CloudWatch::Dashboard": "DashboardName",
    "EC2::LaunchTemplate": "LaunchTemplateName",
}


def test_sizes_live_side_by_side(synthesis: Synthesis) -> None:
    """In one account and region: what has a name given to it has one that tells the size."""
    for kind, key in NAMES.items():
        dev, prod = (
            [each[key] for each in synthesis.templates[size].all(kind) if key in each] for size in ("dev", "prod")
        )
        assert dev, kind
        assert not set(dev) & set(prod)


def test_prod_cannot_be_torn_down_by_mistake(synthesis: Synthesis) -> None:
    """The stack has termination protection, by which CloudFormation refuses; dev has not."""
    for size, protected in (("dev", False), ("prod", True)):
        manifest = json.loads((synthesis.templates[size].folder / "manifest.json").read_text("utf-8"))
        stack = manifest["artifacts"][f"Loader-{size}"]["properties"]
        assert stack.get("terminationProtection", False) is protected
        assert stack["stackName"] == f"csv-loader-{size}"
