"""Everything about one load that is settled before its first record is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from loader.core.spec.datetimes import Zones
from loader.core.spec.model import LoadSpec
from loader.ledger.checkpoints import Found
from loader.postgres.load_column import LoadColumn
from loader.postgres.tables import Table

if TYPE_CHECKING:
    from psycopg2 import sql

    from loader.convert.hooks import Hook
    from loader.core.spec.filter import Mask


STAGED_FORM = 2
"""To be raised when this program stages rows in another form, so that nobody goes on with those of an earlier one."""


BLOCK_RECORDS = 1 << 17
"""Records of a block at most. Shorter ones than 8 bytes are rare in good files, and each costs memory of its own."""


BLOCK_BYTES = 4 << 20
"""Bytes that the columns of a block may come to, where the spec decides how long their values are."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A spec's filter. ``mask``: as Arrow applies it; ``where``: as PostgreSQL does, over the table of the text lane.
    ``by_server``: no record is sure to Arrow."""

    mask: Mask
    where: sql.Composable
    by_server: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """``columns`` as the table has them; ``added`` of them it has to be given first, ``absent`` a new table has beside
    them. ``reading``: the same as they are read, with the server as the judge of every value where it has to make
    one column's anyway.

    ``straight``: COPY writes into the target itself, inside the one transaction, because nothing has to be merged
    (the load appends, or the target is empty and tells keys apart itself), no trigger may leave rows out, and to begin
    again would cost little; else into a staging table.
    ``guarded``: only the rows that the target has keep the load from going straight, and the target itself would refuse
    a key that it has. ``renamed``: straight into a table that the load creates, under another name until it is full
    (see `routes.Renamed`). ``found``: see `checkpoints`. ``zones``: where local times are, as the server has them.
    ``encoding``: the database's, by PostgreSQL's name.
    """

    spec: LoadSpec
    table: Table
    columns: tuple[LoadColumn, ...]
    added: tuple[LoadColumn, ...]
    absent: tuple[LoadColumn, ...]
    fields: int
    key: tuple[str, ...]
    reading: tuple[LoadColumn, ...]
    straight: bool
    guarded: bool
    renamed: bool
    found: Found
    session_zone: str
    inferred: Mapping[str, str]
    hook: Hook | None
    filter: Filter | None
    zones: Zones
    notes: tuple[str, ...]
    encoding: str = "UTF8"

    @property
    def block_records(self) -> int:
        """Records that are worked on at once, so that what they become is bounded however short their lines are.

        It cuts no block of records of the right shape without defaults: those have a byte at least for each field.
        """
        weight = sum(_weight(column) for column in self.columns)
        if self.spec.csv.ragged == "pad":
            weight += self.fields * (len(self.spec.csv.delimiter) + min(map(len, self.spec.csv.null), default=0))
        return max(1, min(BLOCK_RECORDS, BLOCK_BYTES // max(weight, 1)))

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides what staged rows look like, beside the spec: where it differs, rows that were
        staged before are not those that would be staged now."""
        types = [
            (
                *(each.name, each.type.name, each.type.wire, each.type.labels, each.zone, each.not_null),
                *filter(None, [each.collation]),
            )
            for each in self.columns
        ]
        settled = [str(self.table), self.key, types, self.fields, self.session_zone, asdict(self.found), STAGED_FORM]
        if self.renamed:
            settled += ["renamed", [(each.name, each.type.name) for each in self.absent]]
        return sha256(json.dumps(settled).encode()).hexdigest()


_LEAST = 4  # bytes, of a value with its length: no block of a mebibyte of well-shaped records is over the limit


_PLACEHOLDER = 1024  # bytes: a key of S3 has no more


def _weight(column: LoadColumn) -> int:
    """Bytes of one value of the column, of those that the spec adds to what the file holds."""
    made = [pair[1] for step in column.steps for pair in step.args if isinstance(pair, tuple)]
    value = column.value or ""
    longest = max(map(len, [column.default or "", value, *made]))
    return _LEAST + longest + _PLACEHOLDER * value.count("{")
