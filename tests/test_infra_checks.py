"""What looks at a template as a whole: cdk-nag, cfn-lint, and the template as it was."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.effort import effort
from support.synthesis import BARE, ROOT, Synthesis, Template

SNAPSHOTS = Path(__file__).parent / "data" / "infra"
REFRESH = "REFRESH_SNAPSHOTS"
"""The environment variable that writes them anew, as ``make snapshots`` does."""


# --- cdk-nag


def acknowledged(size: str) -> dict[tuple[str, str], str]:
    """What infra/findings.py says, with its reasons. By a process of its own: it imports CDK."""
    fleet, size = size == "fleet", "dev" if size == "fleet" else size
    code = (
        "import json; from infra.findings import acknowledged; from infra.sizes import SIZES;"
        f"found = acknowledged(SIZES[{size!r}], 'csv-loader-{size}', fleet={fleet});"
        "print(json.dumps([[each.path, each.rule, each.reason] for each in found]))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=BARE, capture_output=True, text=True, check=True)
    return {(path, rule): reason for path, rule, reason in json.loads(out.stdout)}


def test_synthesis_succeeds_without_docker_node_or_account(synthesis: Synthesis) -> None:
    """In the environment `BARE`: ``make synth`` would end with 0, so cdk-nag finds nothing that has no reason."""
    assert synthesis.failure == ""


@pytest.mark.parametrize("size", ["dev", "prod", "fleet"])
def test_every_finding_has_a_reason_and_every_reason_a_finding(synthesis: Synthesis, size: str) -> None:
    """No finding is left, none is excused that is no more, and a reason is a sentence."""
    excused = acknowledged(size)
    assert synthesis.findings[size] == excused.keys()
    assert all(len(reason.split()) >= 8 and reason.endswith(".") for reason in excused.values())


def test_prod_is_excused_from_nothing_that_dev_saves_on() -> None:
    """Neither from a standby nor from deletion protection."""
    assert {rule for _, rule in acknowledged("dev").keys() - acknowledged("prod").keys()} >= {"RDS3", "RDS10"}
    assert not {"RDS3", "RDS10"} & {rule for _, rule in acknowledged("prod")}


# --- cfn-lint

IGNORED = {
    "W3005": "DependsOn that a reference implies already: CDK writes them, and they do no harm",
}


@pytest.mark.parametrize("template", effort(["fleet", "options"], ["dev", "prod", "fleet", "options"]), indirect=True)
def test_cloudformations_own_schemas_are_kept(template: Template) -> None:
    """By cfn-lint: properties, their types and values, references, policies."""
    command = [
        str(Path(sys.executable).parent / "cfn-lint"),
        "--format",
        "json",
        "--regions",
        "eu-central-1",
        "us-east-1",
    ]
    command += ["--ignore-checks", *IGNORED, "--", str(template.path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(run.stdout)
    assert [(each["Rule"]["Id"], each["Message"], each["Location"]["Path"]) for each in found] == []


# --- the template as it was


def masked(template: dict[str, Any]) -> str:
    """Without hashes: those of the image and of the helpers' code change with what is in them, not with the stack."""
    text = json.dumps(template, indent=1, sort_keys=True)
    return re.sub(r"\b[0-9a-f]{64}\b", "<hash>", text) + "\n"


@pytest.mark.parametrize("size", ["dev", "prod", "fleet"])
def test_the_template_is_as_it_was(synthesis: Synthesis, size: str) -> None:
    """Whoever changes what is deployed sees it in the diff, and agrees to it with ``make snapshots``."""
    path, now = SNAPSHOTS / f"{size}.json", masked(synthesis.templates[size].body)
    if os.environ.get(REFRESH):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(now, "utf-8")
    assert now == path.read_text("utf-8")


def test_no_account_or_machine_is_in_a_template(template: Template) -> None:
    """They were made without either, and are good for any."""
    text = template.path.read_text("utf-8")
    assert not re.search(r"(?<!99998888)\b\d{12}\b(?!:role/partner)", text)
    assert str(ROOT) not in text
    assert str(Path.home()) not in text
