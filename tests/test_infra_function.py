"""The function, its queue, and what of the loader's handler they have to fit."""

from __future__ import annotations

import importlib
import json

import pytest
from support.iam import is_allowed, is_denied
from support.synthesis import ACCOUNT, ROOT, Synthesis, Template

from infra.sizes import batch_size_of
from loader.aws.redelivery import RECEIVES, WAITS
from loader.pipeline import How


def test_the_function_is_the_repositorys_image(template: Template) -> None:
    """One image, built of container/Dockerfile when it is deployed; all functions run it."""
    functions = [template.one("Lambda::Function", name) for name in template.our_functions]
    assert {function["PackageType"] for function in functions} == {"Image"}
    assets = json.loads(next(template.folder.glob("*.assets.json")).read_text("utf-8"))
    (image,) = assets["dockerImages"].values()
    assert image["source"]["dockerFile"] == "container/Dockerfile"
    hashes = list(assets["dockerImages"])
    assert all(function["Code"]["ImageUri"].endswith(f":{hashes[0]}") for function in functions)


def test_the_image_is_made_of_what_it_needs(template: Template) -> None:
    """A change of the tests, the docs or this app makes no new image."""
    assets = json.loads(next(template.folder.glob("*.assets.json")).read_text("utf-8"))
    (image,) = assets["dockerImages"].values()
    staged = {path.name for path in (template.folder / image["source"]["directory"]).iterdir()}
    assert staged - {".dockerignore"} == {"container", "loader", "specs", "pyproject.toml", "README.md"}


def test_entry_points_exist(template: Template) -> None:
    """Of every function that runs the image."""
    for name in template.our_functions:
        (command,) = template.one("Lambda::Function", name)["ImageConfig"]["Command"]
        module, _, function = command.rpartition(".")
        assert callable(getattr(importlib.import_module(module), function))


def test_the_architecture_is_the_images(synthesis: Synthesis) -> None:
    for name, architecture, platform in (("dev", "x86_64", "linux/amd64"), ("options", "arm64", "linux/arm64")):
        template = synthesis.templates[name]
        assets = json.loads(next(template.folder.glob("*.assets.json")).read_text("utf-8"))
        (image,) = assets["dockerImages"].values()
        assert template.one("Lambda::Function", "LoadFunction")["Architectures"] == [architecture]
        assert image["source"]["platform"] == platform


def test_the_environment_is_what_the_handler_asks_for(template: Template) -> None:
    """No password among it; and the function does not call itself, for the queue hands its loads over."""
    environment = template.one("Lambda::Function", "LoadFunction")["Environment"]["Variables"]
    sends_on = {"LOADER_STATE_MACHINE"} if template.has_fleet else set()
    assert environment.keys() == {"LOADER_SECRET_ID", "LOADER_SPECS", "PGSSLMODE", "LOADER_DEAD_LETTERS"} | sends_on
    assert environment["LOADER_DEAD_LETTERS"] == template.id("SQS::Queue", "IntakeDeadLetters")
    code = "".join(path.read_text("utf-8") for path in (ROOT / "loader").rglob("*.py"))
    assert all(f'"{name}"' in code for name in environment if name.startswith("LOADER_"))


def test_a_batch_is_an_invocation(synthesis: Synthesis, template: Template) -> None:
    """As many messages as SQS hands out at once, or fewer; the answer says which of them failed."""
    source = template.one("Lambda::EventSourceMapping")
    assert source["EventSourceArn"] == template.arn("SQS::Queue", "IntakeQueue")
    assert source["FunctionName"] == template.id("Lambda::Function", "LoadFunction")
    assert source["BatchSize"] == (1 if template is synthesis.templates["options"] else 10)
    assert "MaximumBatchingWindowInSeconds" not in source  # nobody waits for a batch to fill
    assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]


@pytest.mark.parametrize("told", ["0", "11", "-1", "2.5", "many", "", "²", True])
def test_a_batch_that_cannot_be_is_named(told: object) -> None:
    """Before anything is synthesized, in one sentence."""
    with pytest.raises(ValueError, match=rf'^batch_size "{told}": it is a whole number from 1 to 10$'):
        batch_size_of(told)


def test_the_function_scales_with_the_queue_up_to_what_the_database_bears(synthesis: Synthesis) -> None:
    """Loads at once; Lambda's least is 2."""
    for size, loads in (("dev", 2), ("prod", 4)):
        source = synthesis.templates[size].one("Lambda::EventSourceMapping")
        assert source["ScalingConfig"] == {"MaximumConcurrency": loads}


def test_a_message_is_hidden_for_six_runs(template: Template) -> None:
    """As Lambda's guide wants it: else one that is being loaded would be handed out again."""
    timeout = template.one("Lambda::Function", "LoadFunction")["Timeout"]
    assert timeout == 900
    assert template.one("SQS::Queue", "IntakeQueue")["VisibilityTimeout"] >= 6 * timeout


def test_a_message_is_received_often_enough_for_every_handover(template: Template) -> None:
    """A long load hands over up to so many times, each of which is a receive, and may fail in between; receives that
    find the table's turn taken come beside them."""
    redrive = template.one("SQS::Queue", "IntakeQueue")["RedrivePolicy"]
    assert How().handovers + 5 == RECEIVES
    assert redrive["maxReceiveCount"] == RECEIVES + WAITS
    assert redrive["deadLetterTargetArn"] == template.arn("SQS::Queue", "IntakeDeadLetters")


@pytest.mark.parametrize("which", ["IntakeQueue", "IntakeDeadLetters"])
def test_queues_are_encrypted_and_patient(template: Template, which: str) -> None:
    """Two weeks, which is SQS's longest; standard ones, for S3 notifies no other."""
    queue = template.properties(next(iter(template.named("SQS::Queue", which))))
    assert queue["SqsManagedSseEnabled"] is True
    assert queue["MessageRetentionPeriod"] == 14 * 24 * 3600
    assert "FifoQueue" not in queue


@pytest.mark.parametrize("which", ["IntakeQueue", "IntakeDeadLetters"])
def test_queues_speak_tls_only(template: Template, which: str) -> None:
    statements = template.one("SQS::QueuePolicy", f"{which}Policy")["PolicyDocument"]["Statement"]
    arn = template.arn("SQS::Queue", which)
    assert is_denied(statements, "sqs:SendMessage", arn, {"aws:SecureTransport": "false"})


def test_only_the_bucket_may_send(template: Template) -> None:
    """S3 on behalf of this one bucket of this account."""
    statements = template.one("SQS::QueuePolicy", "IntakeQueuePolicy")["PolicyDocument"]["Statement"]
    assert [each["Principal"] for each in statements if each["Effect"] == "Allow"] == [{"Service": "s3.amazonaws.com"}]
    queue, bucket = template.arn("SQS::Queue", "IntakeQueue"), template.arn("S3::Bucket", "StorageBucket")
    ours = {"aws:SecureTransport": "true", "aws:SourceArn": bucket, "aws:SourceAccount": ACCOUNT}
    assert is_allowed(statements, "sqs:SendMessage", queue, ours)
    assert not is_allowed(statements, "sqs:SendMessage", queue, {**ours, "aws:SourceArn": "arn:aws:s3:::another"})
    assert not is_allowed(statements, "sqs:SendMessage", queue, {**ours, "aws:SourceAccount": "999988887777"})
    assert not is_allowed(statements, "sqs:ReceiveMessage", queue, ours)


def test_the_size_decides_the_memory(synthesis: Synthesis) -> None:
    """A core for dev, two for prod."""
    for size, memory in (("dev", 1769), ("prod", 3538)):
        assert synthesis.templates[size].one("Lambda::Function", "LoadFunction")["MemorySize"] == memory
