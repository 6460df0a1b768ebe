"""What a stranger leaves in schema public where every role may create there: better matches for PostgreSQL's own names.

Each plant counts its call in a sequence, which no rollback takes back, and then raises.
"""

from __future__ import annotations

import asyncpg

TYPES = (
    "text", "varchar", "name", "\"char\"", "bool", "int2", "int4", "int8", "float8", "numeric", "oid", "regclass",
    "interval", "timestamptz", "timestamp", "uuid", "json", "jsonb", "text[]", "varchar[]", "int2[]", "int4[]", "oid[]",
    "uuid[]", "timestamptz[]",
)  # fmt: skip
OPERATORS = (
    "=", "<>", "<", ">", "<=", ">=", "~", "!~", "~~", "!~~", "~~*", "||", "+", "-", "*", "/", "->", "->>", "@>", "<@",
    "&&",
)  # fmt: skip
FUNCTIONS = (
    "to_jsonb(text[])", "to_jsonb(text)", "to_jsonb(jsonb)", "to_jsonb(reconciler.assets)", "unnest(text[])",
    "unnest(oid[])", "unnest(timestamptz[])", "unnest(int4[])", "cardinality(text[])", "cardinality(int4[])",
    "cardinality(timestamptz[])", "concat_ws(text, text, text, text, int8)", "concat_ws(text, text, text, text, text)",
    "format(text, text)", "format(text, name)", "format(text, text, name)", "format(text, name, name)",
    "format(text, text, name, name)", "jsonb_build_object(text, text, text, text)", "string_agg(text, varchar)",
    "json_build_object(text, int8, text, text, text, text)", "json_build_object(text, text, text, text, text, text)",
    "pg_notify(varchar, text)", "now(int4)", "left(varchar, int4)", "right(varchar, int4)", "length(varchar)",
    "octet_length(varchar)", "replace(varchar, text, text)", "strpos(varchar, text)", "lower(varchar)", "max(text[])",
    "quote_ident(name)", "quote_literal(varchar)",
    "array_position(text[], text)", "has_table_privilege(oid, varchar)", "pg_get_expr(pg_node_tree, regclass)",
)  # fmt: skip
"""Signatures that fit calls of ours better than PostgreSQL's functions, which take `anyelement`, "any" or text."""

_BODY = "LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM nextval('public.planted'); RAISE 'planted: {}'; END $$"

# Where PostgreSQL has the exact operator, its own is found first.
_MISSING = """
SELECT o, l, r FROM unnest($1::text[]) AS o, unnest($2::text[]) AS l, unnest($2::text[]) AS r
 WHERE to_regoperator(format('pg_catalog.%s(%s,%s)', o, l, r)) IS NULL
"""


async def plant(owner: asyncpg.Connection, stranger: asyncpg.Connection) -> None:
    """Let every role create in schema public, as up to PostgreSQL 14, and let the stranger plant there."""
    await owner.execute("GRANT CREATE ON SCHEMA public TO PUBLIC; GRANT USAGE ON SCHEMA reconciler TO PUBLIC")
    await stranger.execute("CREATE SEQUENCE public.planted; GRANT USAGE ON SEQUENCE public.planted TO PUBLIC")
    pairs = [(left, right) for left in TYPES for right in TYPES]
    made = [
        f"CREATE FUNCTION public.planted({left}, {right}) RETURNS bool {_BODY.format(f'{left}, {right}')}"
        for left, right in pairs
    ]
    made += [
        f"CREATE OPERATOR public.{row['o']} (LEFTARG = {row['l']}, RIGHTARG = {row['r']}, FUNCTION = public.planted)"
        for row in await stranger.fetch(_MISSING, OPERATORS, TYPES)
    ]
    made += [f"CREATE FUNCTION public.{call} RETURNS text {_BODY.format(call)}" for call in FUNCTIONS]
    await stranger.execute(";\n".join(made))
    await owner.execute("REVOKE USAGE ON SCHEMA reconciler FROM PUBLIC")


async def calls(owner: asyncpg.Connection) -> int:
    """Return how often a plant was called."""
    called: int = await owner.fetchval("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM public.planted")
    return called
