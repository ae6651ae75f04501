"""The Lambda entry point that looks after the loader's database user: made with its grants, its password rotated.

CloudFormation calls it through CDK's framework for custom resources, and Secrets Manager calls it for a rotation. It
logs in as the master, whose secret the loader never sees. Whatever it does can be done again.

``$LOADER_MASTER_SECRET_ID`` and ``$LOADER_SECRET_ID`` name the two secrets. ``$PGHOST`` and its like say what the
master's secret, as RDS writes it, leaves open.

No password is part of a statement, so none is in the server's log or in ``pg_stat_activity``: PostgreSQL is given the
SCRAM verifier, which is made here and does not give the password away (PostgreSQL's manual, "CREATE ROLE": "PASSWORD").
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class
from psycopg2.extensions import encrypt_password

from loader.core.errors import UsageError
from loader.ledger.ledger import migrate
from loader.postgres.database import Credentials, Database, SecretCredentials, translate
from loader.postgres.statements import execute, rows

_LOCK = 0x6C6F616465720002
"""As for the ledger's migration (`loader.ledger.ledger`): provisioning and rotation take turns."""

TABLE_RIGHTS = "SELECT, INSERT, UPDATE, DELETE"
"""What the modes need (docs/guides/database.md)."""

PASSWORD_BYTES = 30  # of randomness: 240 bits, 40 characters


def handler(event: Any, context: Any = None) -> dict[str, Any]:  # noqa: ARG001 - Lambda gives both
    """Do what CloudFormation or Secrets Manager asks for. Raises LoaderError.

    CloudFormation is answered with the user's name as ``PhysicalResourceId``, which stays the same from update to
    update. A deletion deletes nothing: the user owns tables, and the database is not the stack's to empty.
    """
    if isinstance(event, Mapping) and "RequestType" in event:
        return _of_cloudformation(event)
    if isinstance(event, Mapping) and {"Step", "SecretId", "ClientRequestToken"} <= event.keys():
        Rotation(event["SecretId"], event["ClientRequestToken"]).take(event["Step"])
        return {}
    raise UsageError("the event is neither CloudFormation's nor that of a rotation")


def _of_cloudformation(event: Mapping[str, Any]) -> dict[str, Any]:
    if event["RequestType"] == "Delete":
        return {"PhysicalResourceId": event.get("PhysicalResourceId", "none")}
    schemas = event.get("ResourceProperties", {}).get("Schemas")
    if not isinstance(schemas, list) or not all(isinstance(each, str) and each for each in schemas):
        raise UsageError("Schemas must be a list of names")
    user = _user()
    refused = provision(_master(), user, schemas)
    _log({"state": "provisioned", "user": user.parameters()["user"], "schemas": schemas, "refused": refused})
    return {"PhysicalResourceId": user.parameters()["user"], "Data": {"Refused": ", ".join(refused)}}


def _master() -> Database:
    return Database(SecretCredentials(os.environ["LOADER_MASTER_SECRET_ID"]))


def _user() -> SecretCredentials:
    return SecretCredentials(os.environ["LOADER_SECRET_ID"])


# --- the user and its grants


def provision(master: Database, user: Credentials, schemas: Sequence[str]) -> list[str]:
    """Make the user whom ``user`` says how to log in as, and give it what the loader needs in ``schemas``.

    It may make tables there, and write to those that the master may grant; the names of the others are the result.
    Schemas that are not there are made. The ledger is made by the user itself, which is proof that it can log in, and
    alone needs CREATE on the database, so that right is taken away again. Raises DatabaseError.
    """
    wanted = user.parameters()
    name, password = wanted["user"], wanted["password"]
    with _as_master(master, f"user {name}") as connection:
        _ensure_role(connection, name)
        _set_password(connection, name, password)
        refused = [each for schema in schemas for each in _open_schema(connection, name, schema)]
        _on_database(connection, "GRANT CONNECT, TEMPORARY, CREATE ON DATABASE {} TO {}", name)
        connection.commit()
    try:
        own = Database(user)
        with own.session() as connection:
            migrate(connection)
        own.close()
    finally:
        with _as_master(master, f"user {name}") as connection:
            _on_database(connection, "REVOKE CREATE ON DATABASE {} FROM {}", name)
            connection.commit()
        master.close()
    return refused


@contextmanager
def _as_master(master: Database, what: str) -> Iterator[Connection]:
    """A session in which nobody else does any of this. psycopg2's errors become this package's.

    Without their cause: its text may quote the statement, and with it the verifier.
    """
    try:
        with master.session() as connection:
            execute(connection, "SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            yield connection
    except psycopg2.Error as error:
        raise translate(error, what) from None


def _ensure_role(connection: Connection, name: str) -> None:
    """The role, able to log in and nothing else. Raises UsageError for one that is not the loader's to have.

    The master becomes a member of it, as it has to be to see after its tables; of a role that it has made, it need not
    be one since PostgreSQL 16 (manual, "CREATE ROLE": createrole_self_grant).
    """
    found = rows(
        connection,
        "SELECT rolsuper OR rolcreaterole OR rolreplication OR rolname = current_user FROM pg_roles WHERE rolname = %s",
        (name,),
    )
    if found and found[0][0]:
        raise UsageError(f"user {name}: is an administrator's; the loader needs one of its own")
    if not found:
        execute(connection, sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    member = rows(connection, "SELECT pg_has_role(current_user, %s, 'USAGE')", (name,))
    if not member[0][0]:
        execute(connection, sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(name)))


def _set_password(connection: Connection, name: str, password: str) -> None:
    verifier = encrypt_password(password, name, connection, "scram-sha-256")
    statement = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(verifier))
    execute(connection, statement)


def _open_schema(connection: Connection, name: str, schema: str) -> list[str]:
    """Gives the tables that the master may not grant, as they belong to others."""
    names = {"schema": sql.Identifier(schema), "user": sql.Identifier(name)}
    if not rows(connection, "SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)):
        execute(connection, sql.SQL("CREATE SCHEMA {schema}").format(**names))
    for statement in (
        "GRANT USAGE, CREATE ON SCHEMA {schema} TO {user}",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {{schema}} GRANT {TABLE_RIGHTS} ON TABLES TO {{user}}",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT USAGE ON SEQUENCES TO {user}",
    ):
        execute(connection, sql.SQL(statement).format(**names))
    refused = []
    for relation, kind, grantable in rows(connection, _RELATIONS, (schema, name)):
        target = sql.Identifier(schema, relation)
        right = "USAGE ON SEQUENCE {} TO {}" if kind == "S" else f"{TABLE_RIGHTS} ON {{}} TO {{}}"
        if grantable:
            execute(connection, sql.SQL("GRANT " + right).format(target, names["user"]))
        else:
            refused.append(f"{schema}.{relation}")
    return refused


_RELATIONS = """
    SELECT c.relname, c.relkind, pg_has_role(c.relowner, 'USAGE')
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'S') AND pg_get_userbyid(c.relowner) <> %s
     ORDER BY 1"""


def _on_database(connection: Connection, statement: str, name: str) -> None:
    database = rows(connection, "SELECT current_database()")[0][0]
    execute(connection, sql.SQL(statement).format(sql.Identifier(database), sql.Identifier(name)))


# --- the rotation


class Rotation:
    """A rotation of the loader's secret, in Secrets Manager's four steps, each of which may come again.

    ``token``: the id of the version that is to be. Between ``setSecret`` and ``finishSecret``, some seconds, the server
    knows the new password and the loader the old one; a load that connects just then fails, and its message comes
    again.
    """

    def __init__(self, secret_id: str, token: str) -> None:
        if secret_id != os.environ["LOADER_SECRET_ID"]:
            raise UsageError(f"secret {secret_id}: is not the one that is looked after here")
        import boto3

        self._client = boto3.client("secretsmanager")
        self._id, self._token = secret_id, token

    def take(self, step: str) -> None:
        """Take one step. Raises UsageError where it is none, or where nobody has begun this rotation."""
        stages = self._client.describe_secret(SecretId=self._id)["VersionIdsToStages"].get(self._token)
        if stages is None or not {"AWSPENDING", "AWSCURRENT"} & set(stages):
            raise UsageError(f"secret {self._id}: has no version {self._token} that is pending")
        if "AWSCURRENT" in stages:
            return  # it is done, and a step comes again
        steps = {"createSecret": self._create, "setSecret": self._set, "testSecret": self._test}
        steps["finishSecret"] = self._finish
        if step not in steps:
            raise UsageError(f'a rotation has no step "{step}"')
        steps[step]()
        _log({"state": step, "secret": self._id, "version": self._token})

    def _create(self) -> None:
        with suppress(self._client.exceptions.ResourceNotFoundException):
            self._version("AWSPENDING")
            return
        made = {**self._version("AWSCURRENT"), "password": secrets.token_urlsafe(PASSWORD_BYTES)}
        self._client.put_secret_value(
            SecretId=self._id,
            ClientRequestToken=self._token,
            SecretString=json.dumps(made),
            VersionStages=["AWSPENDING"],
        )

    def _set(self) -> None:
        name, password = (self._version("AWSPENDING")[each] for each in ("username", "password"))
        if name != self._version("AWSCURRENT")["username"]:
            raise UsageError(f"secret {self._id}: the pending version is another user's")
        master = _master()
        with _as_master(master, f"user {name}") as connection:
            _set_password(connection, name, password)
            connection.commit()
        master.close()

    def _test(self) -> None:
        """Raises DatabaseError where the new password does not let the user in."""
        pending = Database(_Known(self._version("AWSPENDING")))
        with pending.session() as connection:
            execute(connection, "SELECT 1")
        pending.close()

    def _finish(self) -> None:
        versions = self._client.describe_secret(SecretId=self._id)["VersionIdsToStages"]
        current = next(version for version, stages in versions.items() if "AWSCURRENT" in stages)
        self._client.update_secret_version_stage(
            SecretId=self._id, VersionStage="AWSCURRENT", MoveToVersionId=self._token, RemoveFromVersionId=current
        )

    def _version(self, stage: str) -> Mapping[str, Any]:
        named = {"VersionId": self._token} if stage == "AWSPENDING" else {}
        answer = self._client.get_secret_value(SecretId=self._id, VersionStage=stage, **named)
        value: Mapping[str, Any] = json.loads(answer["SecretString"])
        return value


class _Known(SecretCredentials):
    """A secret's version that was fetched already."""

    def __init__(self, secret: Mapping[str, Any]) -> None:
        super().__init__("pending")
        self._secret = secret

    def forget(self) -> bool:
        return False


def _log(entry: Mapping[str, Any]) -> None:
    """One line of JSON in Lambda's log."""
    print(json.dumps(entry), flush=True)
