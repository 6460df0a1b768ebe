"""The check `search_path`: where names without a schema are looked up, and who may put something there.

Our own statements name every schema. Triggers and hooks of the application often do not, and run with our rights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from reconciler.operations.doctor import Check, ok, warn

_SEARCH_PATH: Final = """
SELECT current_setting('search_path') AS now,
       (SELECT reset_val FROM pg_settings WHERE name = 'search_path'::text) AS begun,
       current_schemas(true)::text[] AS schemas,
       ARRAY(SELECT quote_ident(n.nspname::text) FROM pg_namespace AS n
              WHERE n.nspname = ANY (current_schemas(false))
                AND EXISTS (SELECT FROM aclexplode(n.nspacl) AS a
                             WHERE a.grantee = 0::oid AND a.privilege_type = 'CREATE'::text)
              ORDER BY n.nspname) AS open
"""


@dataclass(frozen=True, slots=True)
class SearchPath:
    """The search_path of a session that we left alone, as it is `now` and as it had `begun`.

    `schemas` are those that exist, in order, with pg_catalog. Every role may create in those of `open`.
    """

    now: str
    begun: str
    schemas: Sequence[str]
    open: Sequence[str]


async def read_search_path(connection: asyncpg.Connection) -> SearchPath:
    """Read the search_path of this session, in a transaction that is not pinned."""
    row = await connection.fetchrow(_SEARCH_PATH)
    return SearchPath(row["now"], row["begun"], tuple(row["schemas"]), tuple(row["open"]))


def judge_search_path(path: SearchPath) -> Check:
    """Judge whether somebody else can decide what a name without a schema means."""
    if path.open:
        where = f"schema {' and '.join(path.open)}"
        says = f"every role may create in {where}: triggers and hooks that name no schema can be made to call it"
        return warn(
            "search_path", says, "\n".join(f"REVOKE CREATE ON SCHEMA {name} FROM PUBLIC;" for name in path.open)
        )
    if path.now != path.begun:
        says = f"the search_path is {path.now}, and sessions begin with {path.begun}: another program has changed it"
        return warn("search_path", says, "Use the direct address in DATABASE_URL, or the session pooler's")
    before = list(path.schemas[: path.schemas.index("pg_catalog")])
    if [name for name in before if not name.startswith("pg_temp")]:
        says = f"the search_path looks into {' and '.join(before)} before pg_catalog"
        do = "ALTER ROLE … RESET search_path; -- or ALTER DATABASE …, wherever it is set"
        return warn("search_path", says, do)
    return ok("search_path", f"{path.now}, and only their owners create there")
