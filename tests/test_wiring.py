"""Reading a template: what the rehearsal rebuilds is what would be deployed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from support.wiring import Wiring, synthesized

TEMPLATE: dict[str, Any] = {
    "Resources": {
        "Logs": {"Type": "AWS::S3::Bucket", "Properties": {}},
        "Bucket": {
            "Type": "AWS::S3::Bucket",
            "Properties": {
                "VersioningConfiguration": {"Status": "Enabled"},
                "NotificationConfiguration": {
                    "QueueConfigurations": [
                        {
                            "Event": "s3:ObjectCreated:*",
                            "Filter": {"S3Key": {"Rules": [{"Name": "prefix", "Value": "incoming/"}]}},
                            "Queue": {"Fn::GetAtt": ["Queue", "Arn"]},
                        }
                    ]
                },
            },
        },
        "Dead": {"Type": "AWS::SQS::Queue"},
        "Queue": {
            "Type": "AWS::SQS::Queue",
            "Properties": {
                "VisibilityTimeout": 5400,
                "RedrivePolicy": {"deadLetterTargetArn": {"Fn::GetAtt": ["Dead", "Arn"]}, "maxReceiveCount": 17},
            },
        },
        "Function": {
            "Type": "AWS::Lambda::Function",
            "Properties": {
                "Timeout": 900,
                "MemorySize": 1769,
                "ImageConfig": {"Command": ["loader.handler.handler"]},
                "Environment": {"Variables": {"PGSSLMODE": "verify-full", "LOADER_SECRET_ID": {"Ref": "Secret"}}},
            },
        },
        "Mapping": {
            "Type": "AWS::Lambda::EventSourceMapping",
            "Properties": {
                "BatchSize": 1,
                "EventSourceArn": {"Fn::GetAtt": ["Queue", "Arn"]},
                "FunctionName": {"Ref": "Function"},
                "FunctionResponseTypes": ["ReportBatchItemFailures"],
                "ScalingConfig": {"MaximumConcurrency": 2},
            },
        },
    }
}


def test_every_value_is_taken_from_the_template() -> None:
    assert Wiring.of(TEMPLATE) == Wiring(
        events=("s3:ObjectCreated:*",),
        prefix="incoming/",
        versioned=True,
        visibility_timeout=5400,
        max_receive_count=17,
        batch_size=1,
        response_types=("ReportBatchItemFailures",),
        maximum_concurrency=2,
        timeout=900,
        memory=1769,
        handler="loader.handler.handler",
        environment={"PGSSLMODE": "verify-full"},
    )


def test_a_bucket_that_tells_another_queue_is_an_error() -> None:
    """Then an upload would end up nowhere, and the rehearsal must not build a way that is not there."""
    template = copy.deepcopy(TEMPLATE)
    bucket = template["Resources"]["Bucket"]["Properties"]
    bucket["NotificationConfiguration"]["QueueConfigurations"][0]["Queue"] = {"Fn::GetAtt": ["Dead", "Arn"]}
    with pytest.raises(ValueError, match="another queue"):
        Wiring.of(template)


def test_two_mappings_are_an_error() -> None:
    template = copy.deepcopy(TEMPLATE)
    template["Resources"]["Second"] = template["Resources"]["Mapping"]
    with pytest.raises(ValueError, match="too many values"):
        Wiring.of(template)


def test_the_synthesized_template_can_be_read() -> None:
    """Where there is one: what the handler relies on is as it has to be (docs/reference/lambda.md)."""
    template = synthesized()
    if template is None:
        pytest.skip("there is no template: make synth")
    wiring = Wiring.of(template)
    assert wiring.response_types == ("ReportBatchItemFailures",)
    assert wiring.visibility_timeout >= 6 * wiring.timeout
    assert wiring.max_receive_count > 12  # a load may be handed over twelve times
    assert wiring.handler == "loader.handler.handler"
    assert wiring.prefix
