"""The CDK app: what ``cdk deploy`` and ``make synth`` run.

Context: ``size`` (dev or prod), and what `infra.stack.Options` names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from aws_cdk import App, Validations
from cdk_nag import AwsSolutionsChecks

from infra.findings import acknowledge, acknowledged
from infra.sizes import batch_size_of, size_of
from infra.stack import LoaderStack, Options

HERE = Path(__file__).resolve().parent


def flags() -> dict[str, Any]:
    """The context of cdk.json, which CDK's command line gives an app; others have to give it themselves."""
    context: dict[str, Any] = json.loads((HERE / "cdk.json").read_text("utf-8"))["context"]
    return context


def options_of(context: Mapping[str, Any]) -> Options:
    """``-c name=value`` gives texts: a list has commas in it, and ``true`` is true.

    Raises ValueError where one makes no sense."""
    given: dict[str, Any] = {name: value for name, value in context.items() if value is not None}
    for name in ("schemas", "uploaders"):
        if isinstance(given.get(name), str):
            given[name] = tuple(filter(None, given[name].split(",")))
    for name in ("internet", "fleet"):
        if name in given:
            given[name] = given[name] in (True, "true")
    if "batch_size" in given:
        given["batch_size"] = batch_size_of(given["batch_size"])
    return Options(**given)


def build(app: App, *, excused: bool = True) -> LoaderStack:
    """The app's one stack, and cdk-nag's check of it, which lets `App.synth` raise for each finding without a reason.

    ``excused``: False for a test that wants to see every finding.
    """
    context = app.node.try_get_context
    size = size_of(context("size"))
    options = options_of({field.name: context(field.name) for field in fields(Options)})
    stack = LoaderStack(app, f"Loader-{size.name}", size=size, options=options, analytics_reporting=False)
    Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    if excused:
        acknowledge(stack, acknowledged(size, stack.stack_name, fleet=options.fleet))
    return stack


if __name__ == "__main__":
    app = App(context=flags())  # what the command line was given goes before
    build(app)
    app.synth()
