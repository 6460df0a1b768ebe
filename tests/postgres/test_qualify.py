"""Names without a schema become PostgreSQL's own, and nothing else in the text changes."""

from __future__ import annotations

import pytest

from reconciler.postgres.qualify import qualified


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("SELECT now(), count(*)", "SELECT pg_catalog.now(), pg_catalog.count(*)"),
        ("SELECT left(a, 2), RIGHT (a, 2)", "SELECT pg_catalog.left(a, 2), pg_catalog.RIGHT (a, 2)"),
        ("SELECT a::text, b::uuid[], c::jsonb", "SELECT a::pg_catalog.text, b::pg_catalog.uuid[], c::pg_catalog.jsonb"),
        ("SELECT jsonb '{}', uuid 'x'", "SELECT pg_catalog.jsonb '{}', pg_catalog.uuid 'x'"),
        ("SELECT FROM unnest(:a) AS t (x)", "SELECT FROM pg_catalog.unnest(:a) AS t (x)"),
        ("FROM pg_class AS c JOIN pg_index i ON f(i)",
         "FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_index i ON pg_catalog.f(i)"),
        ("SELECT lower(substring(a, 2))", "SELECT pg_catalog.lower(pg_catalog.substring(a, 2))"),
        ("DELETE FROM x USING f(1) WHERE NOT g(2)", "DELETE FROM x USING pg_catalog.f(1) WHERE NOT pg_catalog.g(2)"),
        ("SELECT a ->> 'b', a -> 'b' ->> 'c'",
         "SELECT a ->> 'b'::pg_catalog.text, a -> 'b'::pg_catalog.text ->> 'c'::pg_catalog.text"),
        ("WITH a (x) AS (SELECT f(1)), b (y) AS MATERIALIZED (SELECT 1)",
         "WITH a (x) AS (SELECT pg_catalog.f(1)), b (y) AS MATERIALIZED (SELECT 1)"),
        ("SELECT f(1) AS a, g(2) AS b", "SELECT pg_catalog.f(1) AS a, pg_catalog.g(2) AS b"),
        ("max(x) FILTER (WHERE y) OVER (ORDER BY z)", "pg_catalog.max(x) FILTER (WHERE y) OVER (ORDER BY z)"),
        ("WHERE g.status = 'a' AND g.task_id <> x",
         "WHERE g.status::pg_catalog.text = 'a' AND g.task_id::pg_catalog.text <> x"),
        ("g.asset_url IS DISTINCT FROM x", "g.asset_url::pg_catalog.text IS DISTINCT FROM x"),
    ],
)  # fmt: skip
def test_a_name_without_a_schema_is_postgresql_s_own(text: str, becomes: str) -> None:
    assert qualified(text) == becomes
    assert qualified(becomes) == becomes


@pytest.mark.parametrize(
    "text",
    [
        "SELECT pg_catalog.now(), reconciler.on_failed(1), public.f (2), a::public.kind, b::pg_catalog.text",
        "SELECT 'now()', E'\\'now()', $$now()$$, $a$ now() $$ f() $a$, \"now\"(1), U&\"f\" (2)",
        "SELECT 1 -- now()\n/* now() /* f() */ g() */ + 2",
        "SELECT coalesce(a, 1), greatest(a, b), extract(epoch FROM a), nullif(a, b), CAST(a AS bigint)",
        "SELECT a::int, a::bigint, a::interval, a::boolean, a::character varying(20)[], a::timestamp with time zone",
        "SELECT interval '1 day', EXISTS (SELECT 1), ARRAY(SELECT 1), ROW (1, 2), substring(a from 'b')",
        "SELECT a = ANY (b), a <> ALL (b), a IN (1), a IN (SELECT 1), (a, b) IS DISTINCT FROM (c, d)",
        "INSERT INTO reconciler.work AS w (a, b) VALUES (1, 2) ON CONFLICT (a) DO UPDATE SET b = excluded.b",
        "SELECT * FROM unnest(a, b) AS u (x, y)",
        "SELECT FROM x JOIN y USING (a) LEFT JOIN LATERAL (SELECT 1) z ON (true)",
        "SELECT a->b, g.status IS NULL, g.task_id IS NOT NULL, g.status::varchar",
        "UPDATE public.generations g SET status = 'a', task_id = 'b'",
        "SELECT w.status, x.g.status FROM gg.status",
    ],
)
def test_everything_else_stays(text: str) -> None:
    assert qualified(text) == text
