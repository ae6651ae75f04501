"""The fleet: the machine's definition, the task, and what their roles may do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from support.iam import is_allowed
from support.synthesis import ACCOUNT, REGION, Synthesis, Template
from test_infra_grants import ANY, S3_KEY, SECRETS_KEY, Names


@pytest.fixture(params=["fleet", "options"])
def template(request: pytest.FixtureRequest, synthesis: Synthesis) -> Template:
    """The variants that have one."""
    return synthesis.templates[request.param]


def definition(template: Template) -> dict[str, Any]:
    found: dict[str, Any] = template.one("StepFunctions::StateMachine")["Definition"]
    return found


def states(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    """All, those of the shards among them."""
    for name, state in definition(template)["States"].items():
        yield name, state
        yield from state.get("ItemProcessor", {}).get("States", {}).items()


def test_a_fleet_is_an_option(synthesis: Synthesis) -> None:
    """Without it there is neither a machine nor an endpoint that costs anything, and the function loads all itself."""
    for variant in ("dev", "prod"):
        template = synthesis.templates[variant]
        assert not template.has_fleet
        assert template.named("ECS::TaskDefinition") == template.named("ECS::Cluster") == {}
        assert (
            "LOADER_STATE_MACHINE" not in template.one("Lambda::Function", "LoadFunction")["Environment"]["Variables"]
        )


def test_the_function_that_takes_uploads_knows_the_machine(template: Template) -> None:
    variables = template.one("Lambda::Function", "LoadFunction")["Environment"]["Variables"]
    assert variables["LOADER_STATE_MACHINE"] == template.arn("StepFunctions::StateMachine")


def test_every_state_leads_somewhere(template: Template) -> None:
    """No name of a state is misspelt, every one is reached, and the only ends are success and a failure of GiveUp."""
    top = definition(template)["States"]
    reached = {definition(template)["StartAt"]}
    for name, state in top.items():
        ways = {state.get("Next"), state.get("Default")}
        ways |= {each["Next"] for each in (*state.get("Choices", []), *state.get("Catch", []))}
        assert ways - {None} <= top.keys(), name
        reached |= ways - {None}
        if state["Type"] in ("Task", "Map") and name != "GiveUp":
            assert state["Catch"][-1]["ErrorEquals"] == ["States.ALL"]
            assert state["Catch"][-1]["Next"] == "GiveUp", name
    assert reached == top.keys()
    assert [name for name, state in top.items() if state["Type"] in ("Succeed", "Fail")] == ["Done"]


def test_what_was_given_up_can_be_redriven(template: Template) -> None:
    """Step Functions runs again the state that failed: GiveUp, which knows of redrives and then leads to the plan."""
    state = definition(template)["States"]["GiveUp"]
    assert state["Next"] == "Plan"
    assert state["Parameters"]["Payload"]["execution.$"] == "$$.Execution"
    assert "Catch" not in state


def test_shards_are_standard_children_within_the_databases_budget(synthesis: Synthesis) -> None:
    """Of a list in S3, none of which may fail."""
    for variant, workers in (("fleet", 4), ("options", 4)):
        shards = definition(synthesis.templates[variant])["States"]["Shards"]
        assert shards["ItemProcessor"]["ProcessorConfig"] == {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}
        assert shards["ItemReader"]["ReaderConfig"] == {"InputType": "JSON"}
        assert shards["MaxConcurrency"] == workers
        assert shards["ToleratedFailureCount"] == 0
        assert shards["ResultPath"] == "$.loaded"


def test_what_passes_is_tried_again_and_what_does_not_is_not(template: Template) -> None:
    """By names of errors that the functions have; a rejected file fails at once."""
    from loader.aws.fleet.steps import Busy, TimeUp, TryAgain

    for name, state in states(template):
        if state.get("Resource") != "arn:aws:states:::lambda:invoke":
            continue
        retried = {error for each in state["Retry"] for error in each["ErrorEquals"]}
        assert {TryAgain.__name__, Busy.__name__} <= retried, name
        assert "Lambda.TooManyRequestsException" in retried
        assert not {"States.ALL", "States.TaskFailed", "RejectLimitError"} & retried
        caught = {error for each in state.get("Catch", []) for error in each["ErrorEquals"]}
        assert TimeUp.__name__ in retried | caught
        assert {"Lambda.Unknown", "Runtime.ExitError", "Sandbox.Timedout"} <= retried | caught
        assert any(each.get("BackoffRate", 1) > 1 for each in state["Retry"])


def test_a_function_is_not_given_up_while_it_runs(template: Template) -> None:
    limit = template.one("Lambda::Function", "FleetFunction")["Timeout"]
    calls = [state for _, state in states(template) if state.get("Resource") == "arn:aws:states:::lambda:invoke"]
    assert len(calls) == 6
    assert all(state["TimeoutSeconds"] > limit for state in calls)


def test_a_merge_that_a_function_has_not_the_time_for_is_a_tasks(template: Template) -> None:
    """The same image, by the entry point's command line, in the private subnets; what it is told is an address."""
    state = definition(template)["States"]["FinishAsTask"]
    caught = definition(template)["States"]["Finish"]["Catch"][0]
    assert caught["Next"] == "FinishAsTask"
    assert {"TimeUp", "Sandbox.Timedout"} <= set(caught["ErrorEquals"])
    assert state["Resource"] == "arn:aws:states:::ecs:runTask.sync"
    network = state["Parameters"]["NetworkConfiguration"]["AwsvpcConfiguration"]
    given = template.one("StepFunctions::StateMachine")["DefinitionSubstitutions"]
    private = set(template.named("EC2::Subnet", "NetworkVpcprivateSubnet"))
    assert {given[name.strip("${}")] for name in network["Subnets"]} == private
    assert given["SecurityGroup"] == f"{template.id('EC2::SecurityGroup', 'FirewallTask')}.GroupId"
    assert network["AssignPublicIp"] == "DISABLED"
    (container,) = template.one("ECS::TaskDefinition")["ContainerDefinitions"]
    (override,) = state["Parameters"]["Overrides"]["ContainerOverrides"]
    assert override["Name"] == container["Name"]
    assert container["EntryPoint"] == ["/opt/loader/bin/python", "-m", "loader.aws.fleet.steps"]
    assert container["ReadonlyRootFilesystem"] is True
    told = {each["Name"] for each in container["Environment"]}
    function = template.one("Lambda::Function", "FleetFunction")["Environment"]["Variables"]
    assert told == {*function, "AWS_DEFAULT_REGION"}
    image = template.one("Lambda::Function", "FleetFunction")["Code"]["ImageUri"]
    assert container["Image"] == image


def test_every_placeholder_is_filled(template: Template) -> None:
    asked = set(re.findall(r"\$\{(\w+)\}", json.dumps(definition(template))))
    assert asked == template.one("StepFunctions::StateMachine")["DefinitionSubstitutions"].keys()


def test_the_machine_is_logged_and_traced_without_what_is_in_files(template: Template) -> None:
    machine = template.one("StepFunctions::StateMachine")
    assert machine["LoggingConfiguration"]["Level"] == "ALL"
    assert machine["LoggingConfiguration"]["IncludeExecutionData"] is False
    assert machine["TracingConfiguration"] == {"Enabled": True}


def test_the_dashboard_shows_the_fleet(template: Template) -> None:
    body = json.loads(template.one("CloudWatch::Dashboard")["DashboardBody"])
    metrics = [metric for widget in body["widgets"] for metric in widget["properties"].get("metrics", [])]
    shown = {metric[1] for metric in metrics if metric[0] == "AWS/States"}
    ends = {"ExecutionsSucceeded", "ExecutionsFailed", "ExecutionsTimedOut", "ExecutionsAborted"}
    assert shown == {"ExecutionsStarted", *ends, "ExecutionTime"}


def test_the_fleets_function_can_do_what_it_must_and_nothing_else(template: Template) -> None:
    """Read objects and specs, keep plans, log in; neither messages nor another function nor the machine."""
    statements, at = template.policies_of(template.id("IAM::Role", "FleetFunctionRole")), Names(template)
    for action, resource, context, allowed in (
        ("s3:GetObjectVersion", f"{at.bucket}/incoming/a.csv", {}, True),
        ("s3:GetObject", f"{at.bucket}/specs/a.toml", {}, True),
        ("s3:PutObject", at.plan, {}, True),
        ("s3:GetObject", at.plan, {}, True),
        ("kms:GenerateDataKey", at.bucket_key, S3_KEY, True),
        ("kms:Decrypt", at.bucket_key, S3_KEY, True),
        ("secretsmanager:GetSecretValue", at.secret, {}, True),
        ("kms:Decrypt", at.database_key, SECRETS_KEY, True),
        ("ec2:CreateNetworkInterface", ANY, {}, True),
        ("s3:PutObject", f"{at.bucket}/incoming/a.csv", {}, False),
        ("s3:PutObject", f"{at.bucket}/specs/a.toml", {}, False),
        ("s3:DeleteObject", at.plan, {}, False),
        ("kms:GenerateDataKey", at.bucket_key, {}, False),
        ("secretsmanager:GetSecretValue", at.master, {}, False),
        ("sqs:ReceiveMessage", at.queue, {}, False),
        ("states:StartExecution", at.machine, {}, False),
        ("lambda:InvokeFunction", at.fleet, {}, False),
        ("ecs:RunTask", at.task, {}, False),
    ):
        assert is_allowed(statements, action, resource, context) is allowed, f"{action} {resource}"


def test_the_task_can_do_what_it_must_and_nothing_else(template: Template) -> None:
    """Read its plan and the object, leave word beside the plan, log in."""
    statements, at = template.policies_of(template.id("IAM::Role", "FleetTaskRole")), Names(template)
    for action, resource, context, allowed in (
        ("s3:GetObject", at.plan, {}, True),
        ("s3:GetObjectVersion", f"{at.bucket}/incoming/a.csv", {}, True),
        ("kms:Decrypt", at.bucket_key, S3_KEY, True),
        ("secretsmanager:GetSecretValue", at.secret, {}, True),
        ("s3:PutObject", at.plan, {}, True),
        ("kms:GenerateDataKey", at.bucket_key, S3_KEY, True),
        ("s3:PutObject", f"{at.bucket}/incoming/a.csv", {}, False),
        ("s3:DeleteObject", at.plan, {}, False),
        ("secretsmanager:GetSecretValue", at.master, {}, False),
        ("ecr:BatchGetImage", ANY, {}, False),
        ("iam:PassRole", ANY, {}, False),
    ):
        assert is_allowed(statements, action, resource, context) is allowed, f"{action} {resource}"


def test_the_machine_can_do_what_it_must_and_nothing_else(template: Template) -> None:
    """Call its one function, run its one task, start children of its own, read plans; never the data or the secret."""
    statements, at = template.policies_of(template.id("IAM::Role", "FleetRole")), Names(template)
    to_tasks = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}
    roles = {name: template.arn("IAM::Role", name) for name in ("FleetTaskRole", "FleetStartRole", "LoadRole")}
    cluster = template.id("ECS::Cluster")
    for action, resource, context, allowed in (
        ("lambda:InvokeFunction", at.fleet, {}, True),
        ("s3:GetObject", at.plan, {}, True),
        ("kms:Decrypt", at.bucket_key, S3_KEY, True),
        ("states:StartExecution", at.machine, {}, True),
        ("states:StopExecution", at.shard, {}, True),
        ("states:RedriveExecution", at.shard, {}, True),
        ("ecs:RunTask", at.task, {}, True),
        ("ecs:StopTask", f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/{cluster}/0123", {}, True),
        ("iam:PassRole", roles["FleetTaskRole"], to_tasks, True),
        ("iam:PassRole", roles["FleetStartRole"], to_tasks, True),
        ("iam:PassRole", roles["FleetTaskRole"], {}, False),
        ("iam:PassRole", roles["LoadRole"], to_tasks, False),
        ("lambda:InvokeFunction", at.function, {}, False),
        ("lambda:InvokeFunction", at.administrator, {}, False),
        ("s3:GetObject", f"{at.bucket}/incoming/a.csv", {}, False),
        ("s3:PutObject", at.plan, {}, False),
        ("secretsmanager:GetSecretValue", at.secret, {}, False),
        ("states:StartExecution", f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:another", {}, False),
        ("ecs:StopTask", f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/another/0123", {}, False),
    ):
        assert is_allowed(statements, action, resource, context) is allowed, f"{action} {resource}"


def test_the_task_is_started_from_its_image_alone(template: Template) -> None:
    statements = template.policies_of(template.id("IAM::Role", "FleetStartRole"))
    (fetch,) = [each for each in statements if each["Sid"] == "FetchImage"]
    assert ANY not in fetch["Resource"]
    assert not is_allowed(statements, "secretsmanager:GetSecretValue", Names(template).secret)
