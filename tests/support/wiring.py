"""What the CloudFormation template says of the way from the bucket to the function, for it to be rebuilt elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

TEMPLATE = "REHEARSAL_TEMPLATE"
"""In the environment: the template to take instead of the one that ``make synth`` wrote."""

SYNTHESIZED = ROOT / "build" / "cdk" / "dev" / "Loader-dev.template.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """Bucket → queue → function, and the dead-letter queue behind the queue. Times in seconds, memory in MB."""

    events: tuple[str, ...]
    prefix: str
    versioned: bool
    visibility_timeout: int
    max_receive_count: int
    batch_size: int
    response_types: tuple[str, ...]
    maximum_concurrency: int | None
    timeout: int
    memory: int
    handler: str
    environment: Mapping[str, str]

    @classmethod
    def of(cls, template: Mapping[str, Any]) -> Wiring:
        """The one way there is in the template. Raises ValueError where there is none, several, or one elsewhere."""
        resources = template["Resources"]
        ((_, mapping),) = _of_type(resources, "AWS::Lambda::EventSourceMapping")
        queue_name, function_name = _target(mapping["EventSourceArn"]), _target(mapping["FunctionName"])
        told = [
            (bucket, configuration)
            for _, bucket in _of_type(resources, "AWS::S3::Bucket")
            for configuration in bucket.get("NotificationConfiguration", {}).get("QueueConfigurations", [])
        ]
        if {_target(configuration["Queue"]) for _, configuration in told} != {queue_name}:
            raise ValueError("the bucket tells another queue than the function is fed from")
        bucket, queue = told[0][0], resources[queue_name]["Properties"]
        prefixes = {_prefix(configuration) for _, configuration in told}
        if len(prefixes) != 1:
            raise ValueError(f"several prefixes are told of: {sorted(prefixes)}")
        dead = _target(queue["RedrivePolicy"]["deadLetterTargetArn"])
        if resources[dead]["Type"] != "AWS::SQS::Queue":
            raise ValueError(f"{dead} is no queue")
        function = resources[function_name]["Properties"]
        return cls(
            events=tuple(configuration["Event"] for _, configuration in told),
            prefix=prefixes.pop(),
            versioned=bucket.get("VersioningConfiguration", {}).get("Status") == "Enabled",
            visibility_timeout=int(queue["VisibilityTimeout"]),
            max_receive_count=int(queue["RedrivePolicy"]["maxReceiveCount"]),
            batch_size=mapping["BatchSize"],
            response_types=tuple(mapping["FunctionResponseTypes"]),
            maximum_concurrency=mapping.get("ScalingConfig", {}).get("MaximumConcurrency"),
            timeout=function["Timeout"],
            memory=function["MemorySize"],
            handler=function["ImageConfig"]["Command"][0],
            environment={
                name: value
                for name, value in function["Environment"]["Variables"].items()
                if isinstance(value, str)  # what is not, is known only where it is deployed
            },
        )


def synthesized() -> dict[str, Any] | None:
    """The template of ``make synth``, or the one that `TEMPLATE` names; None where there is none."""
    path = Path(os.environ.get(TEMPLATE, SYNTHESIZED))
    if not path.exists():
        return None
    template: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return template


def _of_type(resources: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, each.get("Properties", {})) for name, each in resources.items() if each["Type"] == kind)


def _target(reference: Any) -> str:
    """The logical id that ``Ref`` or ``Fn::GetAtt`` names."""
    name = reference.get("Ref") or reference["Fn::GetAtt"][0]
    assert isinstance(name, str)
    return name


def _prefix(configuration: Mapping[str, Any]) -> str:
    rules = configuration.get("Filter", {}).get("S3Key", {}).get("Rules", [])
    return next((str(rule["Value"]) for rule in rules if rule["Name"] == "prefix"), "")
