"""What PostgreSQL's catalogues say of a database: all that a migration can make, as text to compare."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.drivers import Database

_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00")

_STATEMENTS = {
    "column": """
        SELECT format(
            '%s.%s %s collation %s, not null %s, default %s, identity %s, generated %s, storage %s %s, %s %s',
            c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attcollation::regcollation,
            a.attnotnull,
            -- Where there is none, Piccolo writes DEFAULT null, which PostgreSQL keeps for numeric(12, 2).
            nullif(pg_get_expr(d.adbin, d.adrelid), 'NULL::numeric'),
            a.attidentity, a.attgenerated, a.attstorage, a.attcompression, a.attstattarget, a.attoptions
        )
        FROM pg_attribute AS a
        JOIN pg_class AS c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> 'migration'
            AND a.attnum > 0 AND NOT a.attisdropped
    """,
    "relation": """
        SELECT format('%s %s %s %s %s %s',
            relname, relkind, relpersistence, reloptions, relrowsecurity, relacl
        )
        FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relname !~ '^migration(_|$)'
    """,
    "constraint": """
        SELECT format('%s %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid), convalidated)
        FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'migration'
    """,
    "index": """
        SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'migration'
    """,
    "function": """
        SELECT pg_get_functiondef(oid) FROM pg_proc AS p
        WHERE pronamespace = 'public'::regnamespace AND NOT EXISTS (
            SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e'
        )
    """,
    "trigger": """
        SELECT format('%s %s', pg_get_triggerdef(oid), tgenabled) FROM pg_trigger WHERE NOT tgisinternal
    """,
    "sequence": """
        SELECT format(
            '%s %s from %s, %s … %s by %s, cycle %s, last %s, owned by %s.%s', sequencename, data_type,
            start_value, min_value, max_value, increment_by, cycle, last_value,
            owner.refobjid::regclass, column_.attname
        )
        FROM pg_sequences
        LEFT JOIN pg_depend AS owner ON owner.classid = 'pg_class'::regclass AND owner.refobjsubid > 0
            AND owner.objid = format('%I', sequencename)::regclass
        LEFT JOIN pg_attribute AS column_
            ON column_.attrelid = owner.refobjid AND column_.attnum = owner.refobjsubid
        WHERE schemaname = 'public' AND sequencename !~ '^migration(_|$)'
    """,
    "statistics": """
        SELECT pg_get_statisticsobjdef(oid) FROM pg_statistic_ext
    """,
    "comment": """
        SELECT format('%s %s %s', o.type, o.identity, d.description)
        FROM pg_description AS d, pg_identify_object(d.classoid, d.objoid, d.objsubid) AS o
        WHERE d.objoid >= 16384 AND o.type <> 'extension' AND NOT EXISTS (
            SELECT FROM pg_depend AS e WHERE e.classid = d.classoid AND e.objid = d.objoid AND e.deptype = 'e'
        )
    """,
    "extension": """
        SELECT format('%s %s', extname, extversion) FROM pg_extension
    """,
}


def catalogue(database: Database) -> set[str]:
    """Describe every table, column, constraint, index, function, trigger, sequence, comment and extension.

    Not the order of a table's columns, and not what is Piccolo's own.
    """
    return {
        f"{kind}: {next(iter(row.values()))}"
        for kind, statement in _STATEMENTS.items()
        for row in database.rows(statement)
    }


def stored_rows(database: Database) -> dict[str, list[str]]:
    """Return every row of every table as JSON, with "a time" in the place of each time."""
    return {
        table: [
            _TIME.sub("a time", row["json"])
            for row in database.rows(f"SELECT to_jsonb(t)::text AS json FROM {table} AS t ORDER BY 1")
        ]
        for table in database.every_table
    }
