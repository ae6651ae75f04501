"""The loader's database user: made with its grants by a master who is no superuser, its password rotated."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import boto3
import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn
from support.postgres import query, run_alone
from support.s3 import S3

import loader
from loader.aws import database_user as module
from loader.aws.database_user import handler, provision
from loader.core.errors import DatabaseError, LoaderError, UsageError
from loader.postgres.database import Database, SecretCredentials

pytestmark = pytest.mark.without_ledger


class Login:
    """Says how to log in, as a secret would."""

    def __init__(self, dsn: str, user: str, password: str) -> None:
        self._parameters = {**parse_dsn(make_dsn(dsn, user=user)), "password": password}

    def parameters(self) -> Mapping[str, Any]:
        return self._parameters

    def forget(self) -> bool:
        return False


@dataclass(frozen=True)
class Place:
    """A database that a master owns who is, as in RDS, no superuser; and the name of a user that is not there yet."""

    dsn: str
    master: str
    user: str

    @property
    def as_master(self) -> str:
        return make_dsn(self.dsn, user=self.master, password="master")

    @property
    def as_user(self) -> str:
        return make_dsn(self.dsn, user=self.user, password="s3cret")

    def provision(self, *schemas: str) -> list[str]:
        return provision(Database(self.as_master), Login(self.dsn, self.user, "s3cret"), schemas)


@pytest.fixture
def place(dsn: str) -> Iterator[Place]:
    suffix = uuid.uuid4().hex[:12]
    place = Place(dsn, f"master_{suffix}", f"user_{suffix}")
    run_alone(dsn, f"CREATE ROLE {place.master} LOGIN CREATEROLE CREATEDB PASSWORD 'master'")
    run_alone(dsn, f"ALTER DATABASE {parse_dsn(dsn)['dbname']} OWNER TO {place.master}")
    yield place
    run_alone(dsn, f"ALTER DATABASE {parse_dsn(dsn)['dbname']} OWNER TO CURRENT_USER")
    for role in (place.user, place.master):
        if query(dsn, "SELECT 1 FROM pg_roles WHERE rolname = %s", role):
            query(dsn, f"DROP OWNED BY {role} CASCADE")
            run_alone(dsn, f"DROP ROLE {role}")


# --- the user


@pytest.mark.every_postgres
def test_the_user_loads_in_every_mode(place: Place, s3: S3) -> None:
    """What it was given suffices: for the ledger, for tables that are there, and for those that it makes itself."""
    query(place.as_master, "CREATE TABLE public.trips (id int PRIMARY KEY, n text, seq serial)")
    assert place.provision("public", "staged") == []
    for mode in ("append", "merge", "replace"):
        source = s3.uri(f"{mode}.csv")
        s3.put(f"{mode}.csv", f"id,n\n{len(mode)},{mode}\n".encode())
        report = loader.load(source, {"table": "public.trips", "mode": mode}, dsn=place.as_user)
        assert report.state == "loaded"
        loader.load(source, {"table": f"staged.{mode}"}, dsn=place.as_user)
    assert query(place.as_master, "SELECT n FROM public.trips") == [("replace",)]
    assert query(place.as_master, "SELECT n FROM staged.merge") == [("merge",)]  # the master may see after it


@pytest.mark.every_postgres
def test_the_user_may_do_nothing_else(place: Place) -> None:
    """No attribute, no CREATE on the database, no schema that was not named."""
    query(place.as_master, "CREATE SCHEMA other")
    query(place.as_master, "CREATE TABLE other.t (a int)")
    place.provision("public")
    attributes = "rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolcanlogin"
    found = query(place.dsn, f"SELECT {attributes} FROM pg_roles WHERE rolname = %s", place.user)
    assert found == [(False, False, False, False, False, True)]
    for statement in ("CREATE SCHEMA mine", "SELECT * FROM other.t", "CREATE ROLE x", f"SET ROLE {place.master}"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            query(place.as_user, statement)


def test_provisioning_again_changes_nothing(place: Place) -> None:
    """Not the user, its tables, its rows, nor its rights."""
    rights = "SELECT relname, relacl::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    query(place.as_master, "CREATE TABLE public.t (a int)")
    place.provision("public")
    query(place.as_user, "CREATE TABLE public.own AS SELECT 1 AS a")
    before = query(place.dsn, rights), query(place.dsn, "SELECT oid FROM pg_roles WHERE rolname = %s", place.user)
    place.provision("public")
    after = query(place.dsn, rights), query(place.dsn, "SELECT oid FROM pg_roles WHERE rolname = %s", place.user)
    assert after == before
    assert query(place.as_user, "TABLE public.own") == [(1,)]


def test_a_table_that_comes_later_is_the_loaders_to_write(place: Place) -> None:
    """Where the master makes it."""
    place.provision("public")
    query(place.as_master, "CREATE TABLE public.later (id serial, a int)")
    query(place.as_user, "INSERT INTO public.later (a) VALUES (1)")
    assert query(place.as_user, "SELECT id, a FROM public.later") == [(1, 1)]


def test_a_table_of_somebody_else_is_told(place: Place) -> None:
    """The master may not grant it; the others are granted nevertheless."""
    query(place.dsn, "CREATE TABLE public.foreign_one (a int)")
    query(place.as_master, "CREATE TABLE public.own_one (a int)")
    assert place.provision("public") == ["public.foreign_one"]
    query(place.as_user, "INSERT INTO public.own_one VALUES (1)")


def test_names_are_quoted(place: Place) -> None:
    """A schema's name is not SQL."""
    schema = 'odd"; DROP TABLE public.t; --'
    query(place.as_master, "CREATE TABLE public.t (a int)")
    place.provision(schema)
    allowed = "SELECT has_schema_privilege(%s, oid, 'CREATE') FROM pg_namespace WHERE nspname = %s"
    assert query(place.dsn, allowed, place.user, schema) == [(True,)]
    assert query(place.dsn, "SELECT to_regclass('public.t') IS NOT NULL") == [(True,)]


def test_an_administrator_is_not_made_the_loader(place: Place) -> None:
    """Its password would be changed, and it has more rights than a loader should."""
    with pytest.raises(UsageError, match="is an administrator's"):
        provision(Database(place.as_master), Login(place.dsn, place.master, "x"), ["public"])


def test_a_schema_that_is_not_the_masters_is_an_error(place: Place) -> None:
    """In one sentence, with PostgreSQL's word."""
    query(place.dsn, "CREATE SCHEMA foreign_one")
    with pytest.raises(DatabaseError, match=f"user {place.user}: permission denied for schema foreign_one"):
        place.provision("foreign_one")


# --- the password


@pytest.fixture
def rotating(dsn: str, aws: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Secrets Manager with the master's secret and that of ``rotating``, of whom the server wants a password."""
    client = boto3.client("secretsmanager")
    where = {name: value for name, value in parse_dsn(dsn).items() if name in ("host", "port", "dbname")}
    for name, value in where.items():
        monkeypatch.setenv({"host": "PGHOST", "port": "PGPORT", "dbname": "PGDATABASE"}[name], value)
    suffix = uuid.uuid4().hex
    contents = {
        "LOADER_MASTER_SECRET_ID": {"username": parse_dsn(dsn)["user"], "password": "none"},
        "LOADER_SECRET_ID": {"username": "rotating", "password": "f1rst", **where},
    }
    for name, content in contents.items():
        made = client.create_secret(Name=f"{name}-{suffix}", SecretString=json.dumps(content))
        monkeypatch.setenv(name, made["ARN"])
    client.secret = made["ARN"]
    yield client
    if query(dsn, "SELECT 1 FROM pg_roles WHERE rolname = 'rotating'"):
        query(dsn, "DROP OWNED BY rotating CASCADE")
        run_alone(dsn, "DROP ROLE rotating")


CREATE = {"RequestType": "Create", "ResourceProperties": {"Schemas": ["public"]}}


def can_log_in(dsn: str, password: str) -> bool:
    try:
        query(make_dsn(dsn, user="rotating", password=password), "SELECT 1")
    except psycopg2.OperationalError:
        return False
    return True


def test_the_password_is_that_of_the_secret(dsn: str, rotating: Any) -> None:
    """The server has a SCRAM verifier of it, as it would make one itself."""
    answer = handler(CREATE)
    assert answer == {"PhysicalResourceId": "rotating", "Data": {"Refused": ""}}
    assert can_log_in(dsn, "f1rst")
    assert not can_log_in(dsn, "other")
    stored = query(dsn, "SELECT rolpassword FROM pg_authid WHERE rolname = 'rotating'")[0][0]
    assert stored.startswith("SCRAM-SHA-256$4096:")


def test_no_password_is_shown(
    dsn: str, rotating: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in any statement, nor in what is printed, nor in an error."""
    statements: list[str] = []

    def overheard(send: Any) -> Any:
        def sending(connection: Any, statement: Any, *parameters: Any) -> Any:
            statements.append(statement if isinstance(statement, str) else statement.as_string(connection))
            return send(connection, statement, *parameters)

        return sending

    for name in ("execute", "rows"):
        monkeypatch.setattr(module, name, overheard(getattr(module, name)))
    handler(CREATE)
    with pytest.raises(LoaderError) as raised:
        handler({"RequestType": "Update", "ResourceProperties": {"Schemas": ["pg_new"]}})
    assert any("PASSWORD 'SCRAM-SHA-256$" in statement for statement in statements)
    told = "".join(statements) + "".join(capfd.readouterr()) + str(raised.getrepr(chain=True))
    assert "f1rst" not in told


class Pending:
    """Secrets Manager as it calls for a rotation: there is a new version, without a value (which moto has not)."""

    def __init__(self, client: Any, token: str) -> None:
        self._client, self._token = client, token

    def describe_secret(self, **arguments: Any) -> Any:
        answer = self._client.describe_secret(**arguments)
        answer["VersionIdsToStages"].setdefault(self._token, ["AWSPENDING"])
        return answer

    def get_secret_value(self, **arguments: Any) -> Any:
        """Of the current version where none is named (in moto: of the one that was current first)."""
        return self._client.get_secret_value(**{"VersionStage": "AWSCURRENT", **arguments})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@pytest.fixture
def rotation(rotating: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Takes one step of a rotation of which the user's secret has the id."""
    token = str(uuid.uuid4())
    make = boto3.client
    monkeypatch.setattr(boto3, "client", lambda *given, **options: Pending(make(*given, **options), token))
    return lambda step: handler({"Step": step, "SecretId": rotating.secret, "ClientRequestToken": token})


STEPS = ("createSecret", "setSecret", "testSecret", "finishSecret")


def current(client: Any) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(
        client.get_secret_value(SecretId=client.secret, VersionStage="AWSCURRENT")["SecretString"]
    )
    return value


def test_a_rotation_changes_the_password_and_nothing_else(
    dsn: str, rotating: Any, rotation: Callable[[str], Any]
) -> None:
    """Each step may come twice; a loader that was running logs in with the new one."""
    handler(CREATE)
    before = current(rotating)
    database = Database(SecretCredentials(rotating.secret))
    with database.session():
        pass
    database.close()
    for step in STEPS:
        rotation(step)
        rotation(step)
    after = current(rotating)
    assert {**after, "password": None} == {**before, "password": None}
    assert len(after["password"]) >= 40
    assert can_log_in(dsn, after["password"])
    assert not can_log_in(dsn, before["password"])
    with database.session() as connection:
        assert connection.info.user == "rotating"
    database.close()


def test_a_password_that_was_not_set_does_not_become_current(rotating: Any, rotation: Callable[[str], Any]) -> None:
    """The test before the last step fails, and Secrets Manager ends the rotation."""
    handler(CREATE)
    rotation("createSecret")
    with pytest.raises(DatabaseError, match="password"):
        rotation("testSecret")
    assert current(rotating)["password"] == "f1rst"


def test_only_the_loaders_secret_is_rotated(rotating: Any) -> None:
    """Whoever may call the function cannot have it change another."""
    with pytest.raises(UsageError, match="is not the one that is looked after here"):
        handler({"Step": "createSecret", "SecretId": "another", "ClientRequestToken": str(uuid.uuid4())})


def test_a_rotation_that_nobody_began_is_refused(rotating: Any) -> None:
    """Secrets Manager makes the version before it calls."""
    with pytest.raises(UsageError, match="that is pending"):
        handler({"Step": "createSecret", "SecretId": rotating.secret, "ClientRequestToken": str(uuid.uuid4())})


# --- events


def test_a_deletion_deletes_nothing(dsn: str, rotating: Any) -> None:
    """The user owns tables. The answer is what CloudFormation wants to hear."""
    handler(CREATE)
    query(make_dsn(dsn, user="rotating", password="f1rst"), "CREATE TABLE public.t AS SELECT 1 AS a")
    event = {"RequestType": "Delete", "PhysicalResourceId": "rotating"}
    assert handler(event) == {"PhysicalResourceId": "rotating"}
    assert query(dsn, "TABLE public.t") == [(1,)]


@pytest.mark.parametrize("schemas", [None, "public", [1], [""]])
def test_schemas_must_be_names(schemas: object) -> None:
    """Told before anything is done."""
    with pytest.raises(UsageError, match="Schemas must be a list of names"):
        handler({"RequestType": "Create", "ResourceProperties": {"Schemas": schemas}})


@pytest.mark.parametrize("event", [None, {}, {"Records": []}, {"Step": "createSecret"}])
def test_other_events_are_refused(event: object) -> None:
    """This function is no way in for anybody else."""
    with pytest.raises(UsageError, match="neither CloudFormation's nor that of a rotation"):
        handler(event)
