"""Rejected records out, and in again: written as a file that can be mended, and loaded as a load of their own.

Three ways in: `replay` takes a mended file, or without one the kept records as they are (it was the table that was
mended); `replay_source` takes a whole object again, as it was loaded last. What is loaded is entered in the ledger
with ``replay_of``, and takes effect once for each load that it mends.
"""

from __future__ import annotations

import string
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.core.errors import LoaderError, TableError
from loader.core.report import LoadReport
from loader.core.spec.model import ColumnSpec, CsvSpec, LoadSpec, RejectSpec
from loader.core.stored import read_stored
from loader.ledger import ledger
from loader.ledger.ledger import Raw
from loader.pipeline import PLAINLY, How, Load, load_one, with_token
from loader.postgres import catalog
from loader.postgres.database import Database, translate
from loader.postgres.tables import Table
from loader.records.block import RAW_LIMIT, layout
from loader.records.dialect import Dialect
from loader.sources.files import FileSource
from loader.sources.source import Source, open_source

_KEPT = "the rejects of load "

TOLD = 10
"""Records that a report's notes name one by one; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Original:
    """The load whose rejects are looked at: how its file was written, and what it was told.

    ``header`` is None where the file has none. ``csv`` is the dialect of the rejects' file: the original's, in
    UTF-8, with nothing before the header and nothing after the last record.
    """

    load_id: int
    state: str
    source: str
    target: str
    header: tuple[str, ...] | None
    csv: CsvSpec
    spec: LoadSpec
    replaced: dict[str, str]


def find_original(connection: Connection, load_id: int) -> Original:
    """Load ``load_id`` as the ledger has it.

    Raises LoaderError where there is none, or where nobody knows how its file was written: then it failed
    before it had read that much, or an early version of this program made it.
    """
    entry = ledger.find_load(connection, load_id)
    if entry is None:
        raise LoaderError(f"there is no load {load_id}")
    if entry["dialect"] is None:
        raise LoaderError(
            f"load {load_id}: the ledger does not have its file's header and dialect; its rejects can be had with: "
            f"loader rejects {load_id} --format jsonl"
        )
    return Original(
        load_id=load_id,
        state=entry["state"],
        source=entry["source"],
        target=entry["target"],
        header=None if entry["header"] is None else tuple(entry["header"]),
        csv=_csv_of_rejects(entry["dialect"], has_header=entry["header"] is not None),
        spec=LoadSpec.from_stored(entry["spec"], origin=f"load {load_id}'s spec"),
        replaced={"bucket": entry["bucket"] or "", "key": entry["key"], "version_id": entry["version"] or ""},
    )


def _csv_of_rejects(dialect: dict[str, Any], *, has_header: bool) -> CsvSpec:
    settings = read_stored(CsvSpec, dialect, what="a file's dialect")
    return replace(
        settings,
        null=tuple(settings.null),
        encoding="utf-8",
        compression="auto",
        header=has_header,
        header_rows=1,
        skip_lines=0,
        skip_footer=0,
        sniff=False,
    )


# --- out


def write_rejects(connection: Connection, original: Original, out: IO[bytes]) -> Iterator[str]:
    """Write the rejects of a load as the file that they came from had them: its header, then each record as it stood.

    Gives a sentence for each that is left out because not all of it was kept.
    """
    _write_header(original, out)
    for raw in ledger.raw_rejects(connection, original.load_id):
        if raw.whole:
            out.write(raw.data + b"\n")
        else:
            yield f"{_place(original, raw)} {_cut(raw)}; take it from the source"


def _place(original: Original, raw: Raw) -> str:
    return f"{original.source}: record {raw.record:,} (line {raw.line:,})"


def _cut(raw: Raw) -> str:
    length = "of unknown length" if raw.length is None else f"of {raw.length:,} bytes"
    return f"{length} was kept only up to {RAW_LIMIT:,} bytes"


def _write_header(original: Original, out: IO[bytes]) -> None:
    if original.header is not None:
        names = (_header_field(name, original.csv) for name in original.header)
        out.write(original.csv.delimiter.join(names).encode() + b"\n")


def _header_field(name: str, csv: CsvSpec) -> str:
    """A header's name as a field: quoted where it has to be, and the dialect can."""
    structural = (csv.delimiter, csv.quote, "\n", "\r")
    plain = not any(each in name for each in structural if each) and not (csv.comment and name.startswith(csv.comment))
    if plain or not csv.quote:
        return name
    escape = csv.escape or csv.quote
    for special in dict.fromkeys((escape, csv.quote)):
        name = name.replace(special, escape + special)
    return f"{csv.quote}{name}{csv.quote}"


# --- in again


def replay(
    load_id: int, database: Database, *, source: str | None = None, how: How = PLAINLY, s3: Any = None
) -> LoadReport:
    """Load the rejects of load ``load_id`` into its target, with its spec; or, if it is not through, go on with it.

    ``source``: the mended records, as `write_rejects` writes them: a path, ``s3://bucket/key``, or "-" for standard
    input. None: the kept ones, as they are. All of them may be rejected again; ``max_rows`` holds, ``max_ratio`` does
    not, for these are the bad ones. Mode "replace" becomes "merge" where the table has a key and "append" where it
    has none: a replay must not delete the rest.

    Raises LoaderError where there is no such load, or it has not loaded anything itself, or there is nothing to
    replay, and else as `pipeline.load`.
    """
    with _clear_errors(load_id), database.session() as connection:
        entry = ledger.find_load(connection, load_id)
    if entry is not None and entry["state"] not in ("loaded", "superseded") and source is None:
        return _go_on(entry, database, how, s3)
    with _clear_errors(load_id), database.session() as connection:
        original = find_original(connection, load_id)
        _check_loaded(original)
        spec, notes = _spec_of_replay(connection, original)
        notes += tuple(
            f"load {load_id} was replayed before, by load {earlier}"
            for earlier in ledger.find_replays(connection, load_id)
        )
    how = replace(how, replay_of=load_id)
    if source is not None:
        return _with_notes(notes, lambda: _load(lambda: open_source(source, client=s3), source, spec, database, how))
    with tempfile.TemporaryDirectory(prefix="loader-replay-") as folder:
        path = Path(folder) / "records.csv"
        name = f"{_KEPT}{load_id}"
        version, more = _write_kept(database, original, path)
        notes += more
        return _with_notes(
            notes, lambda: _load(lambda: FileSource(str(path), name=name, version=version), name, spec, database, how)
        )


def _go_on(entry: dict[str, Any], database: Database, how: How, s3: Any) -> LoadReport:
    """One more attempt at a load that is not through: from its checkpoint on, where that still holds."""
    how = replace(how, force=how.force or entry["forced"], token=how.token or entry["token"])
    if entry["replay_of"] is not None:
        if not entry["source"].startswith(_KEPT):
            how = replace(how, replay_of=entry["replay_of"])
        else:
            return replay(entry["replay_of"], database, how=how, s3=s3)
    spec = LoadSpec.from_stored(entry["spec"], origin=f"load {entry['load_id']}'s spec")
    version = entry["version"] if entry["bucket"] and not str(entry["version"]).startswith("etag:") else None
    how = replace(how, sequencer=how.sequencer or entry["sequencer"])
    return load_one(entry["source"], spec, database, how, version_id=version, s3=s3)


def _check_loaded(original: Original) -> None:
    """The rejects of a load that is not through are not all that is missing of its file."""
    if original.state == "superseded":
        raise LoaderError(f"load {original.load_id} was superseded by a newer version of its source")
    if original.state != "loaded":
        raise LoaderError(
            f"load {original.load_id} is not through and changed nothing; go on with it with: "
            f"loader replay {original.load_id}"
        )


def _load(open_it: Callable[[], Source], name: str, spec: LoadSpec, database: Database, how: How) -> LoadReport:
    try:
        with open_it() as source:
            return Load(source, spec, database, with_token(how)).run()
    except LoaderError as error:
        if error.report is None:  # it could not even be opened
            error.report = LoadReport.failed(name, spec.table, spec.mode, error, replay_of=how.replay_of)
        raise


def _with_notes(notes: tuple[str, ...], load: Callable[[], LoadReport]) -> LoadReport:
    try:
        report = load()
    except LoaderError as error:
        if error.report is not None:
            error.report = replace(error.report, notes=notes + error.report.notes)
        raise
    return replace(report, notes=notes + report.notes)


def _write_kept(database: Database, original: Original, path: Path) -> tuple[str, tuple[str, ...]]:
    """Write the kept rejects to ``path``. Gives what stands for a version, and notes on those that were left out.

    Left out are those that were cut, and those whose quotes do not end where they do: one of them would swallow
    the next.
    """
    dialect = Dialect.of(original.csv)
    left: list[str] = []
    out_of = written = 0
    digest = sha256()
    with _clear_errors(original.load_id), database.session() as connection, path.open("wb") as out:
        _write_header(original, out)
        for raw in ledger.raw_rejects(connection, original.load_id):
            out_of += 1
            problem = _cut(raw) if not raw.whole else None if _stands_alone(raw, dialect) else "has an unbalanced quote"
            if problem is None:
                written += 1
                digest.update(raw.data + b"\n")
                out.write(raw.data + b"\n")
            elif len(left) < TOLD:
                left.append(f"{_place(original, raw)} {problem}: it is left out and has to be mended")
    if not written:
        nothing = (
            f"none of its {out_of:,} rejects can be loaded as they are; {left[0]}" if left else "it has no rejects"
        )
        raise LoaderError(f"load {original.load_id}: {nothing}")
    if (untold := out_of - written - len(left)) > 0:
        left.append(f"{untold:,} more records are left out and have to be mended")
    # of its own kind: records of one load are not those of another, though they may be spelt alike
    return f"rejects:{original.load_id}:sha256:{digest.hexdigest()}", tuple(left)


def _stands_alone(raw: Raw, dialect: Dialect) -> bool:
    return raw.reason != "unbalanced_quote" and len(layout(raw.data + b"\n", dialect).ends) == 1


# --- the spec of a replay


def _spec_of_replay(connection: Connection, original: Original) -> tuple[LoadSpec, tuple[str, ...]]:
    """The original's spec for its rejects alone, and notes on what was changed."""
    spec = original.spec
    table = catalog.describe(connection, *spec.table_name)
    if str(table) != original.target:
        raise TableError(f'load {original.load_id} went into {original.target}, but "{spec.table}" is now {table}')
    notes: tuple[str, ...] = ()
    if spec.mode == "replace":
        key = _key_of(original, table)
        spec = replace(spec, mode="merge" if key else "append", key=key)
        notes = (f'mode "replace" is replayed as "{spec.mode}", so that the rows loaded before stay',)
    return replace(
        spec,
        csv=original.csv,
        rejects=RejectSpec(max_rows=spec.rejects.max_rows, max_ratio=1.0),
        columns=tuple(_with_original_source(column, original) for column in spec.columns),
    ), notes


def _key_of(original: Original, table: Table) -> tuple[str, ...]:
    """The spec's key, else the primary key if the file has a column for each of its parts."""
    if original.spec.key:
        return original.spec.key
    named = [each.name for each in original.spec.columns] or original.header
    if named is None or {_folded(each) for each in table.primary_key} <= {_folded(each) for each in named}:
        return table.primary_key
    return ()


def _folded(name: str) -> str:
    return name.strip().casefold()


def _with_original_source(column: ColumnSpec, original: Original) -> ColumnSpec:
    """A column made of ``{key}`` and the like tells of the object that the records stood in first."""
    if column.value is None:
        return column
    pieces = []
    for literal, name, _, _ in string.Formatter().parse(column.value):
        pieces.append(_escaped(literal))
        if name is not None:
            pieces.append(_escaped(original.replaced[name]) if name in original.replaced else f"{{{name}}}")
    return replace(column, value="".join(pieces))


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


# --- a whole object again


def replay_source(uri: str, database: Database, *, how: How = PLAINLY, s3: Any = None) -> LoadReport:
    """Load the object or file ``uri`` again, with the spec of its newest load in the ledger, whatever became of that.

    A version that was loaded already is skipped, unless ``how`` forces it. Raises LoaderError where the ledger has no
    load of it, and else as `pipeline.load`.
    """
    with open_source(uri, client=s3) as source:
        bucket, key, name = source.bucket, source.key, source.uri
    with _clear_errors(None), database.session() as connection:
        entry = ledger.find_newest(connection, bucket, key)
    if entry is None:
        raise LoaderError(f"{name}: the ledger has no load of it; load it with: loader load")
    spec = LoadSpec.from_stored(entry["spec"], origin=f"load {entry['load_id']}'s spec")
    if entry["dialect"] is None and not spec.csv.header and len(spec.columns) > 1:
        raise LoaderError(  # version 1 of the ledger kept specs as jsonb
            f"{name}: the ledger may not have the right order of its columns; load it with: loader load --spec"
        )
    return load_one(uri, spec, database, how, s3=s3)


@contextmanager
def _clear_errors(load_id: int | None) -> Iterator[None]:
    """psycopg2's errors as this package's."""
    try:
        yield
    except psycopg2.Error as error:
        raise translate(error, "the ledger" if load_id is None else f"load {load_id} in the ledger") from error
