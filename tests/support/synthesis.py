"""The CloudFormation templates of infra/, synthesized once for all the tests that look at them.

CDK takes seconds to start and to synthesize; the templates are JSON, so the tests need neither CDK nor Node. They are
made by a process of its own, which runs what ``make synth`` runs, and every worker of a test run reads the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

ACCOUNT, REGION = "111122223333", "eu-central-1"
PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Region": REGION,
    "AWS::Partition": "aws",
    "AWS::URLSuffix": "amazonaws.com",
    "AWS::StackName": "stack",
    "AWS::StackId": "stack-id",
    "AWS::NoValue": None,
}

BARE = {"PATH": "/nowhere", "HOME": os.environ.get("HOME", "/")}
"""The environment of the synthesis: no Docker, no Node, no AWS account."""

OPTIONS = {
    "architecture": "arm64",
    "schemas": "public,sales",
    "uploaders": "arn:aws:iam::999988887777:role/partner",
    "alarm_email": "someone@example.com",
    "internet": "true",
    "fleet": "true",
    "cidr": "10.8.0.0/20",
    "batch_size": "1",
}
"""Context parameters of the variant ``options``: every one that there is."""

FLEET = {"fleet": "true"}


class Template:
    """One stack's template. References are resolved to texts, resources' ARNs to made-up ones of the right form."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = next(folder.glob("*.template.json"))
        self.body: dict[str, Any] = json.loads(self.path.read_text("utf-8"))
        self.resources: dict[str, dict[str, Any]] = self.body["Resources"]

    def named(self, kind: str, starting: str = "") -> dict[str, dict[str, Any]]:
        """Resources of type ``AWS::kind`` (or ``Custom::…``) whose logical id starts so."""
        full = kind if kind.startswith("Custom::") else f"AWS::{kind}"
        return {
            name: resource
            for name, resource in self.resources.items()
            if resource["Type"] == full and name.startswith(starting)
        }

    def id(self, kind: str, starting: str = "") -> str:
        """The logical id of the only one."""
        found = list(self.named(kind, starting))
        assert len(found) == 1, f"{kind} {starting}: {found}"
        return found[0]

    def one(self, kind: str, starting: str = "") -> dict[str, Any]:
        """The resolved properties of the only one."""
        return self.properties(self.id(kind, starting))

    def all(self, kind: str, starting: str = "") -> list[dict[str, Any]]:
        return [self.properties(name) for name in self.named(kind, starting)]

    def properties(self, name: str) -> dict[str, Any]:
        resolved: dict[str, Any] = self.resolve(self.resources[name].get("Properties", {}))
        return resolved

    def arn(self, kind: str, starting: str = "") -> str:
        return self._attribute(self.id(kind, starting), "Arn")

    def ref(self, kind: str, starting: str = "") -> str:
        return str(self.resolve({"Ref": self.id(kind, starting)}))

    def resolve(self, value: Any) -> Any:
        """``value`` without intrinsic functions."""
        if isinstance(value, list):
            return [self.resolve(each) for each in value]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            (function, argument), *_ = value.items()
            if function == "Ref":
                return self._referred(argument)
            if function == "Fn::GetAtt":
                return self._attribute(*argument)
            if function == "Fn::Join":
                return argument[0].join(str(self.resolve(each)) for each in argument[1])
            if function == "Fn::Sub":
                for name, text in PSEUDO.items():
                    argument = argument.replace(f"${{{name}}}", str(text))
                return argument
            if function == "Fn::Base64":
                return self.resolve(argument)
            if function in ("Fn::GetAZs", "Fn::Select", "Fn::Split"):
                return f"<{function} {json.dumps(argument)}>"
        return {name: self.resolve(each) for name, each in value.items()}

    def _referred(self, name: str) -> Any:
        if name in PSEUDO:
            return PSEUDO[name]
        resource = self.resources.get(name)
        if resource and resource["Type"] == "AWS::S3::Bucket":
            return self.resolve(resource["Properties"].get("BucketName", name.lower()))
        if resource and resource["Type"] == "AWS::SecretsManager::Secret":
            return self._attribute(name, "Arn")
        if resource and resource["Type"] in ("AWS::ECS::TaskDefinition", "AWS::StepFunctions::StateMachine"):
            return self._attribute(name, "Arn")
        return name

    def _attribute(self, name: str, attribute: str) -> str:
        kind = self.resources[name]["Type"]
        own = self.resources[name].get("Properties", {})
        if attribute == "MasterUserSecret.SecretArn":
            return f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:master-{name}"
        if attribute != "Arn":
            return f"{name}.{attribute}"
        if kind == "AWS::S3::Bucket":
            return f"arn:aws:s3:::{self._referred(name)}"
        service, resource = {
            "AWS::SQS::Queue": ("sqs", str(own.get("QueueName", name))),
            "AWS::KMS::Key": ("kms", f"key/{name}"),
            "AWS::Lambda::Function": ("lambda", f"function:{name}"),
            "AWS::Logs::LogGroup": ("logs", f"log-group:{name}:*"),
            "AWS::SecretsManager::Secret": ("secretsmanager", f"secret:{name}"),
            "AWS::IAM::Role": ("iam", f"role/{name}"),
            "AWS::ECS::TaskDefinition": ("ecs", f"task-definition/{own.get('Family', name)}"),
            "AWS::ECS::Cluster": ("ecs", f"cluster/{name}"),
            "AWS::StepFunctions::StateMachine": ("states", f"stateMachine:{own.get('StateMachineName', name)}"),
        }.get(kind, ("other", name))
        return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}"

    @property
    def has_fleet(self) -> bool:
        """Whether large objects are loaded by many functions."""
        return bool(self.named("StepFunctions::StateMachine"))

    @property
    def our_roles(self) -> tuple[str, ...]:
        """How the logical ids begin of the roles that infra/grants.py fills."""
        fleet = ("FleetFunctionRole", "FleetTaskRole", "FleetStartRole", "FleetRole") if self.has_fleet else ()
        return ("LoadRole", "AdministrationRole", "BastionRole", *fleet)

    @property
    def our_functions(self) -> tuple[str, ...]:
        """How the logical ids begin of the functions that run the image."""
        return ("LoadFunction", "AdministrationFunction", *(("FleetFunction",) if self.has_fleet else ()))

    def policies_of(self, role: str) -> list[dict[str, Any]]:
        """The statements of all policies of the role with this logical id."""
        own = self.properties(role)
        documents = [each["PolicyDocument"] for each in own.get("Policies", [])]
        documents += [each["PolicyDocument"] for each in self.all("IAM::Policy") if role in each["Roles"]]
        return [statement for document in documents for statement in document["Statement"]]


class Synthesis:
    """Templates by variant: dev, prod, ``fleet``, which is dev with that option alone, and ``options``, which is prod
    with every option. ``findings``: of cdk-nag, by variant.

    ``failure``: what ``make synth`` would have said where it had failed; the templates are there nevertheless.
    """

    def __init__(self, folder: Path) -> None:
        self.templates = {name: Template(folder / name) for name in ("dev", "prod", "fleet", "options")}
        self.failure = (folder / "done").read_text("utf-8")
        self.findings = {name: _findings(folder / f"{name}-unexcused") for name in ("dev", "prod", "fleet")}


def _findings(folder: Path) -> set[tuple[str, str]]:
    """Construct's path below the stack, and rule without the pack's name."""
    report = json.loads((folder / "validation-report.json").read_text("utf-8"))
    return {
        (place["constructPath"].partition("/")[2].removesuffix("/Resource"), each["ruleName"].partition("-")[2])
        for plugin in report["pluginReports"]
        if plugin["pluginName"] == "AwsSolutions"
        for each in plugin["violations"]
        for place in each["violatingConstructs"]
    }


@pytest.fixture(scope="session")
def synthesis() -> Synthesis:
    from support.cluster import made_once  # not to be had where this file runs as a program

    return Synthesis(made_once("synthesis", _synthesize))


def _synthesize(folder: Path) -> None:
    command = [sys.executable, str(Path(__file__)), str(folder)]
    made = subprocess.run(command, cwd=ROOT, env=BARE, capture_output=True, text=True, check=False)
    assert made.returncode in (0, 1), made.stderr[-4000:]
    (folder / "done").write_text(made.stderr if made.returncode else "", "utf-8")


@pytest.fixture(params=["dev", "prod", "fleet", "options"])
def template(request: pytest.FixtureRequest, synthesis: Synthesis) -> Template:
    """Each variant's in turn: for what holds of all."""
    return synthesis.templates[request.param]


def _main(folder: Path) -> int:
    """Run by a process of its own."""
    from contextlib import suppress

    from infra import synth

    failed = synth.main(folder)
    for name, size, options in (("fleet", "dev", FLEET), ("options", "prod", OPTIONS)):
        try:
            synth.synthesize(size, folder / name, **options)
        except RuntimeError:
            failed = 1
    for name, size, options in (("dev", "dev", {}), ("prod", "prod", {}), ("fleet", "dev", FLEET)):
        with suppress(RuntimeError):  # the findings, which are what is wanted
            synth.synthesize(size, folder / f"{name}-unexcused", excused=False, **options)
    return failed


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    sys.exit(_main(Path(sys.argv[1])))
