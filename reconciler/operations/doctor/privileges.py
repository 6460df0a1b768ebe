"""The checks `privileges` and `row_security`: what this login may not do, and what strangers may.

Names are read from the catalogue and never resolved: a login without rights in a schema still learns what it lacks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from reconciler.operations.doctor import Check, fail, ok, warn
from reconciler.postgres.schema import WRITTEN

_GENERATIONS: Final = """
generations AS (
    SELECT c.oid, c.relrowsecurity, c.relnamespace FROM pg_class AS c
     WHERE c.relname = 'generations' AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'public'))"""

_MISSING_RIGHTS: Final = f"""
WITH {_GENERATIONS},
schemas AS (SELECT oid, nspname FROM pg_namespace WHERE nspname IN ('public', 'reconciler')),
-- Without our function, which a migration adds, rows are deleted by a right of the login's own.
by_hand AS (SELECT $2::boolean AND NOT EXISTS (
    SELECT FROM pg_proc AS p JOIN schemas AS s ON s.oid = p.pronamespace
     WHERE s.nspname = 'reconciler' AND p.proname = 'delete_failed') AS deletes),
missing (place, sql, runs) AS (
    SELECT 1, format('GRANT USAGE ON SCHEMA %I TO %I;', s.nspname, current_user), true
      FROM schemas AS s WHERE NOT has_schema_privilege(s.oid, 'USAGE')
    UNION ALL
    SELECT 2, format('GRANT %s ON reconciler.%I TO %I;', string_agg(needed, ', ' ORDER BY needed), c.relname,
                     current_user), true
      FROM pg_class AS c JOIN schemas AS s ON s.oid = c.relnamespace AND s.nspname = 'reconciler'
     CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS needed
     WHERE (c.relkind IN ('r', 'p') OR c.relkind = 'v' AND needed = 'SELECT')
       AND (c.relname <> 'schema_version' OR needed = 'SELECT') AND NOT has_table_privilege(c.oid, needed)
     GROUP BY c.relname
    UNION ALL
    SELECT 3, format('GRANT EXECUTE ON FUNCTION reconciler.%I(%s) TO %I;', p.proname,
                     pg_get_function_identity_arguments(p.oid), current_user), true
      FROM pg_proc AS p JOIN schemas AS s ON s.oid = p.pronamespace AND s.nspname = 'reconciler'
     WHERE p.prorettype <> 'trigger'::regtype AND NOT has_function_privilege(p.oid, 'EXECUTE')
    UNION ALL
    SELECT 4, format('GRANT %s ON public.generations TO %I;', needed, current_user), needed = 'SELECT'
      FROM generations AS g CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'DELETE']) AS needed
     WHERE NOT has_table_privilege(g.oid, needed) AND (needed <> 'DELETE' OR (SELECT deletes FROM by_hand))
    UNION ALL
    SELECT 5, format('GRANT UPDATE (%s) ON public.generations TO %I;', string_agg(quote_ident(a.attname), ', '),
                     current_user), true
      FROM generations AS g JOIN pg_attribute AS a ON a.attrelid = g.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE a.attgenerated = '' AND a.attname = ANY ($1::text[]) AND NOT has_column_privilege(g.oid, a.attnum, 'UPDATE')
    HAVING count(*) > 0
    UNION ALL
    SELECT 6, format('CREATE POLICY %I ON public.generations FOR %s TO %I %s;',
                     'reconciler_' || lower(command) || '_' || current_user, command, current_user, rule),
           command IN ('SELECT', 'UPDATE')
      FROM generations AS g
     CROSS JOIN (VALUES ('SELECT', 'r', 'USING (true)'), ('UPDATE', 'w', 'USING (true)'),
                        ('INSERT', 'a', 'WITH CHECK (true)'),
                        ('DELETE', 'd', 'USING (status = ''failed'' AND asset_url IS NULL)'))
           AS asked (command, letter, rule)
     WHERE row_security_active(g.oid) AND (command <> 'DELETE' OR (SELECT deletes FROM by_hand))
       AND NOT EXISTS (
           SELECT FROM pg_policy AS p
            WHERE p.polrelid = g.oid AND p.polpermissive AND p.polcmd::text IN (letter, '*')
              AND (0 = ANY (p.polroles) AND 'true' = pg_get_expr(coalesce(p.polqual, p.polwithcheck), p.polrelid)
                   OR EXISTS (SELECT FROM unnest(p.polroles) AS named
                               WHERE CASE WHEN named <> 0 THEN pg_has_role(named, 'USAGE') END))))
SELECT sql, runs FROM missing ORDER BY place, sql
"""


def reached_by_strangers(schema: str, table: str) -> str:
    """Return queries for a WITH clause: what strangers and users may do with a table, and the policies that apply.

    `reached` has a row for each of anon and authenticated, and each command that its grants allow. `meant` has the
    policies that apply to these, each with its condition: WITH CHECK for INSERT, else USING.
    """
    return rf"""
target AS (
    SELECT c.oid, c.relrowsecurity, c.relnamespace FROM pg_class AS c
     WHERE c.relname = '{table}' AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = '{schema}')),
strangers AS (SELECT rolname, oid FROM pg_roles WHERE rolname IN ('anon', 'authenticated') AND NOT rolbypassrls),
reached AS (
    SELECT r.rolname, r.oid AS role, command, letter, t.oid, t.relrowsecurity
      FROM target AS t CROSS JOIN strangers AS r
     CROSS JOIN (VALUES ('SELECT', 'r'), ('INSERT', 'a'), ('UPDATE', 'w'), ('DELETE', 'd')) AS asked (command, letter)
     WHERE has_schema_privilege(r.oid, t.relnamespace, 'USAGE')
       AND (has_table_privilege(r.oid, t.oid, command)
            OR command <> 'DELETE' AND has_any_column_privilege(r.oid, t.oid, command))),
meant AS (
    SELECT x.rolname, x.command, p.polname, p.polpermissive,
           pg_get_expr(CASE WHEN x.letter = 'a' THEN coalesce(p.polwithcheck, p.polqual) ELSE p.polqual END,
                       p.polrelid) AS rule
      FROM reached AS x JOIN pg_policy AS p ON p.polrelid = x.oid AND p.polcmd::text IN (x.letter, '*')
     WHERE x.relrowsecurity
       AND (0::oid = ANY (p.polroles)
            OR EXISTS (SELECT FROM unnest(p.polroles) AS named
                        WHERE CASE WHEN named <> 0::oid THEN pg_has_role(x.role, named, 'USAGE') END)))"""


_OPEN_ACCESS: Final = rf"""
WITH {reached_by_strangers("public", "generations")}
SELECT rolname, command,
       'ALTER TABLE public.generations ENABLE ROW LEVEL SECURITY;'
       || E'\n-- then, for the policies of users and of the daemon: kie-reconciler migrate --application' AS sql
  FROM reached WHERE NOT relrowsecurity
UNION ALL
SELECT rolname, command,
       CASE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = 'service_role')
            THEN format('ALTER POLICY %I ON public.generations TO service_role;', polname)
            ELSE format('DROP POLICY %I ON public.generations;', polname) END
  FROM meant AS m
 WHERE polpermissive AND rule = 'true'
   AND NOT EXISTS (SELECT FROM meant AS r WHERE NOT r.polpermissive AND (r.rolname, r.command) = (m.rolname, m.command))
ORDER BY 1, 2, 3
"""

_ROLES: Final = "SELECT rolname::text FROM pg_roles WHERE rolname IN ('anon', 'authenticated') ORDER BY 1"


@dataclass(frozen=True, slots=True)
class MissingRight:
    """A right that the login lacks: the SQL that grants it, and whether nothing runs without it."""

    sql: str
    needed: bool


@dataclass(frozen=True, slots=True)
class OpenAccess:
    """A role that can use a command on rows of all users, and the SQL that stops it."""

    role: str
    command: str
    sql: str


async def read_rights(connection: asyncpg.Connection, *, deletes: bool) -> tuple[str, list[MissingRight]]:
    """Return the login's name and the rights that it lacks; `deletes`: the daemon deletes old failures."""
    login = await connection.fetchval("SELECT current_user::text")
    rows = await connection.fetch(_MISSING_RIGHTS, list(WRITTEN), deletes)
    return login, [MissingRight(row["sql"], row["runs"]) for row in rows]


def judge_privileges(rights: tuple[str, Sequence[MissingRight]]) -> Check:
    """Judge the rights of this login; `run` uses each of them."""
    login, missing = rights
    if not missing:
        return ok("privileges", f"{login} may do everything that `run` does")
    sql = "\n".join(right.sql for right in missing)
    if any(right.needed for right in missing):
        return fail("privileges", f"{login} lacks rights that nothing runs without", sql)
    says = f"{login} lacks rights that createTask or the deletion of old failures needs"
    return warn("privileges", says, sql)


async def read_open_access(connection: asyncpg.Connection) -> tuple[list[str], list[OpenAccess]]:
    """Return the roles that PostgREST uses for strangers and users, and what they can do with rows of all users."""
    roles = [row[0] for row in await connection.fetch(_ROLES)]
    rows = await connection.fetch(_OPEN_ACCESS)
    return roles, [OpenAccess(row["rolname"], row["command"], row["sql"]) for row in rows]


def judge_row_security(open_access: tuple[Sequence[str], Sequence[OpenAccess]]) -> Check:
    """Judge who else can read and write rows."""
    roles, accesses = open_access
    if not roles:
        return ok("row_security", "there is no role anon and no role authenticated here")
    if not accesses:
        return ok("row_security", f"{' and '.join(roles)} can neither write rows nor read those of others")
    listed = ", ".join(dict.fromkeys(f"{access.command} by {access.role}" for access in accesses))
    sql = "\n".join(dict.fromkeys(access.sql for access in accesses))
    if any(access.command != "SELECT" for access in accesses):
        return fail("row_security", f"public.generations is open: {listed}", sql)
    return warn("row_security", f"the rows of all users can be read: {listed}", sql)
