"""What the texts of a spec mean to the server: its time zones, defaults and filter, asked before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import psycopg2
from psycopg2 import sql

from loader.core.display import brief
from loader.core.errors import SpecError
from loader.core.faults import is_servers
from loader.core.spec.datetimes import Zones
from loader.postgres.database import Database
from loader.postgres.filter_sql import lane_name
from loader.postgres.load_column import LoadColumn
from loader.postgres.statements import execute
from loader.postgres.time_zones import server_zones, zone_faults


class SpecServer:
    """Asks a server about a spec. ``session_zone`` is the zone of its sessions.

    ``zones``: the server's, for local times of a file. Safe to share between threads.
    """

    def __init__(self, database: Database, session_zone: str) -> None:
        self._database = database
        self.session_zone = session_zone
        self.zones: Zones = server_zones(database, session_zone)

    def zone_faults(self, zones: Iterable[str]) -> Mapping[str, str]:
        """What is wrong with those ``zones`` that the server does not have, in a sentence each."""
        with self._database.session() as connection:
            return zone_faults(connection, zones)

    def spell_defaults(self, columns: Sequence[LoadColumn]) -> dict[str, str]:
        """Defaults as the server spells the values that they are now, by the names of ``columns``, which all have one.

        ``today`` becomes a date. Raises SpecError for those that it refuses.
        """
        spelled: dict[str, str] = {}
        problems: list[str] = []
        for column in columns:
            assert column.default is not None
            spelling, message = self._spell(column, column.default)
            if spelling is None:
                why = brief(message, [column.default])
                problems.append(
                    f'columns.{column.name}: the default "{column.default}" is not a valid {column.type.name}: {why}'
                )
            else:
                # there are types, such as regoper, that do not read what they write
                reads = spelling == column.default or self._spell(column, spelling)[0] == spelling
                spelled[column.name] = spelling if reads else column.default
        if problems:
            raise SpecError(problems)
        return spelled

    def _spell(self, column: LoadColumn, text: str) -> tuple[str | None, str]:
        """How the server spells the value that ``text`` is to the column; None where it refuses it, with why."""
        import numpy as np

        from loader.convert.lanes.server_lane import TextLane
        from loader.convert.rows import Doubtful
        from loader.core.arrays import texts

        asked = Doubtful.of([texts([text])], [column.name], np.zeros(1, np.int64), suspects=[])
        with TextLane(self._database, [column], self.session_zone) as lane:
            values, judged = lane.canonical(asked)
        if judged.refusals:
            return None, judged.refusals[0].message
        return values.column(0)[0].as_py(), ""

    def check_filter(self, columns: Sequence[LoadColumn], where: sql.Composable) -> None:
        """Raises SpecError where the server does not know what the filter means over ``columns``, as `where` has it."""
        typed = [
            sql.SQL("NULL::{} AS {}").format(sql.SQL(column.type.name), lane_name(place))
            for place, column in enumerate(columns)
        ]
        question = sql.SQL("EXPLAIN SELECT FROM (SELECT {}) AS record WHERE {}")
        try:
            with self._database.session() as connection:
                execute(connection, question.format(sql.SQL(", ").join(typed), where))
        except psycopg2.Error as error:
            if error.pgcode is None or is_servers(error.pgcode):
                raise
            raise SpecError([f"transform.filter: {brief(error.diag.message_primary or str(error))}"]) from error
