"""The command line. Results go to standard output, messages and progress to standard error.

Exit codes: 0 loaded or already loaded, 1 the load failed and changed nothing, 2 wrong usage or spec; 130 and 143 where
SIGINT (Ctrl-C) or SIGTERM came first. Then the same command goes on from the last checkpoint, or from the beginning
where a small file was being copied straight into its table.

A load does not depend on who reads its output: with ``| head`` or on a full disk it goes on, and the exit code is that
of the loads. Other commands end quietly, with 0, when nobody reads them any more.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NoReturn

from loader.core.display import printable, to_json
from loader.core.errors import LoaderError, UsageError
from loader.core.process.memory import spare_imports
from loader.core.process.standard_streams import Output, OutputError, standard_streams

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

    from loader.core.deadline import Deadline
    from loader.core.report import LoadReport
    from loader.core.spec.model import LoadSpec
    from loader.engine.counters import Progress
    from loader.postgres.database import Database
    from loader.preview import Preview

_REPLAY_USAGE = "loader replay LOAD_ID [FILE] | SOURCE [--force] [--dsn URI] [--json]"

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    with standard_streams() as output:
        try:
            code = _run(arguments, output)
            output.flush()
        except LoaderError as error:
            _say(f"loader: {error}")
            code = error.exit_code
        except KeyboardInterrupt:
            _say("loader: interrupted")
            code = INTERRUPTED
        except OutputError as error:
            if not error.is_gone:
                _say(f"loader: {error}")
            return 0 if error.is_gone else 1
        finally:
            with suppress(OutputError):
                output.flush()
    return code


def _run(arguments: Sequence[str] | None, output: Output) -> int:
    options = _parser().parse_args(arguments)
    output.goes_on = options.run in (_load, _replay)
    spare_imports()
    code: int = options.run(options)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="loader", description="CSV from S3 or disk into PostgreSQL, exactly once.")
    parser.add_argument("--version", action=_Version, nargs=0, help="version, Python, kernel compiled or not")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    load = commands.add_parser("load", help="load files or objects into a table")
    load.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="path, glob, s3://bucket/key, s3://bucket/prefix/, or - for a pipe"
    )
    _add_spec(load)
    load.add_argument("--workers", type=_positive, default=1, metavar="N", help="processes that share a large object")
    load.add_argument("--force", action="store_true", help="load again what was loaded before")
    _add_dsn(load)
    _add_json(load)
    load.set_defaults(run=_load)

    infer = commands.add_parser("infer", help="print a spec for a file, ready to edit")
    infer.add_argument("source", metavar="SOURCE")
    infer.add_argument("--table", metavar="NAME")
    _add_dialect(infer)
    infer.set_defaults(run=_infer)

    plan = commands.add_parser("plan", help="what a load would do, and by which statements; changes nothing")
    plan.add_argument("source", metavar="SOURCE")
    _add_spec(plan)
    _add_dsn(plan)
    _add_json(plan)
    plan.set_defaults(run=_plan)

    status = commands.add_parser("status", help="what was loaded, newest first")
    status.add_argument("load_id", nargs="?", type=int, metavar="LOAD_ID")
    _add_dsn(status)
    _add_json(status)
    status.set_defaults(run=_status)

    rejects = commands.add_parser("rejects", help="the rejected records of a load, as a file to mend or with reasons")
    rejects.add_argument("load_id", type=int, metavar="LOAD_ID")
    rejects.add_argument(
        "--format", choices=["csv", "jsonl"], default="csv", help="csv: a file to mend and replay; jsonl: with reasons"
    )
    _add_dsn(rejects)
    rejects.set_defaults(run=_rejects)

    replay = commands.add_parser("replay", help="load again after a mend", usage=_REPLAY_USAGE)
    replay.add_argument("what", metavar="LOAD_ID | SOURCE", help="a load whose rejects, or a source to load again")
    replay.add_argument("source", nargs="?", metavar="FILE", help="its mended rejects; default: as they were kept")
    replay.add_argument("--force", action="store_true", help="load again what was loaded before")
    _add_dsn(replay)
    _add_json(replay)
    replay.set_defaults(run=_replay)

    specs = commands.add_parser("specs", help="look for mistakes in specs")
    actions = specs.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser(
        "check", help="every spec of a folder or of s3://bucket/prefix/, and what is wrong with it"
    )
    check.add_argument("place", metavar="WHERE", help="folder, or s3://bucket/prefix/")
    _add_json(check)
    check.set_defaults(run=_check_specs)

    local = commands.add_parser("local", help="the embedded PostgreSQL: start it, stop it, how to connect")
    local.add_argument("action", choices=["start", "stop"])
    local.set_defaults(run=_local)
    return parser


class _Version(argparse.Action):
    """Prints what is installed, and ends. argparse's own would look it up at each start."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        import platform

        import loader
        from loader.kernel.compiled import kernel_state

        print(f"loader {loader.__version__} (Python {platform.python_version()}, kernel {kernel_state()})")
        parser.exit()


def _add_spec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spec", metavar="FILE.toml", help="what the columns are and what becomes of them")
    parser.add_argument("--table", metavar="NAME", help="target, with its schema or without; default: the file's name")
    parser.add_argument("--mode", choices=["append", "replace", "merge"])
    parser.add_argument("--key", metavar="COL,COL", help="columns to merge by; default: the table's primary key")
    _add_dialect(parser)
    parser.add_argument(
        "--unknown",
        choices=["ignore", "error", "add"],
        help="columns of the file that the table lacks; default: ignore",
    )


def _add_dialect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--delimiter",
        metavar="TEXT",
        help="one or several characters, \\t for a tab; default: as the spec says, or sniffed",
    )
    parser.add_argument("--no-header", action="store_true", help="the first record is no header")
    parser.add_argument("--encoding", metavar="NAME", help="utf-8, cp1252, …; default: as the spec says, or sniffed")
    parser.add_argument(
        "--null", metavar="TEXT", action="append", help="unquoted text that means NULL; may be repeated"
    )


def _add_dsn(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dsn", metavar="URI", help="PostgreSQL; default: $LOADER_DSN, else an embedded server")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document on standard output")


def _positive(text: str) -> int:
    from loader.core.process.cores import positive_text

    try:
        return positive_text(text, "the number")
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _load(options: argparse.Namespace) -> int:
    from loader.pipeline import How, load_one
    from loader.sources.source import expand

    specs = _SpecChoice(options)
    uris = [uri for source in options.sources for uri in expand(source, note=_say)]
    specs.check(uris)

    def load(uri: str, database: Database, deadline: Deadline) -> LoadReport:
        with _progress_bar(uri, shown=sys.stderr.isatty() and not options.json) as progress:
            how = How(force=options.force, workers=options.workers, progress=progress, deadline=deadline)
            return load_one(uri, specs.of(uri), database, how)

    return _load_each(options, uris, load)


def _load_each(
    options: argparse.Namespace, names: Sequence[str], load: Callable[[str, Database, Deadline], LoadReport]
) -> int:
    """Try each until a signal asks to stop, print what became of it, and give the exit code.

    A signal that came too late to stop anything changes nothing about that.
    """
    from loader.core.deadline import Deadline
    from loader.core.process.memory import keep_buffers
    from loader.core.process.signals import exit_code, run_stoppable
    from loader.core.report import LoadReport

    keep_buffers()
    deadline = Deadline()
    reports: list[LoadReport] = []

    def load_all() -> int:
        code = 0
        for number, name in enumerate(names):
            if deadline.stopped:
                _say(f"loader: {deadline.reached}; sources that were not begun: {len(names) - number}, from {name} on")
                return exit_code(deadline)
            try:
                reports.append(load(name, database, deadline))
            except LoaderError as error:
                _say(f"loader: {error}")
                code = max(code, error.exit_code)
                reports.append(error.report or LoadReport.failed(name, "", "", error))
                if deadline.stopped and error.retryable:
                    code = exit_code(deadline)
            else:
                if not options.json:
                    _print_report(reports[-1])
        return code

    with _database(options) as database:
        code = run_stoppable(load_all, deadline)
    if options.json and reports:
        _print_json(LoadReport.combine(reports).to_dict())
    return code


def _replay(options: argparse.Namespace) -> int:
    from loader.pipeline import How
    from loader.replays import replay, replay_source
    from loader.sources.source import expand

    if re.fullmatch("[0-9]+", options.what):  # a file of that name is ./7
        load_id = int(options.what)
        return _load_each(
            options,
            [options.what],
            lambda _, database, deadline: replay(
                load_id, database, source=options.source, how=How(force=options.force, deadline=deadline)
            ),
        )
    if options.source is not None:
        raise UsageError(
            f"{options.what}: is not a load's id, so the second argument, {options.source}, is one too many"
        )
    return _load_each(
        options,
        expand(options.what, note=_say),
        lambda uri, database, deadline: replay_source(uri, database, how=How(force=options.force, deadline=deadline)),
    )


class _SpecChoice:
    """The spec of ``--spec``, changed by the other options; without one, a plain spec for each source's name."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._spec = self._read(options.table) if options.spec or options.table else None

    def check(self, uris: Sequence[str]) -> None:
        """Raise UsageError where several sources have no table to go to."""
        if self._spec is None and len(uris) > 1:
            raise UsageError(f"{len(uris)} sources, and no --table or --spec to say where they go")

    def of(self, uri: str) -> LoadSpec:
        from loader.sources.source import table_for

        return self._spec if self._spec is not None else self._read(table_for(uri))

    def _read(self, table: str | None) -> LoadSpec:
        from loader.core.spec.model import LoadSpec

        options = self._options
        key = options.key.split(",") if options.key else None
        if options.spec:
            spec = LoadSpec.from_toml(options.spec, table=table, mode=options.mode, key=key)
            return spec.with_options(**_dialect(options), unknown=options.unknown)
        return LoadSpec.sniffed(
            table=table or "", mode=options.mode, key=key, **_dialect(options), unknown=options.unknown
        )


def _dialect(options: argparse.Namespace) -> dict[str, Any]:
    """What the options say of the file's dialect."""
    return {
        "delimiter": None if options.delimiter is None else options.delimiter.replace("\\t", "\t"),
        "header": False if options.no_header else None,
        "encoding": options.encoding,
        "null": options.null,
    }


def _infer(options: argparse.Namespace) -> int:
    from loader.convert.infer import infer_spec
    from loader.core.spec.model import LoadSpec
    from loader.sources.source import expand, open_source, table_for
    from loader.sources.standard_input import NAME

    notes: list[str] = []
    with open_source(
        expand(options.source, note=_say)[0], part_size=1 << 20, prefetch=1
    ) as source:  # a sample is enough
        asked = LoadSpec.sniffed(table=options.table or table_for(source.uri), **_dialect(options))
        spec = infer_spec(source, asked, note=notes.append)
        if source.uri != NAME:
            spec = replace(spec, source=re.sub(r"[*?\[]", r"[\g<0>]", source.uri))
    for note in notes:
        print(f"# {printable(note)}")
    print(spec.to_toml(), end="")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from loader.preview import preview
    from loader.sources.source import expand

    specs = _SpecChoice(options)
    uris = expand(options.source, note=_say)
    specs.check(uris)
    with _database(options) as database:
        previews = [preview(uri, specs.of(uri), database) for uri in uris]
    if options.json:
        documents = [each.to_dict() for each in previews]
        _print_json(documents[0] if len(documents) == 1 else documents)
    else:
        for each in previews:
            _print_preview(each)
    return 0


def _print_preview(told: Preview) -> None:
    keyed = f" by {', '.join(told.key)}" if told.key else ""
    print(printable(f"{told.source} → {told.table}: {told.mode}{keyed}, {told.size:,} bytes"))
    if told.versions:
        print(f"  each version of it is a {told.versions}")
    print(f"  {told.verdict}")
    print(f"  {told.way}")
    print(printable(f"  {told.lane}"))
    for column in told.columns:
        print(printable(f"    {column.name} {column.type} ← {column.read_from or 'the spec'}"))
    for note in told.notes:
        print(printable(f"  note: {note}"))
    for statement in told.statements:
        print(statement if statement.startswith("--") else f"{statement};")


def _status(options: argparse.Namespace) -> int:
    from loader.ledger.checkpoints import find
    from loader.ledger.ledger import find_load, history
    from loader.sharding.runs import find_summary

    if options.load_id is None:
        with _ledger(options) as connection:
            loads = history(connection)
        if options.json:
            _print_json(loads)
        else:
            _print_history(loads)
        return 0
    with _ledger(options) as connection:
        load = find_load(connection, options.load_id)
        checkpoint = find(connection, options.load_id) if load else None
        shards = find_summary(connection, options.load_id) if load else None
    if load is None:
        raise LoaderError(f"there is no load {options.load_id}")
    load["rows_staged"] = checkpoint.counts.kept if checkpoint else 0
    load["shards"] = shards
    if options.json:
        _print_json(load)
    else:
        for name, value in load.items():
            print(f"{name:17} {_shown(value)}")
    return 0


def _rejects(options: argparse.Namespace) -> int:
    from loader.ledger.ledger import find_load, rejects
    from loader.replays import find_original, write_rejects

    with _ledger(options) as connection:
        if options.format == "csv":
            original = find_original(connection, options.load_id)
            for left_out in write_rejects(connection, original, sys.stdout.buffer):
                _say(f"loader: {left_out}")
            return 0
        if find_load(connection, options.load_id) is None:
            raise LoaderError(f"there is no load {options.load_id}")
        for each in rejects(connection, options.load_id):
            print(to_json(each))
    return 0


def _check_specs(options: argparse.Namespace) -> int:
    from loader.spec_store import check_specs

    found = check_specs(options.place)
    wrong = sum(bool(each["problems"]) for each in found)
    if options.json:
        _print_json(found)
    else:
        for each in found:
            print(printable(f"{each['name']}: {'wrong' if each['problems'] else 'ok'}"))
            for problem in each["problems"]:
                print(printable(f"  - {problem}"))
        _say(f"{len(found)} specs, {wrong} of them wrong")
    return UsageError.exit_code if wrong else 0


def _local(options: argparse.Namespace) -> int:
    from loader import embedded_postgres as local

    if options.action == "start":
        print(local.start())
        _say(f"look inside with: {local.psql_command()}")
    else:
        _say("stopped" if local.stop() else "it was not running")
    return 0


@contextmanager
def _database(options: argparse.Namespace) -> Iterator[Database]:
    """Where ``--dsn`` or ``$LOADER_DSN`` says, else the embedded PostgreSQL, and how to connect to it."""
    from loader.postgres.database import Database

    dsn = options.dsn or os.environ.get("LOADER_DSN")
    if not dsn:
        from loader import embedded_postgres as local

        dsn = local.start()
        _say(f"embedded PostgreSQL at {dsn}")
        _say(f"look inside with: {local.psql_command()}")
    database = Database(dsn)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def _ledger(options: argparse.Namespace) -> Iterator[Connection]:
    """A connection to read the ledger on."""
    import psycopg2

    from loader.postgres.database import translate

    with _database(options) as database:
        try:
            with database.session() as connection:
                yield connection
        except psycopg2.Error as error:
            raise translate(error, "the ledger") from error


@contextmanager
def _progress_bar(uri: str, *, shown: bool) -> Iterator[Callable[[Progress], None] | None]:
    if not shown:
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=PurePath(uri).name, unit="B", unit_scale=True, unit_divisor=1024, leave=False) as bar:

        def update(progress: Progress) -> None:
            bar.total = progress.size
            elapsed = bar.format_dict["elapsed"]
            bar.set_postfix_str(f"{progress.rows / elapsed if elapsed else 0:,.0f} rows/s", refresh=False)
            bar.update(progress.bytes_read - bar.n)

        yield update


def _print_report(report: LoadReport) -> None:
    from loader.core.report import summarize_rejects

    names = printable(f"{report.source} → {report.table}")
    print(f"{names}: {report.state} (load {report.load_id}) in {report.seconds:.1f} s")
    if report.state == "loaded":
        counts = ("inserted", "updated", "unchanged", "duplicate", "filtered", "rejected")
        parts = [(name, getattr(report, f"rows_{name}")) for name in counts]
        sums = " + ".join(f"{count:,} {name}" for name, count in parts if count) or "nothing"
        print(f"  {report.rows_read:,} read = {sums}")
    for note in report.notes:
        print(printable(f"  note: {note}"))
    if report.rows_rejected:
        for line in summarize_rejects(report.rejects_by_reason, report.rejects_by_column):
            print(printable(f"    {line}"))
        print(
            f"  see what was rejected with: loader rejects {report.load_id}; "
            f"mend it and load it with: loader replay {report.load_id} FILE"
        )


def _print_history(loads: Iterable[dict[str, Any]]) -> None:
    line = "{:>6}  {:8} {:19}  {:>12} {:>9}  {:24} {}"
    print(line.format("load", "state", "started", "read", "rejected", "table", "source"))
    for load in loads:
        started = f"{load['started_at']:%Y-%m-%d %H:%M:%S}"
        rejected = sum((load["rejects_by_reason"] or {}).values())  # of a load that failed too
        counts = f"{load['rows_read']:,}", f"{rejected:,}"
        names = printable(load["target"]), printable(load["source"])
        print(line.format(load["load_id"], load["state"], started, *counts, *names))
        if story := _story(load):
            print(f"{'':8}{story}")
        if load["error"] or (load["attempts"] > 1 and load["last_error"]):
            print(f"{'':8}{printable(load['error'] or load['last_error'], lines=True)}")


def _story(load: dict[str, Any]) -> str:
    """How a load went, where there is more to tell than that it did."""
    counted = ((load["attempts"], "attempts", 1), (load["handovers"], "handovers", 0), (load["resumes"], "resumes", 0))
    told = [f"{count} {what if count > 1 else what[:-1]}" for count, what, usual in counted if count > usual]
    return ", ".join([*told, f"waited {load['waited']:.0f} s"] if load["waited"] >= 1 else told)


def _print_json(document: object) -> None:
    print(to_json(document, default=_plain))


def _plain(value: object) -> object:
    """A ledger's value for JSON."""
    return value.isoformat() if hasattr(value, "isoformat") else value


def _shown(value: object) -> object:
    """A ledger's value for people."""
    if isinstance(value, str):
        return printable(value)
    return to_json(value) if isinstance(value, dict | list) else _plain(value)


def _say(message: str) -> None:
    print(printable(message, lines=True), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
