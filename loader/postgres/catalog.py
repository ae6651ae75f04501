"""What PostgreSQL's catalog says: about the target table, about type names, about the session."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from loader.core.display import shown
from loader.core.errors import TableError
from loader.core.pgtypes import NEAREST, ColumnType, TypeFacts, base_name, column_type
from loader.core.spec.model import is_type_name, reserved_schema
from loader.core.suggestions import SHOWN, did_you_mean, nearest
from loader.postgres.statements import execute, planned_rows, rows
from loader.postgres.tables import Table, TableColumn

BEHIND_VIEWS = """
    SELECT v.oid AS view, d.refobjid AS oid FROM pg_class v JOIN pg_rewrite r ON r.ev_class = v.oid
      JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
     WHERE v.relkind = 'v' AND d.refclassid = 'pg_class'::regclass"""
"""What each view is made of, also what it only reads: the catalog does not tell the two apart."""

_NAMED = """
    to_regclass(coalesce(quote_ident(%(schema)s::text) || '.', '') || quote_ident(%(name)s::text))::oid"""

LOCATED = f"""
    SELECT coalesce(n.nspname::text, %(schema)s::text, current_schema()::text) AS schema,
           coalesce(c.relname::text, %(name)s::text) AS name, c.oid
      FROM (SELECT {_NAMED} AS oid) named
           LEFT JOIN pg_class c ON c.oid = named.oid LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
"""


def locate(connection: Connection, schema: str | None, name: str) -> Table:
    """Where the table is that the name means now: its schema, its name and its oid, and nothing else of it.

    Without ``schema`` the session's search_path decides, and where the table is absent its first schema; ``oid`` is
    None then. Raises TableError for the schemas that no load may change.
    """
    ((found, relname, oid),) = planned_rows(connection, LOCATED, {"schema": schema, "name": name})
    if found is None:
        raise TableError("the session's search_path names no schema that exists: give the table's schema")
    _refuse_reserved(found, relname)
    return Table(found, relname, oid=oid)


SAME_EQUALITY = """(SELECT bool_and((o.opcdefault OR o.opcname = 'varchar_ops' OR right(o.opcname, 11) = 'pattern_ops')
                    AND (e.coll = b.attcollation OR coalesce(l.collisdeterministic, true)))
      FROM unnest(i.indkey::int2[], i.indcollation::oid[], i.indclass::oid[]) WITH ORDINALITY
             AS e(attnum, coll, class, place) JOIN pg_opclass o ON o.oid = e.class
           JOIN pg_attribute b ON b.attrelid = i.indrelid AND b.attnum = e.attnum
           LEFT JOIN pg_collation l ON l.oid = b.attcollation)"""
"""Whether values that are equal to the columns of a row ``i`` of pg_index are equal to the index, too: it may have
another collation, or another operator class."""

_COLUMNS = """
    SELECT json_agg(json_build_array(a.attname, format_type(a.atttypid, a.atttypmod),
           a.attnotnull OR t.typnotnull, a.attgenerated <> '',
           a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL,
           CASE WHEN l.oid <> 'pg_catalog."default"'::regcollation THEN format('%%I.%%I', n.nspname, l.collname) END)
           ORDER BY a.attnum)
      FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
           LEFT JOIN pg_collation l ON l.oid = a.attcollation LEFT JOIN pg_namespace n ON n.oid = l.collnamespace
     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"""

_PRIMARY_KEY = """
    SELECT a.attname::text FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place), pg_attribute a
     WHERE i.indrelid = c.oid AND i.indisprimary AND a.attrelid = i.indrelid AND a.attnum = k.attnum ORDER BY k.place"""

_UNIQUE = f"""
    SELECT json_agg(DISTINCT u.names) FROM (
        SELECT array_agg(a.attname::text ORDER BY a.attname)::text[] AS names
          FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place), pg_attribute a
         WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL
           AND i.indexprs IS NULL AND k.place <= i.indnkeyatts AND a.attrelid = i.indrelid AND a.attnum = k.attnum
           AND NOT (c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = c.oid))
           AND {SAME_EQUALITY}
         GROUP BY i.indexrelid) u"""  # an index says nothing of the rows of tables that inherit

_RELATION = f"""
    WITH RECURSIVE named AS (SELECT {_NAMED} AS oid),
    tree AS (SELECT oid FROM named UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON tree.oid = i.inhparent),
    behind AS (SELECT oid FROM named UNION
               SELECT b.oid FROM behind JOIN (<behind views>) AS b ON b.view = behind.oid),
    below AS (SELECT oid FROM behind UNION SELECT i.inhrelid FROM pg_inherits i JOIN below ON below.oid = i.inhparent),
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
                   FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type <> '1' AND r.ev_enabled <> 'D'),
           (SELECT min(f.oid::regclass::text) FROM pg_class f JOIN below USING (oid) WHERE f.relkind = 'f'),
           c.relkind = 'r' AND c.relpersistence = 'u',
           c.relkind IN ('r', 'p') AND has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE'),
           ({_COLUMNS}),
           ARRAY({_PRIMARY_KEY}),
           ({_UNIQUE})
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN named ON named.oid = c.oid
""".replace("<behind views>", BEHIND_VIEWS)
# tgtype: bit 0 for each row, 1 before, 2 on insert, 3 on delete, 4 on update, 6 instead. An update that moves a row to
# another partition deletes and inserts it.


def describe(connection: Connection, schema: str | None, name: str, *, after: sql.Composable | None = None) -> Table:
    """The table as the catalog has it; one with ``oid`` None where it does not exist yet.

    Without ``schema`` the session's search_path decides, and where the table is absent its first schema. One statement,
    so that it is one moment of the catalog that is described; ``after`` another one that is sent with it, such as
    `target.holding`.
    Raises TableError for what is no table that rows can be put into, for foreign tables, and for the schemas that no
    load may change.
    """
    found = planned_rows(connection, _RELATION, {"schema": schema, "name": name}, after=after)
    if not found:
        return replace(locate(connection, schema, name), oid=None)
    oid, nspname, relname, kind, plain, referenced, fills_in, owned, has_triggers, is_secured, rules, *rest = found[0]
    foreign, unlogged, lockable, columns, key, unique = rest
    _refuse_reserved(nspname, relname)
    if kind not in ("r", "p", "v", "f"):
        raise TableError(f"{nspname}.{relname}: is not a table")
    if foreign is not None:
        what = "is a foreign table" if kind == "f" else f"has rows in the foreign table {foreign}"
        raise TableError(
            f"{nspname}.{relname}: {what}, whose server commits before the ledger does, so a load could take effect "
            "twice; load into the table on its own server"
        )
    return Table(
        nspname,
        relname,
        tuple(TableColumn(*each) for each in columns or ()),
        tuple(key),
        oid,
        referenced,
        plain,
        fills_in,
        owned,
        tuple(frozenset(names) for names in unique or ()),
        leaves_out=_leaves_out(kind, has_triggers=has_triggers, is_secured=is_secured),
        rules=frozenset(rules),
        view=kind == "v",
        unlogged=unlogged,
        lockable=lockable,
    )


def _leaves_out(kind: str, *, has_triggers: bool, is_secured: bool) -> str:
    """See `Table`; what is behind a view is not looked at."""
    if kind == "v":
        return "a trigger or policy"
    return " or ".join([*(["a trigger"] if has_triggers else []), *(["row security"] if is_secured else [])])


_NEAR = """
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND lower(c.relname COLLATE "C") = lower(%(name)s COLLATE "C")
       AND (n.nspname, c.relname) <> (%(schema)s, %(name)s)
       AND CASE WHEN %(there)s THEN n.nspname = ANY (%(path)s::name[])
                ELSE lower(n.nspname COLLATE "C") = lower(%(schema)s COLLATE "C") END
     ORDER BY n.nspname <> %(schema)s, 1, 2
"""


def check_new(connection: Connection, table: Table, *, schema: str | None, exact: bool) -> tuple[str, ...]:
    """Notes on the name of a table that a load is to create.

    ``schema``: the one that was asked for, None where the search path decides. ``exact``: its name was given in quotes.
    Raises TableError where the schema does not exist, or where the name is not exact and there is a table already whose
    name differs in upper and lower case alone: to SQL without quotes the two are the same.
    """
    schemas = [name for (name,) in rows(connection, "SELECT nspname FROM pg_namespace")]
    there = table.schema in schemas
    path = [schema] if schema else rows(connection, "SELECT current_schemas(false)::text[]")[0][0]
    near = rows(connection, _NEAR, {"schema": table.schema, "name": table.name, "path": path, "there": there})
    if near and not (exact and there):
        found = _in_sql(connection, *near[0])
        second = f"; for a second table put its name in quotes: '{_exactly(table)}'" if there else ""
        raise TableError(
            f"{table}: does not exist, but {found} does, and the names differ in upper and lower case alone; "
            f"to load into that one write '{found}'{second}"
        )
    if not there:
        own = [name for name in schemas if not name.startswith("pg_") and name != "information_schema"]
        raise TableError(f'{table}: there is no schema "{table.schema}"{did_you_mean(table.schema, own)}')
    written = _in_sql(connection, table.schema, table.name)
    if written == f"{table.schema}.{table.name}":
        return ()
    why = "is case-sensitive" if not {table.schema, table.name} <= {table.schema.lower(), table.name.lower()} else None
    return (f"the name of the new table {why or 'needs quotes'}: in SQL write {written}",)


def _in_sql(connection: Connection, schema: str, name: str) -> str:
    """The table's name as SQL has to have it."""
    written: str = rows(connection, "SELECT quote_ident(%s) || '.' || quote_ident(%s)", (schema, name))[0][0]
    return written


def _exactly(table: Table) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in (table.schema, table.name))


def _refuse_reserved(schema: str, name: str) -> None:
    """Whatever the spec says, the search path decides about a name without a schema."""
    if fault := reserved_schema(schema):
        raise TableError(f"{schema}.{name}: {fault}")


def spell_types(connection: Connection, wanted: Iterable[tuple[str, str]], table: Table) -> dict[str, str]:
    """Each type name in PostgreSQL's own spelling, modifiers included: ``varchar(5)`` → ``character varying(5)``.

    ``wanted``: columns of ``table``, each with the name of its type. Raises TableError, which names every column whose
    type does not exist, or is one that no column can have.
    """
    columns: dict[str, list[str]] = {}
    for column, type_name in wanted:
        columns.setdefault(type_name, []).append(column)
    if not columns:
        return {}
    spelled, faults = _try_to_spell(connection, list(columns))
    if faults:  # of several types at once, the server says of the first alone what is wrong, and not always which it is
        tried = {name: _try_to_spell(connection, [name])[1] for name in columns}
        known = dict(rows(connection, _KNOWN))
        wrong = [
            f"columns.{column}: {_refused(name, faults[0], known)}"
            for name, faults in tried.items()
            if faults
            for column in columns[name][:SHOWN]
        ]
        raise TableError(f"{table}: {'; '.join(wrong[:SHOWN])}{'; …' if len(wrong) > SHOWN else ''}", "42704")
    return dict(zip(columns, spelled, strict=True))


def _try_to_spell(connection: Connection, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names as the server spells them, or what it says against one of them."""
    if odd := [name for name in names if not is_type_name(name)]:
        return [], [f"{shown(odd[0])} is not a type's name"]
    with _undone(connection):
        try:
            return _spelled(connection, names), []
        except psycopg2.Error as error:
            if connection.closed or (error.pgcode or "")[:2] not in _ABOUT_A_NAME:
                raise
            return [], ["" if error.pgcode in _NOT_THERE else error.diag.message_primary or ""]
        except PseudoTypeError as error:
            return [], [str(error)]


class PseudoTypeError(Exception):
    """A type that values have only on their way through functions."""


_ABOUT_A_NAME = ("22", "3F", "42")
"""Classes of SQLSTATE by which the server refuses a type's modifiers, its schema, or the name itself."""

_NOT_THERE = ("42704", "3F000")
"""SQLSTATE of a type that does not exist, and of a schema that does not."""

_BASES = """
    SELECT format_type(t.oid, NULL), t.typmodin <> 0,
           NOT t.typisdefined OR 'p' IN (t.typtype, coalesce(e.typtype, t.typtype))
      FROM unnest(%s::text[]) WITH ORDINALITY AS n (name, place) JOIN pg_type t ON t.oid = n.name::regtype
           LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A' ORDER BY n.place
"""


def _spelled(connection: Connection, names: Sequence[str]) -> list[str]:
    """As `spell_types`. ``regtype`` drops a type's modifiers, so the server shows a NULL of each type that has some."""
    found = rows(connection, _BASES, (list(names),))
    if pseudo := [base for base, _, is_pseudo in found if is_pseudo]:
        raise PseudoTypeError(f"{pseudo[0]} is a pseudo-type")
    modified = [name for name, (_, takes_modifiers, _) in zip(names, found, strict=True) if takes_modifiers]
    shown: Iterator[str] = iter(())
    if modified:
        nulls = sql.SQL(", ").join(sql.SQL("NULL::") + sql.SQL(name) for name in modified)
        plan = rows(connection, sql.SQL("EXPLAIN (VERBOSE, FORMAT JSON) SELECT {}").format(nulls))[0][0]
        shown = (each.removeprefix("NULL::") for each in plan[0]["Plan"]["Output"])
    return [next(shown) if takes_modifiers else base for base, takes_modifiers, _ in found]


@contextmanager
def _undone(connection: Connection) -> Iterator[None]:
    """What is asked inside may fail, and the transaction that is open goes on."""
    execute(connection, "SAVEPOINT loader_catalog")
    try:
        yield
    finally:
        if not connection.closed:
            execute(connection, "ROLLBACK TO SAVEPOINT loader_catalog; RELEASE SAVEPOINT loader_catalog")


_KNOWN = """
    SELECT lower(t.typname), format_type(t.oid, NULL) FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
           LEFT JOIN pg_class c ON c.oid = t.typrelid
     WHERE t.typtype <> 'p' AND t.typisdefined AND t.typcategory <> 'A' AND coalesce(c.relkind, 'c') = 'c'
       AND n.nspname NOT IN ('information_schema', 'pg_toast') ORDER BY n.nspname <> 'pg_catalog', 1 LIMIT 5000
"""


def _refused(name: str, why: str, known: Mapping[str, str]) -> str:
    """What is wrong with a type, in a sentence, and the nearest right one. ``known``: the database's types."""
    base = base_name(name).rpartition(".")[2].strip('"')
    near = NEAREST.get(base)
    if near is None and not why:
        near = NEAREST.get(nearest(base, NEAREST) or "") or known.get(nearest(base, known) or "")
    hint = f"; did you mean {_quoted(near)}?" if near and (near != base or not why) else ""
    if why:
        return f"no column can have the type {_quoted(name)}: {why}{hint}"
    return f"type {_quoted(name)} does not exist{hint}"


def _quoted(name: str) -> str:
    return f"'{name}'" if '"' in name else shown(name)


_TYPES = """
    SELECT name, CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END,
           ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid),
           t.typnamespace = 'pg_catalog'::regnamespace
      FROM unnest(%s::text[]) AS name JOIN pg_type t ON t.oid = name::regtype
"""


def column_types(connection: Connection, names: Iterable[str]) -> dict[str, ColumnType]:
    """How each type travels, by its name in PostgreSQL's own spelling; a domain as the type under it."""
    facts: dict[str, TypeFacts] = {}
    pending = list(dict.fromkeys(names))
    while pending:
        found = {
            name: TypeFacts(base, tuple(labels), built_in)
            for name, base, labels, built_in in rows(connection, _TYPES, (pending,))
        }
        facts |= found
        pending = [each.base for each in found.values() if each.base is not None and each.base not in facts]

    def made(name: str) -> ColumnType:
        base = facts[name].base
        return column_type(name, facts[name], made(base) if base is not None else None)

    return {name: made(name) for name in facts}


def session_zone(connection: Connection) -> str:
    """The session's TimeZone: where a timestamptz without an offset is.

    A bare offset there is POSIX's, west of Greenwich (manual, 8.5.3 and B.5); given here as ISO 8601's, east.
    """
    zone = connection.info.parameter_status("TimeZone") or rows(connection, "SHOW timezone")[0][0]
    if re.fullmatch(r"[+-][0-9:]+", zone):
        return ("-" if zone.startswith("+") else "+") + zone[1:]
    return zone
