"""What PostgreSQL's catalog says: about the target table, about type names, about the session."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.errors import TableError
from loader.pgtypes import ColumnType, TypeFacts, column_type
from loader.spec import reserved_schema
from loader.tables import Table, TableColumn

_RELATION = """
    SELECT c.oid, n.nspname, c.relname, c.relkind::text,
           c.relkind IN ('r', 'p') AND NOT c.relrowsecurity AND NOT c.relhasrules,
           EXISTS (SELECT FROM pg_constraint f WHERE f.confrelid = c.oid AND f.contype = 'f' AND f.conrelid <> c.oid),
           EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgtype & 7 = 7),
           c.relkind = 'r' AND NOT c.relispartition AND pg_has_role(c.relowner, 'USAGE')
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = to_regclass(%s)
"""  # tgtype: bit 0 for each row, bit 1 before, bit 2 on insert

_COLUMNS = """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod),
           a.attnotnull OR t.typnotnull, a.attgenerated <> '',
           a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL
      FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
     WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""

_PRIMARY_KEY = """
    SELECT a.attname FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place), pg_attribute a
     WHERE i.indrelid = %s AND i.indisprimary AND a.attrelid = i.indrelid AND a.attnum = k.attnum ORDER BY k.place
"""

_UNIQUE = """
    SELECT array_agg(a.attname::text) FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place),
           pg_attribute a
     WHERE i.indrelid = %s AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL
       AND i.indexprs IS NULL AND k.place <= i.indnkeyatts AND a.attrelid = i.indrelid AND a.attnum = k.attnum
     GROUP BY i.indexrelid
"""


def rows(connection: Connection, statement: Any, parameters: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
    """All rows of a statement's answer."""
    with connection.cursor() as cursor:
        cursor.execute(statement, tuple(parameters))
        return cursor.fetchall()


def describe(connection: Connection, schema: str | None, name: str) -> Table:
    """The table as the catalog has it; one with ``oid`` None where it does not exist yet.

    Without ``schema`` the session's search_path decides, and where the table is absent its first schema.
    Raises TableError for what is no table that rows can be put into, and for the schemas that no load may change.
    """
    quoted = rows(connection, "SELECT quote_ident(%s), quote_ident(%s)", (schema or "", name))[0]
    found = rows(connection, _RELATION, (f"{quoted[0]}.{quoted[1]}" if schema else quoted[1],))
    if not found:
        schema = schema or _creation_schema(connection)
        _refuse_reserved(schema, name)
        return Table(schema, name)
    oid, nspname, relname, kind, plain, referenced, fills_in, owned = found[0]
    _refuse_reserved(nspname, relname)
    if kind not in ("r", "p", "v", "f"):
        raise TableError(f"{nspname}.{relname}: is not a table")
    columns = tuple(TableColumn(*each) for each in rows(connection, _COLUMNS, (oid,)))
    key = tuple(each for (each,) in rows(connection, _PRIMARY_KEY, (oid,)))
    unique = tuple(frozenset(names) for (names,) in rows(connection, _UNIQUE, (oid,)))
    return Table(nspname, relname, columns, key, oid, referenced, plain, fills_in, owned, unique)


def _refuse_reserved(schema: str, name: str) -> None:
    """Whatever the spec says, the search path decides about a name without a schema."""
    if fault := reserved_schema(schema):
        raise TableError(f"{schema}.{name}: {fault}")


def _creation_schema(connection: Connection) -> str:
    schema: str | None = rows(connection, "SELECT current_schema()")[0][0]
    if schema is None:
        raise TableError("the session's search_path names no schema that exists: give the table's schema")
    return schema


def spell_types(connection: Connection, names: Iterable[str]) -> dict[str, str]:
    """Each type name in PostgreSQL's own spelling, modifiers included: ``varchar(5)`` → ``character varying(5)``.

    Raises a psycopg2 error (SQLSTATE 42704) for a type that does not exist.
    """
    distinct = list(dict.fromkeys(names))
    bases = rows(connection, "SELECT format_type(name::regtype, NULL) FROM unnest(%s::text[]) AS name", (distinct,))
    return {name: _with_modifiers(base, name) for name, (base,) in zip(distinct, bases, strict=True)}


_TYPES = """
    SELECT name, CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END,
           ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid),
           t.typsend <> 0 AND t.typreceive <> 0 AND coalesce(i.typsend <> 0 AND i.typreceive <> 0, true)
      FROM unnest(%s::text[]) AS name JOIN pg_type t ON t.oid = name::regtype
           LEFT JOIN pg_type i ON i.oid = t.typelem AND t.typcategory = 'A'
"""


def column_types(connection: Connection, names: Iterable[str]) -> dict[str, ColumnType]:
    """How each type travels, by its name in PostgreSQL's own spelling; a domain as the type under it."""
    facts: dict[str, TypeFacts] = {}
    pending = list(dict.fromkeys(names))
    while pending:
        found = {
            name: TypeFacts(base, tuple(labels), binary)
            for name, base, labels, binary in rows(connection, _TYPES, (pending,))
        }
        facts |= found
        pending = [each.base for each in found.values() if each.base is not None and each.base not in facts]

    def made(name: str) -> ColumnType:
        base = facts[name].base
        return column_type(name, facts[name], made(base) if base is not None else None)

    return {name: made(name) for name in facts}


def _with_modifiers(base: str, name: str) -> str:
    """regtype drops a type's modifiers; put back those of ``name`` where ``format_type`` puts them."""
    modifiers = re.search(r"\(\s*(-?\d+)\s*(?:,\s*(-?\d+)\s*)?\)", name)
    if modifiers is None:
        return "character(1)" if base == "character" else base
    first, _, rest = base.partition(" with") if base.startswith(("time", "timestamp")) else (base, "", "")
    listed = ",".join(each for each in modifiers.groups() if each is not None)
    return f"{first}({listed})" + (f" with{rest}" if rest else "")


def session_zone(connection: Connection) -> str:
    """The session's TimeZone: where a timestamptz without an offset is.

    A bare offset there is POSIX's, west of Greenwich (manual, 8.5.3 and B.5); given here as ISO 8601's, east.
    """
    zone: str = rows(connection, "SHOW timezone")[0][0]
    if re.fullmatch(r"[+-][0-9:]+", zone):
        return ("-" if zone.startswith("+") else "+") + zone[1:]
    return zone
