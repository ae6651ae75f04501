"""A role with settings that are odd, and that a load has to bear, or to fail of in words."""

from __future__ import annotations

import random
from contextlib import suppress

import psycopg2

from support.postgres import query

ROLE = "odd"

BORNE = {
    "default_transaction_isolation": ("'repeatable read'", "'serializable'"),
    "default_transaction_deferrable": ("'on'",),
    "synchronous_commit": ("'off'", "'local'"),
    "search_path": ("loader", "pg_catalog, public", "nowhere", "elsewhere, public", "''"),
    "DateStyle": ("'German'", "'SQL, DMY'", "'Postgres, MDY'"),
    "TimeZone": ("'Asia/Kathmandu'", "'America/St_Johns'", "'Etc/GMT-14'"),
    "work_mem": ("'64kB'", "'256MB'"),
    "standard_conforming_strings": ("'off'",),
    "bytea_output": ("'escape'",),
    "extra_float_digits": ("'-15'",),
    "transform_null_equals": ("'on'",),
    "client_min_messages": ("'error'", "'debug1'"),
    "enable_hashjoin": ("'off'",),
    "plan_cache_mode": ("'force_generic_plan'",),
    "client_encoding": ("'LATIN1'",),
}
"""With these a load gets to its end all the same. Values are SQL."""

FAILED_OF = {
    "default_transaction_read_only": ("'on'",),
    "statement_timeout": ("'300ms'", "'1s'", "'3s'"),
    "lock_timeout": ("'50ms'", "'1s'"),
    "idle_in_transaction_session_timeout": ("'200ms'", "'1s'"),
    "idle_session_timeout": ("'200ms'", "'1s'"),
    "transaction_timeout": ("'500ms'", "'2s'"),
}
"""Of these it may fail; then an operator takes them back."""


def make_odd(dsn: str, rng: random.Random) -> list[str]:
    """Give the role, which is made where there is none, some odd settings; gives their names."""
    with suppress(psycopg2.errors.DuplicateObject):
        query(dsn, f"CREATE ROLE {ROLE} LOGIN SUPERUSER")
    query(dsn, f"ALTER ROLE {ROLE} RESET ALL")
    given = []
    for name in [*rng.sample(list(BORNE), rng.randint(1, 3)), *rng.sample(list(FAILED_OF), rng.randint(0, 1))]:
        value = rng.choice({**BORNE, **FAILED_OF}[name])
        with suppress(psycopg2.errors.UndefinedObject):  # of a later version
            query(dsn, f"ALTER ROLE {ROLE} SET {name} = {value}")
            given.append(name)
    return given


def make_bearable(dsn: str) -> None:
    """Take back what a load may fail of."""
    for name in FAILED_OF:
        with suppress(psycopg2.errors.UndefinedObject):
            query(dsn, f"ALTER ROLE {ROLE} RESET {name}")
