"""Local times of any zone are what the server makes of them, whatever this machine's time zone data say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg2
import pytest
from support.postgres import query
from support.zones import ZoneLaw

import loader
from loader.core.errors import SpecError
from loader.core.spec.datetimes import year_start
from loader.postgres.time_zones import zone_faults

ROUNDS = int(os.environ.get("ZONE_ROUNDS", "1"))
"""Times that each zone is tried; a long run has hundreds."""

POSIX = [
    "UTC+3",
    "utc+3",
    "EST5EDT4,M3.2.0,M11.1.0",
    "CET",
    "europe/berlin",
    "<+0530>-05:30",
    "XXX-1:23",
    "GMT0",
    "ABC-20",
    "ABC3XYZ,M3.2.0/2,M3.2.0/20",
]  # further than a text may be; twice in a day
"""Zones that PostgreSQL takes, and Python does not, or not in that spelling."""


@pytest.fixture
def law(server: str) -> Iterator[ZoneLaw]:
    law = ZoneLaw(server, seed=1900)
    yield law
    law.close()


@pytest.mark.every_postgres
def test_client_and_server_agree_in_all_zones_of_the_server(law: ZoneLaw) -> None:
    """At random times from 1900 to 2100, and around changes of the clocks: skipped times, and times that come twice."""
    for name in (law.names[:: max(1, 6 // ROUNDS)] if ROUNDS < 6 else law.names) * max(1, ROUNDS // 6):
        law.check(name, law.times(name, 40))


def test_zones_in_any_spelling_that_postgresql_takes(law: ZoneLaw) -> None:
    for zone in POSIX:
        law.check(
            zone, law.times(zone, 40) + law.times(zone, 40, range(1, 1800)) + law.times(zone, 40, range(2100, 9999))
        )


def test_clocks_that_change_twice_in_a_day(law: ZoneLaw) -> None:
    """As no clocks of the world do, but a rule may say it."""
    day = datetime(2026, 3, 8, tzinfo=UTC).timestamp() * 1_000_000
    law.check("ABC3XYZ,M3.2.0/2,M3.2.0/20", [int(day) + hour * 3_600_000_000 for hour in range(24)])


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Sao_Paulo", "Africa/Casablanca", "Europe/Dublin"])
def test_far_years_follow_the_same_rules(law: ZoneLaw, zone: str) -> None:
    """Where the tables of changes end, a rule is all there is; 9999-12-31 is a usual way to write "never"."""
    law.check(
        zone, [year_start(9999) + 1, year_start(10_000) - 1, year_start(2), *law.times(zone, 60, range(2100, 9999))]
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "at.csv"
    path.write_text("at\n2026-12-01 12:00:00\nDec 1 2026 12:00\n2026-12-01T12:00:00\n")
    return path


@pytest.mark.parametrize(
    "zone", ["America/Vancouver", "UTC+3", "EST5EDT4,M3.2.0,M11.1.0", "CET", "utc+3", "asia/gaza", "ABC-20"]
)
def test_a_columns_zone_is_the_servers(dsn: str, file: Path, zone: str) -> None:
    """However a time is spelled, and so whoever reads it: the kernel, Arrow, or the server."""
    column = {"type": "timestamptz", "timezone": zone}
    loader.load(str(file), {"table": "t", "columns": {"at": column}}, dsn=dsn)
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT set_config('timezone', %s, false)", (zone,))
        cursor.execute("SELECT DISTINCT at::timestamp FROM t")
        assert cursor.fetchall() == [(datetime(2026, 12, 1, 12),)]
    connection.close()


@pytest.mark.every_postgres
@pytest.mark.parametrize(
    "zone", ["UTC+3", "utc-2", "XYZ+3UTC", "<UTC>+3:30", "<Z>+3", "ABC5Z", "GMT+3", "Europe/London", "Etc/UTC"]
)
def test_a_word_for_a_zone_is_the_servers(dsn: str, tmp_path: Path, zone: str) -> None:
    """PostgreSQL 18 looks for it in the session's own zone first, so there "UTC" may be any offset."""
    texts = [f"2026-{month}-01 12:00:00{word}" for month in ("01", "07") for word in (" UTC", "Z", " GMT", " utc", "")]
    (tmp_path / "t.csv").write_text("n,at\n" + "".join(f"{n},{text}\n" for n, text in enumerate(texts)))
    ((name,),) = query(dsn, "SELECT current_database()")
    query(dsn, f"ALTER DATABASE {name} SET timezone TO '{zone}'")
    columns = {"n": "int", "at": "timestamptz"}
    loader.load(str(tmp_path / "t.csv"), {"table": "t", "columns": columns}, dsn=dsn)
    values = ", ".join(f"({n}, '{text}')" for n, text in enumerate(texts))
    assert query(dsn, f"SELECT n, text, at, text::timestamptz FROM t JOIN (VALUES {values}) AS v (n, text) USING (n)"
                      " WHERE at <> text::timestamptz") == []  # fmt: skip


def test_a_format_and_a_step_keep_the_zone(dsn: str, tmp_path: Path) -> None:
    path = tmp_path / "at.csv"
    path.write_text("a;b\n01.12.2026 12:00; 2026-12-01 12:00 \n")
    columns = {
        "a": {"type": "timestamptz", "timezone": "America/Vancouver", "format": "%d.%m.%Y %H:%M"},
        "b": {"type": "timestamptz", "timezone": "America/Vancouver", "transform": ["strip"]},
    }
    loader.load(str(path), {"table": "t", "csv": {"delimiter": ";"}, "columns": columns}, dsn=dsn)
    expected = query(dsn, "SELECT timestamp '2026-12-01 12:00' AT TIME ZONE 'America/Vancouver'")[0][0].astimezone(UTC)
    assert [each.astimezone(UTC) for each in query(dsn, "SELECT a, b FROM t")[0]] == [expected] * 2


def test_a_filters_text_is_in_the_sessions_zone(dsn: str, file: Path) -> None:
    """The role's TimeZone, by the server's data."""
    ((name,),) = query(dsn, "SELECT current_database()")
    query(dsn, f"ALTER DATABASE {name} SET timezone TO 'America/Vancouver'")
    spec = {"table": "t", "columns": {"at": "timestamptz"}, "transform": {"filter": "at = '2026-12-01 12:00'"}}
    report = loader.load(str(file), spec, dsn=dsn)
    assert (report.rows_inserted, report.rows_filtered) == (3, 0)


def test_a_domain_over_timestamptz_has_a_zone(dsn: str, file: Path) -> None:
    query(dsn, "CREATE DOMAIN moment AS timestamptz CHECK (VALUE > '2000-01-01 UTC')")
    column = {"type": "moment", "timezone": "+05:30"}
    loader.load(str(file), {"table": "t", "columns": {"at": column}}, dsn=dsn)
    assert query(dsn, "SELECT DISTINCT at AT TIME ZONE 'UTC' FROM t") == [(datetime(2026, 12, 1, 6, 30),)]


def test_a_zone_that_the_server_does_not_have_is_the_specs_fault(dsn: str, file: Path) -> None:
    spec = {"table": "t", "columns": {"at": {"type": "timestamptz", "timezone": "Europe/Berln"}}}
    with pytest.raises(SpecError, match=r'no time zone "Europe/Berln"; did you mean "Europe/Berlin"\?'):
        loader.load(str(file), spec, dsn=dsn)


def test_what_is_wrong_with_zones(dsn: str) -> None:
    with psycopg2.connect(dsn) as connection:
        assert list(zone_faults(connection, [*POSIX, "nowhere"])) == ["nowhere"]
    connection.close()
