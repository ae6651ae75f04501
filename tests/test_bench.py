"""The benchmark's arithmetic, its options, what it publishes and what not, and that it runs against every server."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import parse_dsn
from support.clients import wait_for
from support.cluster import made_once
from support.docker import IMAGE, POSTGRES, need
from support.postgres import query, run_alone

from bench import hosts, parts
from bench.__main__ import main, publish
from bench.data import DATA, one_record
from bench.figures import faster, without_start
from bench.function import group_fault, image_fault
from bench.hosts import LocalProcesses
from bench.limits import DOLLARS_PER_GB_SECOND, DOLLARS_PER_REQUEST, cost, priced
from bench.measure import Figure, ratio
from bench.options import LIMITS, PARTS, parse
from bench.plaincopy import NoWordsError, PlainCopy
from bench.servers import Choice, as_uri, own_server, within
from bench.shapes import EVERY, SHAPES
from bench.targets import targets
from loader.core.spec.model import LoadSpec

ROOT = Path(__file__).parent.parent


def test_where_the_results_go_by_default() -> None:
    """A part below build/, what is published beside the docs."""
    told = parse([])
    assert (told.build, told.results, told.docs) == (Path("build/bench"), Path("bench/results"), Path("docs"))


def test_a_figure_is_the_median_and_its_spread() -> None:
    assert Figure.of([3.0, 1.0, 10.0]) == Figure(3.0, 1.0, 10.0)


def test_a_ratio_is_made_round_by_round() -> None:
    """What slowed a whole round slowed both, and cancels out."""
    assert ratio([1.0, 10.0], [2.0, 20.0]) == Figure(2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0], [2.0, 3.0])


def test_lambda_is_paid_by_memory_and_time() -> None:
    """A second of 1,024 MB is a GB-second; each request costs beside that."""
    assert cost(2.0, 1024) == pytest.approx(2 * DOLLARS_PER_GB_SECOND + DOLLARS_PER_REQUEST)
    assert cost(2.0, 512) == pytest.approx(DOLLARS_PER_GB_SECOND + DOLLARS_PER_REQUEST)


def test_prices_are_for_a_million_rows_and_a_terabyte() -> None:
    found = {"seconds": 10.0, "cold": 11.0, "peak": 150.0}
    limits = {"rows": 2_000_000, "bytes": 10**9, "sizes": {"512": {"x": found}, "256": {"x": {"failed": "no"}}}}
    good, bad = priced(limits, "x")
    assert bad == {"memory": 256, "failed": "no"}
    assert good["rate"] == 200_000
    assert good["gb_seconds"] == pytest.approx(2.5)
    assert good["terabyte"] == pytest.approx(cost(10.0, 512) * 1000)
    assert good["million"] == pytest.approx(cost(10.0, 512) / 2)


def test_the_cpu_of_a_backend_that_ends_meanwhile_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The postmaster was read before it waited for its child, and the child was gone when its turn came."""

    def postmaster(waited: int) -> tuple[int, list[str]]:
        fields = ["S", "1", *("0",) * 9, "1", "2", str(waited), "0"]  # from the third field of proc(5) on
        return 7, fields

    scans = iter([[postmaster(0)], [postmaster(50)], [postmaster(50)]])
    monkeypatch.setattr(hosts, "_processes", lambda: next(scans))
    assert LocalProcesses(7).cpu() == 53 / os.sysconf("SC_CLK_TCK")


def test_a_start_is_left_out_of_the_clients_cpu() -> None:
    """By what a load of one record takes."""
    found = {
        "rows": {"loader": 2_000_000},
        "runs": {"loader": [{"client_cpu": 1.5}, {"client_cpu": 1.3}, {"client_cpu": 9.0}]},
        "starts": {"loader": [{"client_cpu": 0.5}]},
    }
    assert without_start(found, "loader") == pytest.approx(0.5)


def test_who_ran_less_often_is_compared_by_the_others_median() -> None:
    """Such as a peer that is too slow for every round, or a contender that failed in one."""
    runs = {"loader": [{"seconds": each} for each in (1.0, 2.0, 9.0)], "slow": [{"seconds": 10.0}]}
    found = {"rows": {"loader": 1000, "slow": 500}, "runs": runs}
    assert faster(found, "slow") == Figure(10.0, 10.0, 10.0)
    assert faster(found, "loader", "slow") == Figure(0.1, 0.1, 0.1)
    assert faster(found, "absent") is None


# --- options


@pytest.mark.parametrize(
    ("arguments", "image"),
    [
        (["--server", "container"], "postgres:18"),
        (["--server", "container:16"], "postgres:16"),
        (["--server", "container", "--tag", "15-alpine"], "postgres:15-alpine"),
        (["--server", "container:postgres:18"], "postgres:18"),
        (["--server", "container:registry.example/team/postgres"], "registry.example/team/postgres"),
    ],
)
def test_a_container_is_of_any_tag(arguments: list[str], image: str) -> None:
    assert parse(arguments).server.image == image


def test_a_containers_limits_reach_its_server() -> None:
    """shared_buffers must leave room in a small container."""
    told = parse(["--server", "container", "--server-cpus", "1.5", "--server-memory", "2g"]).server
    assert told == Choice("postgres:18", 1.5, 2048)
    assert told.settings["shared_buffers"] == "512MB"
    assert Choice("postgres:18").settings["shared_buffers"] == "1GB"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--scenario", "nothing"],
        ["--server", "cloud"],
        ["--server", "embedded:18"],
        ["--server", "container:17", "--tag", "18"],
        ["--server-cpus", "2"],
        ["--server", "container", "--dsn", "postgresql://host/db"],
        ["--server", "container", "--server-memory", "much"],
        ["--server", "container", "--server-cpus", "0"],
        ["--rows", "0"],
        ["--file", "no/such/file.csv", "--spec", "pyproject.toml"],
        ["--file", "README.md"],
        ["--spec", "pyproject.toml"],
        ["--file", "README.md", "--spec", "pyproject.toml", "--keep"],
        ["--file", "README.md", "--spec", "pyproject.toml", "--scenario", "append"],
        ["--file", "README.md", "--spec", "pyproject.toml", "--table-ddl", "CREATE TABLE t (a int)"],
    ],
)
def test_wrong_options_are_refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as refused:
        parse(arguments)
    assert refused.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--scenario", "staging"],
        ["--rows", "1000"],
        ["--rounds", "1"],
        ["--no-peers"],
        ["--no-limits"],
        ["--keep"],
        ["--server", "container"],
        ["--dsn", "postgresql://host/db"],
    ],
)
def test_only_the_whole_suite_publishes_of_itself(arguments: list[str]) -> None:
    assert parse([]).full
    assert not parse(arguments).full


def test_limits_are_a_part_for_each_size() -> None:
    assert parse(["--scenario", "append,limits"]).parts == ("append", *LIMITS)
    assert "limits-128" in LIMITS
    assert not set(parse(["--no-limits"]).parts) & set(LIMITS)


# --- parts, and what is published of them


def bench(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """``python -m bench`` as a user runs it."""
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def kept() -> Path:
    """The build folder after two runs that kept their parts, on a few rows; tests only read it."""
    return made_once("bench", two_runs) / "build"


def two_runs(folder: Path) -> None:
    build, published = folder / "build", folder / "published"
    published.mkdir()
    (published / "benchmarks.md").write_text("as it was")
    (published / "latest.json").write_text("{}")
    tiny = ("--rows", 6000, "--rounds", 1, "--no-peers", "--build", build, "--keep")
    where = ("--results", published, "--docs", published)
    for scenarios in ("staging,merge-same", "append-pinned,two-streams,stages"):
        done = bench(*tiny, *where, "--scenario", scenarios)
        assert done.returncode == 0, done.stderr
        assert "what is published stays as it is" in done.stdout


def test_a_part_leaves_what_is_published(kept: Path) -> None:
    published = kept.parent / "published"
    assert sorted(path.name for path in published.iterdir()) == ["benchmarks.md", "latest.json"]
    assert (published / "benchmarks.md").read_text() == "as it was"
    assert (published / "latest.json").read_text() == "{}"


def test_parts_are_kept_and_hold_every_figure(kept: Path) -> None:
    """The tables were equal, or the run would have stopped; a start is measured beside a load."""
    found = parts.kept(kept)
    assert list(found) == ["staging", "merge-same", "append-pinned", "two-streams", "stages"]
    staging = found["staging"]["found"]
    assert set(staging["runs"]) == {"loader", "loader, without kernel", r"psql \copy", "binary COPY, ready-made"}
    assert set(staging["starts"]) == {"loader", "loader, without kernel"}
    assert not any(part["found"].get("failed") for name, part in found.items() if name != "append-pinned")
    for run in (staging["runs"]["loader"][0], found["merge-same"]["found"]["runs"]["loader"][0]):
        assert run["seconds"] > 0
        assert run["peak"] > 50
        assert run["server_cpu"] is not None
    assert found["two-streams"]["found"]["runs"]["loader"]
    assert found["stages"]["found"]["starts"]["loader.handler"]["cpu"] > 0


def test_parts_are_published_together(kept: Path, tmp_path: Path) -> None:
    """With the date, commit and rounds of each; the plots are SVG, and what was not measured is said to be so."""
    done = bench("--publish", "--incomplete", "--build", kept, "--results", tmp_path / "results", "--docs", tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "benchmarks.md").read_text()
    for plot in re.findall(r"\((benchmarks/.*?\.svg)\)", page):
        assert (tmp_path / plot).read_text().startswith("<svg ")
    made = parts.kept(kept)["staging"]["made"]
    assert f"| staging | {made['at']} | {made['commit']} | 1 |" in page
    assert "## The kernel beside the Arrow lane" in page
    results = json.loads((tmp_path / "results" / "latest.json").read_text())
    assert "limits-128" in results["missing"]
    reached = {target.what: target for target in targets(results)}
    assert reached["Lambda, 128 MB"].met is None
    assert reached["the same file again, the same comparison"].reached.endswith(")")


def test_all_parts_make_a_whole_page(kept: Path, tmp_path: Path) -> None:
    """The suite's own run keeps and publishes in the same way. (Each scenario has staging's figures here.)"""
    found = parts.kept(kept)
    size = {"seconds": 2.0, "low": 2.0, "high": 2.0, "cold": 3.0, "peak": 100.0}
    limit = {"how": "a control group", "rows": 6000, "bytes": 750_000, "cores": 2}
    limit["paces"] = {"loopback": size, "as S3": {"failed": "Runtime.ExitError: killed"}}
    whole = {name: {**found["staging"], "found": limit} if name in LIMITS else found["staging"] for name in PARTS}
    for name, part in {**whole, "stages": found["stages"]}.items():
        parts.keep(tmp_path / "build", name, part)
    told = parse(["--publish", "--build", str(tmp_path / "build"), "--docs", str(tmp_path), "--results", str(tmp_path)])
    publish(told, parts.kept(told.build))
    page = (tmp_path / "benchmarks.md").read_text()
    assert "not run for this page" not in page
    assert "| 10,240 | Runtime.ExitError: killed |" in page
    assert "Cheapest: 128 MB." in page


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda found: None, "missing: append"),
        (lambda found: found["staging"]["made"].update(code="other"), "made by another code than is here: staging"),
        (
            lambda found: found["stages"]["made"].update(machine="64 cores"),
            "made by another machine than is here: stages",
        ),
        (lambda found: found["staging"]["made"].update(rows=7), "made with different rows"),
        (lambda found: found["staging"]["made"].update(postgresql="17.1"), "made with different postgresql"),
        (lambda found: found.clear(), "nothing to publish"),
    ],
    ids=["missing", "code", "machine", "rows", "server", "none"],
)
def test_what_does_not_belong_together_is_not_published(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, told: str
) -> None:
    """And nothing is written."""
    found = parts.kept(kept)
    change(found)
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / parts.KEPT).write_text(json.dumps(found))
    options = [
        "--publish",
        "--build",
        str(tmp_path / "build"),
        "--results",
        str(tmp_path / "r"),
        "--docs",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", ["bench", *options])
    with pytest.raises(parts.RefusedError, match=re.escape(told)):
        main()
    assert [path.name for path in tmp_path.iterdir()] == ["build"]


def test_other_servers_are_parts_of_their_own(kept: Path) -> None:
    """They neither replace the embedded server's, nor must they be like them."""
    found = parts.kept(kept)
    made = {**found["staging"]["made"], "server": "container postgres:17, 2 CPUs", "postgresql": "17.1"}
    other = {**found["staging"], "made": made}
    name = parts.key("staging", other)
    parts.check({**found, name: other}, incomplete=True)
    document = parts.composed({**found, name: other})
    assert list(document["elsewhere"]["container postgres:17, 2 CPUs"]["scenarios"]) == ["staging"]
    assert document["made"]["server"] == "embedded"


def test_functions_held_in_two_ways_are_not_one_table(kept: Path) -> None:
    part = parts.kept(kept)["stages"]
    found = {name: {**part, "found": {"how": how}} for name, how in (("limits-128", "image"), ("limits-256", "group"))}
    with pytest.raises(parts.RefusedError, match="several ways"):
        parts.check(found, incomplete=True)


def test_every_part_has_a_place_on_the_page() -> None:
    """Scenarios name files that there are."""
    assert len(PARTS) == len(set(PARTS))
    from bench.scenarios import SCENARIOS

    assert all(name in EVERY for scenario in SCENARIOS.values() for name in scenario.data)


# --- files


@pytest.mark.without_ledger
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_shapes_are_files_that_copy_takes(dsn: str, tmp_path: Path, shape: Any) -> None:
    """As many rows as were asked for, the same at each time; of a file of one record, one."""
    rows = 3 if shape.name in ("long-texts", "integers-1000") else 50
    file = shape.make(tmp_path / "one", rows)
    assert shape.make(tmp_path / "two", rows).read_bytes() == file.read_bytes()
    run_alone(dsn, shape.table("shape"))
    with own_server(dsn) as server:
        server.copy("public.shape", file)
        assert query(dsn, "SELECT count(*) FROM shape") == [(rows,)]
        server.copy("public.shape", one_record(file, tmp_path))
        assert query(dsn, "SELECT count(*) FROM shape") == [(rows + 1,)]


def test_records_are_written_over_and_over(tmp_path: Path) -> None:
    """Where there are more than a block holds."""
    file = EVERY["long-texts"].make(tmp_path, 20)
    lines = file.read_bytes().splitlines()
    assert len(lines) == 21
    assert lines[1] == lines[18]
    assert lines[1] != lines[2]


def test_a_tables_columns_are_read_from_its_statement() -> None:
    columns = DATA["lineitem"].columns
    assert len(columns) == 16
    assert columns["l_tax"] == "numeric(15,2)"
    assert columns["l_comment"] == "varchar(44)"


# --- a server of the user's own


@pytest.mark.parametrize(
    "given",
    [
        {
            "user": "me",
            "password": "p@ss/w:rd %",
            "host": "db.example",
            "port": "5433",
            "dbname": "a b",
            "sslmode": "require",
        },
        {"host": "/tmp/socket dir", "user": "postgres", "dbname": "postgres"},
        {"host": "::1", "dbname": "x"},
        {"dbname": "x"},
    ],
)
def test_any_dsn_becomes_a_uri(given: dict[str, str]) -> None:
    assert parse_dsn(as_uri(given)) == given
    options = parse_dsn(within(as_uri({**given, "options": "-cwork_mem=64MB"}), "bench_1"))["options"]
    assert options == "-cwork_mem=64MB -csearch_path=bench_1"


@pytest.mark.without_ledger
def test_a_users_own_server_is_left_as_it_was(dsn: str, tmp_path: Path) -> None:
    """All is in a schema that is gone afterwards: the user's tables of the same names stay, and no ledger is left."""
    query(dsn, "CREATE TABLE by_psql AS SELECT 1 AS mine")
    done = bench("--dsn", dsn, "--rows", 2000, "--rounds", 1, "--scenario", "first", "--keep", "--build", tmp_path)
    assert done.returncode == 0, done.stderr
    assert query(dsn, "SELECT * FROM by_psql") == [(1,)]
    assert query(dsn, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'bench%' OR nspname = 'loader'") == []
    (part,) = parts.kept(tmp_path).values()
    assert part["found"]["runs"]["loader"][0]["server_cpu"] is None
    assert part["made"]["settings"] == {}
    assert "CPU of the server: not to be had" in (tmp_path / "benchmarks.md").read_text()


@pytest.mark.without_ledger
def test_the_schema_is_removed_where_the_run_fails(dsn: str) -> None:
    def interrupted() -> None:
        with own_server(dsn) as server:
            server.execute("CREATE TABLE t (a int)")
            server.forget_loads()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert query(dsn, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'bench%' OR nspname = 'loader'") == []


@pytest.mark.without_ledger
def test_a_run_that_is_terminated_leaves_nothing(dsn: str, tmp_path: Path) -> None:
    """Neither its schemas nor a loader that goes on by itself."""
    options = ["--dsn", dsn, "--rows", "20000", "--scenario", "append", "--build", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-m", "bench", *options], cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_for(lambda: query(dsn, "SELECT to_regclass('loader.loads')") != [(None,)])  # the first load is under way
    assert process.poll() is None
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert query(dsn, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'bench%' OR nspname = 'loader'") == []
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    wait_for(lambda: query(dsn, sessions) == [(1,)])  # the server finds out that its client is gone


@pytest.mark.without_ledger
def test_a_ledger_that_others_use_meanwhile_stays(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    with own_server(dsn) as server:
        server.forget_loads()
        query(
            dsn,
            "INSERT INTO loader.loads (state, source, key, size, last_modified, target, mode, forced, spec)"
            " VALUES ('running', 's', 'k', 1, now(), 'public.theirs', 'append', false, '{}')",
        )
    assert query(dsn, "SELECT target FROM loader.loads") == [("public.theirs",)]
    assert "others have loaded" in capsys.readouterr().out


def test_a_database_with_a_ledger_is_refused(dsn: str) -> None:
    """The benchmark would write into the history of real loads."""
    done = bench("--dsn", dsn, "--rows", 2000, "--rounds", 1, "--scenario", "append")
    assert done.returncode == 1
    assert "keeps its ledger" in done.stderr
    assert query(dsn, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'bench%'") == []


# --- a file of the user's own

OWN = "id;name;day\n" + "".join(f'{number};"na;me\n{number}";2020-01-{number % 28 + 1:02}\n' for number in range(4000))

OWN_SPEC = """
table = "public.people"
[csv]
delimiter = ";"
[columns]
day = "date"
id = "bigint"
label = { type = "text", from = "name" }
"""


def own(folder: Path, spec: str = OWN_SPEC) -> tuple[str, Path, str, Path]:
    """Options for the file and its spec."""
    (folder / "people.csv.gz").write_bytes(gzip.compress(OWN.encode()))
    (folder / "people.toml").write_text(spec)
    return "--file", folder / "people.csv.gz", "--spec", folder / "people.toml"


def test_a_users_own_file_is_measured_beside_psql(tmp_path: Path) -> None:
    """In the words that psql has for the same spec; the table comes of the first load."""
    done = bench(
        *own(tmp_path), "--rounds", 1, "--no-limits", "--build", tmp_path / "build", "--docs", tmp_path / "docs"
    )
    assert done.returncode == 0, done.stderr
    assert "people.csv.gz: 4,000 records" in done.stdout
    assert "the tables are equal" in done.stdout
    assert "times as fast" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["people.csv.gz", "people.toml"]


def test_it_says_why_psql_cannot_load_it_and_what_a_function_costs(tmp_path: Path) -> None:
    if why := group_fault():
        pytest.skip(why)
    trimmed = OWN_SPEC.replace('from = "name"', 'from = "name", transform = ["upper"]')
    ddl = "CREATE TABLE {} (id bigint, label text, day date)"
    sizes = ("--limits", "group", "--scenario", "limits-1769,limits-3008")
    done = bench(*own(tmp_path, trimmed), "--rounds", 1, *sizes, "--table-ddl", ddl)
    assert done.returncode == 0, done.stderr
    assert r"psql \copy: psql has no words for transform of label in the spec" in done.stdout
    assert re.search(r"^ +1,769 +[\d,]+ .*\d$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^cheapest: [\d,]+ MB$", done.stdout, re.MULTILINE)


def test_a_file_that_the_loader_refuses_ends_the_run(tmp_path: Path) -> None:
    done = bench(*own(tmp_path, OWN_SPEC.replace("bigint", "uuid")), "--rounds", 1, "--no-limits")
    assert done.returncode == 1
    assert "the loader cannot load it" in done.stderr


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("[csv]\nskip_lines = 1", "skip_lines"),
        ('[csv]\ndelimiter = "||"', "delimiter"),
        ('[csv]\nragged = "pad"', "ragged"),
        ('[transform]\nfilter = "a > 1"', "filter"),
        ('[columns]\na = { type = "date", format = "%d.%m.%Y" }', "format of a"),
        ('[columns]\na = { type = "text", value = "{key}" }', "value of a"),
        ("", '"b" has no column'),
    ],
)
def test_what_psql_has_no_words_for(tmp_path: Path, settings: str, told: str) -> None:
    file = tmp_path / "file.csv"
    file.write_text("a,b\n1,2\n")
    spec = LoadSpec.from_toml_text(f'table = "t"\n{settings}')
    with pytest.raises(NoWordsError, match=re.escape(told)):
        PlainCopy(file, spec, ["a"]).statement("t")


# --- in containers


def test_the_suite_runs_against_a_container(tmp_path: Path) -> None:
    """Of a tag, with limits; its CPU is its control group's, its processes can be kept to a core."""
    need(POSTGRES)
    limits = ("--server", f"container:{POSTGRES}", "--server-cpus", "1.5", "--server-memory", "1g")
    what = ("--rows", 3000, "--rounds", 1, "--scenario", "append,append-pinned")
    done = bench(*limits, *what, "--keep", "--build", tmp_path)
    assert done.returncode == 0, done.stderr
    about = f"container {POSTGRES}, 1.5 CPUs and 1,024 MB"
    found = parts.kept(tmp_path)
    assert list(found) == [f"append @ {about}", f"append-pinned @ {about}"]
    (run,) = found[f"append @ {about}"]["found"]["runs"]["loader"]
    assert run["server_cpu"] > 0
    assert run["wal"] > 0
    assert found[f"append @ {about}"]["made"]["settings"]["shared_buffers"] == "256MB"
    assert f"## Against another server: {about}" in (tmp_path / "benchmarks.md").read_text()


def test_the_function_runs_as_the_image(tmp_path: Path) -> None:
    need(IMAGE)
    if why := image_fault(IMAGE):
        pytest.skip(why)
    what = ("--rows", 3000, "--scenario", "limits-512", "--limits", "image", "--image", IMAGE)
    done = bench(*what, "--keep", "--build", tmp_path)
    assert done.returncode == 0, done.stderr
    found = parts.kept(tmp_path)["limits-512"]["found"]
    assert "docker run" in found["how"]
    assert not any("failed" in pace for pace in found["paces"].values()), found
    assert 50 < found["paces"]["loopback"]["peak"] < 512
    assert found["how"] in (tmp_path / "benchmarks.md").read_text()


def test_an_image_that_is_not_there_is_not_run() -> None:
    assert image_fault("loader-that-nobody-made") is not None
