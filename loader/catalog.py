"""What PostgreSQL's catalog says: about the target table, about type names, about the session."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.errors import TableError
from loader.pgtypes import ColumnType, TypeFacts, column_type
from loader.tables import Table, TableColumn

_RELATION = """
    WITH RECURSIVE named AS (SELECT to_regclass(%s)::oid AS oid),
    tree AS (SELECT oid FROM named UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON tree.oid = i.inhparent),
    triggers AS (SELECT t.tgtype FROM pg_trigger t JOIN tree ON tree.oid = t.tgrelid
                  WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & 1 = 1 AND t.tgtype & 66 <> 0)
    SELECT c.oid, n.nspname, c.relname, c.relkind::text,
           c.relkind IN ('r', 'p') AND NOT row_security_active(c.oid),
           EXISTS (SELECT FROM pg_constraint f WHERE f.confrelid = c.oid AND f.contype = 'f' AND f.conrelid <> c.oid),
           EXISTS (SELECT FROM triggers t WHERE t.tgtype & 6 = 6),
           c.relkind = 'r' AND NOT c.relispartition AND pg_has_role(c.relowner, 'USAGE'),
           EXISTS (SELECT FROM triggers t WHERE t.tgtype & CASE c.relkind WHEN 'p' THEN 28 ELSE 20 END <> 0),
           row_security_active(c.oid),
           ARRAY(SELECT DISTINCT CASE r.ev_type WHEN '2' THEN 'UPDATE' WHEN '3' THEN 'INSERT' ELSE 'DELETE' END
                   FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type <> '1' AND r.ev_enabled <> 'D')
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN named ON named.oid = c.oid
"""
# tgtype: bit 0 for each row, 1 before, 2 on insert, 3 on delete, 4 on update, 6 instead. An update that moves a row to
# another partition deletes and inserts it.

_COLUMNS = """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod),
           a.attnotnull OR t.typnotnull, a.attgenerated <> '',
           a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL,
           CASE WHEN l.oid <> 'pg_catalog."default"'::regcollation THEN format('%%I.%%I', n.nspname, l.collname) END
      FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
           LEFT JOIN pg_collation l ON l.oid = a.attcollation LEFT JOIN pg_namespace n ON n.oid = l.collnamespace
     WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""

_PRIMARY_KEY = """
    SELECT a.attname FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place), pg_attribute a
     WHERE i.indrelid = %s AND i.indisprimary AND a.attrelid = i.indrelid AND a.attnum = k.attnum ORDER BY k.place
"""

SAME_EQUALITY = """(SELECT bool_and((o.opcdefault OR o.opcname = 'varchar_ops' OR right(o.opcname, 11) = 'pattern_ops')
                    AND (e.coll = b.attcollation OR coalesce(l.collisdeterministic, true)))
      FROM unnest(i.indkey::int2[], i.indcollation::oid[], i.indclass::oid[]) WITH ORDINALITY
             AS e(attnum, coll, class, place) JOIN pg_opclass o ON o.oid = e.class
           JOIN pg_attribute b ON b.attrelid = i.indrelid AND b.attnum = e.attnum
           LEFT JOIN pg_collation l ON l.oid = b.attcollation)"""
"""Whether values that are equal to the columns of a row ``i`` of pg_index are equal to the index, too: it may have
another collation, or another operator class."""

_UNIQUE = """
    SELECT array_agg(a.attname::text) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid,
           unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place), pg_attribute a
     WHERE i.indrelid = %s AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL
       AND i.indexprs IS NULL AND k.place <= i.indnkeyatts AND a.attrelid = i.indrelid AND a.attnum = k.attnum
       AND NOT (c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = c.oid))
       AND <same equality>
     GROUP BY i.indexrelid
""".replace("<same equality>", SAME_EQUALITY)  # an index says nothing of the rows of tables that inherit


def rows(connection: Connection, statement: Any, parameters: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
    """All rows of a statement's answer."""
    with connection.cursor() as cursor:
        cursor.execute(statement, tuple(parameters))
        return cursor.fetchall()


def describe(connection: Connection, schema: str | None, name: str) -> Table:
    """The table as the catalog has it; one with ``oid`` None where it does not exist yet.

    Without ``schema`` the session's search_path decides, and where the table is absent its first schema.
    Raises TableError for what is no table that rows can be put into.
    """
    quoted = rows(connection, "SELECT quote_ident(%s), quote_ident(%s)", (schema or "", name))[0]
    found = rows(connection, _RELATION, (f"{quoted[0]}.{quoted[1]}" if schema else quoted[1],))
    if not found:
        return Table(schema or _creation_schema(connection), name)
    oid, nspname, relname, kind, plain, referenced, fills_in, owned, has_triggers, is_secured, rules = found[0]
    if kind not in ("r", "p", "v", "f"):
        raise TableError(f"{nspname}.{relname}: is not a table")
    columns = tuple(TableColumn(*each) for each in rows(connection, _COLUMNS, (oid,)))
    key = tuple(each for (each,) in rows(connection, _PRIMARY_KEY, (oid,)))
    unique = tuple(frozenset(names) for (names,) in rows(connection, _UNIQUE, (oid,)))
    return Table(
        nspname,
        relname,
        columns,
        key,
        oid,
        referenced,
        plain,
        fills_in,
        owned,
        unique,
        leaves_out=_leaves_out(kind, has_triggers=has_triggers, is_secured=is_secured),
        rules=frozenset(rules),
        view=kind == "v",
    )


def _leaves_out(kind: str, *, has_triggers: bool, is_secured: bool) -> str:
    """See `Table`; what is behind a view or a foreign table is not looked at."""
    if kind in ("v", "f"):
        return "a trigger or policy"
    return " or ".join([*(["a trigger"] if has_triggers else []), *(["row security"] if is_secured else [])])


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
