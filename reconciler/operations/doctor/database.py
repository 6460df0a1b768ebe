"""The database as a place: which server answers, through what, whether it can call us, and who else is there.

The application's table and our schema are judged in `table.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from reconciler.operations.doctor import Check, NotKnown, fail, not_looked, ok, warn

OLDEST: Final = 14

_DIRECT = "Use the direct address or the session pooler's in DATABASE_URL (at Supabase port 5432, not 6543)"


@dataclass(frozen=True, slots=True)
class DatabaseServer:
    """Who answers: `version` as major and minor number, `ahead` the seconds that its clock is before ours."""

    version: tuple[int, int]
    writable: bool
    ahead: float


@dataclass(frozen=True, slots=True)
class DatabaseConnection:
    """How we are connected: through a pooler or not, in transaction mode, and how long a notification takes.

    `heard` is in seconds, None where none came.
    """

    pooled: bool
    transaction_mode: bool
    heard: float | None


@dataclass(frozen=True, slots=True)
class Publications:
    """The publications that carry the table; `nameless`: what they say of an UPDATE names no row, so it fails."""

    publications: tuple[str, ...]
    nameless: bool


def database(server: DatabaseServer | NotKnown) -> Check:
    """Judge whether this server can be worked with."""
    if isinstance(server, NotKnown):
        do = server.do or "See the host and port in DATABASE_URL, this machine's network, and whether the server runs."
        return fail("database", server.why, do)
    version = ".".join(map(str, server.version))
    if server.version[0] < OLDEST:
        return fail("database", f"PostgreSQL {version} is older than {OLDEST}", f"Use PostgreSQL {OLDEST} or newer.")
    if not server.writable:
        do = "Give DATABASE_URL the primary server's address; a database that is full may be read-only, too."
        return fail("database", f"PostgreSQL {version} takes no writes here", do)
    return ok("database", f"PostgreSQL {version}")


def connection(line: DatabaseConnection | NotKnown) -> Check:
    """Judge what stands between us and the server."""
    if isinstance(line, NotKnown):
        return warn("connection", f"not known: {line.why}", line.do)
    if line.transaction_mode:
        says = "through a pooler in transaction mode: notifications never come, the sweep alone finds rows"
        return warn("connection", says, f"{_DIRECT}.")
    return ok("connection", "through a pooler in session mode" if line.pooled else "direct")


def listen(line: DatabaseConnection | NotKnown) -> Check:
    """Judge whether a notification arrives."""
    if isinstance(line, NotKnown):
        return not_looked("listen", f"the connection is not known ({line.why})")
    if line.transaction_mode:
        return warn("listen", "LISTEN cannot work through a pooler in transaction mode", f"{_DIRECT}.")
    if line.heard is None:
        do = f"See what stands between this machine and the database. {_DIRECT}."
        return warn("listen", "a notification that was sent did not come back; the sweep alone finds rows", do)
    return ok("listen", f"a notification came back in {1000 * line.heard:.0f} ms")


def replicas(versions: Mapping[str, int] | NotKnown, ours: str) -> Check:
    """Judge the daemons alive; `versions` counts them by version."""
    if isinstance(versions, NotKnown):
        return not_looked("replicas", versions.why)
    told = " and ".join(f"{count} of version {version}" for version, count in sorted(versions.items()))
    do = "Install one version on every machine and restart the replicas one by one."
    if len(versions) > 1:
        return warn("replicas", f"daemons of different versions are alive: {told}", do)
    if versions and ours not in versions:
        return warn("replicas", f"alive: {told}; this command is version {ours}", do)
    return ok("replicas", f"alive: {told}" if versions else "no daemon is alive")


def realtime(published: Publications | NotKnown) -> Check:
    """Note who hears of every change of a row."""
    if isinstance(published, NotKnown):
        return not_looked("realtime", published.why)
    named = ", ".join(published.publications)
    if published.nameless:
        says = f"public.generations is in publication {named} without a replica identity: every UPDATE of it fails"
        return fail("realtime", says, "ALTER TABLE public.generations REPLICA IDENTITY FULL;")
    if named:
        return ok("realtime", f"publication {named} carries every change of public.generations to its subscribers")
    return ok("realtime", "public.generations is in no publication: browsers hear of changes from the daemon alone")
