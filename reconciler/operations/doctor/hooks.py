"""The check `hooks`: which functions of the application the daemon calls, and whether it can.

The facts come from the catalogue, so a login without rights in the schema learns what it lacks. The functions are
called in `postgres/hooks.py` and `postgres/ledger/`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from reconciler.operations.doctor import Check, fail, ok, warn
from reconciler.postgres.hooks import signatures

_TYPES: Final = """
SELECT a.attname::text AS name, format_type(a.atttypid, NULL) AS type
  FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = 'public' AND c.relname = 'generations' AND a.attname IN ('id', 'user_id') AND NOT a.attisdropped
"""

_HOOKS: Final = """
SELECT p.proname::text AS name, format('reconciler.%s(%s)', p.proname, oidvectortypes(p.proargtypes)) AS signature,
       has_function_privilege(p.oid, 'EXECUTE') AS callable, current_user::text AS login
  FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
 WHERE n.nspname = 'reconciler' AND p.proname = ANY ($1::text[]) ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Hook:
    """A function with the name of a hook; `fits` is whether it takes what it would be called with."""

    name: str
    signature: str
    fits: bool
    callable: bool
    login: str


@dataclass(frozen=True, slots=True)
class Hooks:
    """The functions that are there, and the signatures that each hook may have."""

    found: Sequence[Hook]
    wanted: dict[str, tuple[str, ...]]


async def read_hooks(connection: asyncpg.Connection) -> Hooks:
    """Return the functions with the names of hooks."""
    types = {row["name"]: row["type"] for row in await connection.fetch(_TYPES)}
    wanted = dict(signatures(types.get("id", "uuid"), types.get("user_id", "uuid")))
    rows = await connection.fetch(_HOOKS, list(wanted))
    return Hooks([Hook(**row, fits=row["signature"] in wanted[row["name"]]) for row in rows], wanted)


def judge_hooks(hooks: Hooks, *, users_order: bool) -> Check:
    """Judge the hooks; `users_order`: end users may spend the shop's credit."""
    fitting = {hook.name for hook in hooks.found if hook.fits}
    misfits = [hook for hook in hooks.found if hook.name not in fitting]
    if misfits:
        listed = ", ".join(hook.signature for hook in misfits)
        needed = " or ".join(
            signature for name in {hook.name: 0 for hook in misfits} for signature in hooks.wanted[name]
        )
        says = f"never called, because it takes other arguments: {listed}"
        if any(hook.name == "on_order" for hook in misfits):
            says += "; no order is taken while it is there"
        return fail("hooks", says, f"Define {needed}, and drop the other one.")
    if closed := [hook for hook in hooks.found if hook.fits and not hook.callable]:
        grants = "\n".join(f"GRANT EXECUTE ON FUNCTION {hook.signature} TO {hook.login};" for hook in closed)
        return fail("hooks", f"this login may not call {', '.join(hook.signature for hook in closed)}", grants)
    there = ", ".join(hook.signature for hook in hooks.found if hook.fits)
    if users_order and "on_order" not in fitting:
        says = "end users may order (RECONCILER_ORDERS=users), and no reconciler.on_order charges or stops them"
        return warn("hooks", says, 'Define it, as in "Credits" of docs/OPERATIONS.md, or close orders to users.')
    return ok("hooks", f"called: {there}" if there else "the application has defined none")
