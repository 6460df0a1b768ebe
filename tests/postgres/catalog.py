"""The contents of a database as PostgreSQL's catalog lists them: two databases are alike when these are equal."""

from __future__ import annotations

import asyncpg

_OURS = "('public', 'reconciler')"

# Each returns names and definitions.
_ASKED = {
    "schema": f"""
        SELECT nspname, (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(nspacl) AS a)::text
          FROM pg_namespace WHERE nspname IN {_OURS}""",
    "relation": f"""
        SELECT c.oid::regclass::text, concat_ws(' ', c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.reloptions,
               (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(c.relacl) AS a))
          FROM pg_class AS c WHERE c.relnamespace::regnamespace::text IN {_OURS}""",
    "column": f"""
        SELECT c.oid::regclass || '.' || a.attname,
               concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
                         pg_get_expr(d.adbin, d.adrelid),
                         (SELECT array_agg(g::text ORDER BY g::text) FROM unnest(a.attacl) AS g))
          FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
          LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE c.relnamespace::regnamespace::text IN {_OURS} AND c.relkind IN ('r', 'v') AND a.attnum > 0
           AND NOT a.attisdropped""",
    "constraint": f"""
        SELECT conrelid::regclass || '.' || conname, concat_ws(' ', pg_get_constraintdef(oid), convalidated)
          FROM pg_constraint WHERE connamespace::regnamespace::text IN {_OURS}""",
    "index": f"""
        SELECT i.indexrelid::regclass::text, concat_ws(' ', pg_get_indexdef(i.indexrelid), i.indisvalid)
          FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
         WHERE c.relnamespace::regnamespace::text IN {_OURS}""",
    "trigger": """
        SELECT tgrelid::regclass || '.' || tgname, pg_get_triggerdef(oid) || tgenabled::text
          FROM pg_trigger WHERE NOT tgisinternal""",
    "function": f"""
        SELECT oid::regprocedure::text, pg_get_functiondef(oid)
               || coalesce((SELECT array_agg(a::text ORDER BY a::text) FROM unnest(proacl) AS a)::text, '')
          FROM pg_proc WHERE pronamespace::regnamespace::text IN {_OURS}""",
    "view": f"""
        SELECT c.oid::regclass::text, pg_get_viewdef(c.oid)
          FROM pg_class AS c WHERE c.relkind = 'v' AND c.relnamespace::regnamespace::text IN {_OURS}""",
    "policy": """
        SELECT polrelid::regclass || '.' || polname,
               concat_ws(' ', polcmd, polpermissive, polroles::regrole[], pg_get_expr(polqual, polrelid),
                         pg_get_expr(polwithcheck, polrelid))
          FROM pg_policy""",
}


async def catalog(connection: asyncpg.Connection) -> dict[str, str]:
    """Return the definitions in public and reconciler, and of every trigger and policy, by kind and name."""
    return {
        f"{kind} {name}": what or ""
        for kind, sql in _ASKED.items()
        for name, what in await connection.fetch(f"{sql} ORDER BY 1")
    }


async def applied(connection: asyncpg.Connection) -> dict[str, str]:
    """Return the hashes of the applied files."""
    return dict(await connection.fetch("SELECT file, sha256 FROM reconciler.schema_version ORDER BY file"))
