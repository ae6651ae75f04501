"""What the function tells whoever operates it: a line of JSON for everything that happens, and metrics.

Each line has ``timestamp``, ``level``, ``message``, ``service``, ``request_id``, and of the load that is under way
``load_id``, ``source`` and ``version``, null where there is none or it is not known yet. What libraries and hooks write
with Python's own logging becomes such a line, too.

The end of a load is one line that holds the whole report, and is an object of CloudWatch's embedded metric format at
the same time (CloudWatch user guide, "Specification: Embedded metric format"): metrics cost no call, and whoever sees a
peak finds the load behind it. They are of the namespace and the one dimension below.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from loader.core.display import printable, to_json
from loader.core.errors import LoaderError, PausedError
from loader.core.report import LoadReport

SERVICE = "loader"
NAMESPACE = "Loader"

UNITS = {
    "Loads": "Count",  # that took effect; one that was skipped is none
    "LoadsSuperseded": "Count",  # versions that came after a newer one, so their records are in no table
    "LoadsFailed": "Count",  # attempts that failed; one that came to rest because its time was up did not
    "RowsRead": "Count",
    "RowsRejected": "Count",
    "RowsPerSecond": "Count/Second",  # of loads that one attempt did from beginning to end
    "BytesRead": "Bytes",
    "Seconds": "Seconds",
    "Lag": "Seconds",  # from when S3 stored the object, by its event, until its rows are in the table
}

_request_id: str | None = None
_subject: dict[str, Any] = {}
# Of the process, not of a thread or a context: a function has one event at a time, and the threads that a load parses
# and copies in belong to it.


def begin(context: Any) -> None:
    """An invocation begins; ``context`` is Lambda's."""
    global _request_id  # noqa: PLW0603 - see above
    _request_id = getattr(context, "aws_request_id", None)
    _subject.clear()
    if "AWS_LAMBDA_RUNTIME_API" in os.environ:
        _take_over_logging()


@contextmanager
def about(source: str, version: str | None) -> Iterator[None]:
    """Whatever is told while the body runs is about the load of that object."""
    before = dict(_subject)
    _subject.update(load_id=None, source=source, version=version)
    try:
        yield
    finally:
        _subject.clear()
        _subject.update(before)


def log(message: str, *, level: str = "INFO", **facts: Any) -> None:
    """One line on standard output, where Lambda's log is. Facts go before what is known of the load under way."""
    _write(_line(message, level) | facts)


def tell_step(step: str, facts: Mapping[str, Any]) -> None:
    """What `pipeline.How.told` is told in the middle of a load. Lines that follow have its ``load_id``."""
    _subject["load_id"] = facts["load_id"]
    log(step, level="WARNING" if "error" in facts else "INFO", **facts)


def tell_report(report: LoadReport, *, stored: str | None = None, error: LoaderError | None = None) -> None:
    """The end of a load, or of an attempt at it: its summary and its metrics.

    ``stored``: when S3 stored the object, as the event has it; ``error``: what it failed of.
    """
    facts = report.to_dict()
    if report.version is None:
        facts["version"] = _subject.get("version")
    paused = isinstance(error, PausedError)
    level = "INFO" if error is None or paused else "WARNING" if error.retryable else "ERROR"
    level = "WARNING" if report.superseded_by is not None else level
    line = _line("paused" if paused else report.state, level) | facts
    values = _measured(report, stored, paused=paused)
    _write(line | _embedded(values) if values else line)


def tell_failure(error: Exception, **facts: Any) -> None:
    """Something failed before there was a load: an event that is none, a key without a spec."""
    told = {"state": "failed", **facts, "error": one_line(error)}
    if isinstance(error, PausedError):
        _write(_line("paused", "INFO") | told)
    else:
        _write(_line("failed", "ERROR") | told | _embedded({"Loads": 0, "LoadsFailed": 1}))


def load_of(error: Exception) -> dict[str, Any]:
    """The load that failed of it, where there was one, as lines name a load."""
    report = error.report if isinstance(error, LoaderError) else None
    return {"load_id": report.load_id, "source": report.source, "version": report.version} if report else {}


LONGEST = 8_000
"""Characters of an error that a line shows: CloudWatch cuts a line, and what is cut is no JSON any more."""


def one_line(error: BaseException) -> str:
    """The error's message on one line, safe to show."""
    text = printable(" ".join(str(error).split()), LONGEST)
    return text if isinstance(error, LoaderError) else f"{type(error).__name__}: {text}"


def _measured(report: LoadReport, stored: str | None, *, paused: bool) -> dict[str, float]:
    if report.state == "skipped":
        return {} if report.superseded_by is None else {"LoadsSuperseded": 1}
    values: dict[str, float] = {"BytesRead": report.bytes_read, "Seconds": report.seconds}
    if paused:
        return values
    values |= {"RowsRead": report.rows_read, "RowsRejected": report.rows_rejected}
    if report.state == "failed":
        return values | {"Loads": 0, "LoadsFailed": 1}
    if report.resumes == 0 and report.seconds > 0:
        values["RowsPerSecond"] = report.rows_read / report.seconds
    if (lag := _since(stored)) is not None:
        values["Lag"] = lag
    return values | {"Loads": 1, "LoadsFailed": 0}


def _since(stored: str | None) -> float | None:
    """Seconds since then, at least 0: S3's clock is not this one."""
    try:
        then = datetime.fromisoformat(stored or "")
    except ValueError:
        return None
    return max(0.0, (datetime.now(UTC) - (then if then.tzinfo else then.replace(tzinfo=UTC))).total_seconds())


def _embedded(values: Mapping[str, float]) -> dict[str, Any]:
    """The values as Powertools embeds them, which checks names and units."""
    from aws_lambda_powertools.metrics import EphemeralMetrics  # here: it takes a tenth of a second to import

    metrics = EphemeralMetrics(namespace=NAMESPACE, service=SERVICE)
    for name, value in values.items():
        metrics.add_metric(name=name, unit=UNITS[name], value=value)
    embedded: dict[str, Any] = dict(metrics.serialize_metric_set())
    return embedded


def _line(message: str, level: str) -> dict[str, Any]:
    return {
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": level,
        "message": message,
        "service": SERVICE,
        "request_id": _request_id,
        "load_id": _subject.get("load_id"),
        "source": _subject.get("source"),
        "version": _subject.get("version"),
    }


def _write(line: Mapping[str, Any]) -> None:
    print(to_json(line, default=str), file=sys.stdout, flush=True)


class Lines(logging.Handler):
    """Records of Python's logging as lines like all others."""

    def emit(self, record: logging.LogRecord) -> None:
        facts: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[1]:
            facts["error"] = one_line(record.exc_info[1])
        log(record.getMessage(), level=record.levelname, **facts)


def _take_over_logging() -> None:
    """In place of the runtime client's handler, whose lines know nothing of loads."""
    root = logging.getLogger()
    if not any(isinstance(each, Lines) for each in root.handlers):
        root.handlers[:] = [Lines(logging.WARNING)]
        logging.captureWarnings(True)
