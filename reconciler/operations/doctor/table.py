"""The application's table and our schema: what lacks, what is forbidden, and what is open to strangers.

Facts come from PostgreSQL's catalogue (`operations/doctor/facts/table.py`);
the server itself is judged in `database.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, Literal

from reconciler.operations.doctor import Check, NotKnown, fail, not_looked, ok, warn

_MIGRATE: Final = "kie-reconciler migrate"
_BEYOND: Final = "029"
"""Up to this number a file makes what nothing runs without."""

State = Literal["on", "off", "missing"]
Built = Literal["valid", "invalid", "missing"]


@dataclass(frozen=True, slots=True)
class MissingRight:
    """A right that is missing: the SQL that gives it, and whether nothing `runs` without it."""

    sql: str
    runs: bool


@dataclass(frozen=True, slots=True)
class LoginRights:
    """What the login of DATABASE_URL may not do, by its name."""

    login: str
    lacking: tuple[MissingRight, ...]


@dataclass(frozen=True, slots=True)
class OpenAccess:
    """A way in for people without rights: who comes in, what they can do there, and the SQL that closes it."""

    who: str
    what: str
    sql: str

    @property
    def writes(self) -> bool:
        """Whether strangers can change rows."""
        return self.what != "SELECT"


@dataclass(frozen=True, slots=True)
class OpenAccesses:
    """The roles that PostgREST speaks as for strangers and users, as far as there are any, and what is open to them."""

    roles: tuple[str, ...]
    doors: tuple[OpenAccess, ...]


def schema(behind: Sequence[str] | NotKnown) -> Check:
    """Judge the migrations that this version has and the database lacks."""
    if isinstance(behind, NotKnown):
        return fail("schema", behind.why, behind.do)
    if not behind:
        return ok("schema", "every migration is applied")
    says = f"the database lacks {', '.join(behind)}"
    needed = any(not name.startswith("application/") and name[:3] <= _BEYOND for name in behind)
    if needed:
        return fail("schema", f"{says}: nothing runs without them", _MIGRATE)
    application = any(name.startswith("application/") for name in behind)
    return warn("schema", says, f"{_MIGRATE} --application" if application else _MIGRATE)


def table(columns: AbstractSet[str] | NotKnown, required: Mapping[str, str]) -> Check:
    """Judge whether the columns are there that nothing runs without; `required` tells how to add each."""
    if isinstance(columns, NotKnown):
        return fail("table", columns.why, columns.do)
    if not columns:
        return fail("table", "there is no table public.generations", f"{_MIGRATE} --application")
    if missing := [name for name in required if name not in columns]:
        additions = ", ".join(f"ADD COLUMN {name} {required[name]}" for name in missing)
        do = f"-- or: {_MIGRATE} --application\nALTER TABLE public.generations {additions};"
        return fail("table", f"public.generations lacks {', '.join(missing)}", do)
    return ok("table", f"public.generations has what is needed, {len(columns)} columns in all")


def statuses(allowed: AbstractSet[str] | NotKnown | None) -> Check:
    """Judge which words the CHECKs on status let through; None: any."""
    if isinstance(allowed, NotKnown):
        return not_looked("statuses", allowed.why)
    if allowed is None:
        return ok("statuses", "no CHECK limits the status")
    refused = [word for word in ("failed",) if word not in allowed]
    if not allowed & {"success", "completed"}:
        refused.insert(0, "success")
    do = f"{_MIGRATE} --application"
    if refused:
        return fail("statuses", f"the CHECK on status forbids {' and '.join(refused)}", do)
    if not allowed & {"queued", "generating", "pending", "processing"}:
        return fail("statuses", "the CHECK on status takes no row in flight", do)
    unwritten = [word for word in ("queued", "generating", "success", "cancelled") if word not in allowed]
    # An older application's words are as good as ours.
    if unwritten and not {"pending", "processing", "completed"} <= allowed:
        return warn("statuses", f"the CHECK on status forbids {', '.join(unwritten)}, which are not written then", do)
    return ok("statuses", f"the CHECK on status takes {', '.join(sorted(allowed))}")


def triggers(states: Mapping[str, State] | NotKnown) -> Check:
    """Judge the triggers that announce a new or changed row."""
    if isinstance(states, NotKnown):
        return not_looked("triggers", states.why)
    missing = [name for name, state in states.items() if state == "missing"]
    off = [name for name, state in states.items() if state == "off"]
    if missing:
        says = f"{' and '.join(missing)} missing: the sweep alone finds what these would announce"
        return warn("triggers", says, _MIGRATE)
    if off:
        sql = "\n".join(f"ALTER TABLE public.generations ENABLE TRIGGER {name};" for name in off)
        return warn("triggers", f"{' and '.join(off)} disabled: the sweep alone finds what these would announce", sql)
    return ok("triggers", f"{' and '.join(states)} announce what changes")


def indexes(states: Mapping[str, Built] | NotKnown, sql: Mapping[str, str]) -> Check:
    """Judge the indexes that the sweep and retention read; `sql` tells how each is built."""
    if isinstance(states, NotKnown):
        return not_looked("indexes", states.why)
    amiss = {name: state for name, state in states.items() if state != "valid"}
    if not amiss:
        return ok("indexes", f"{' and '.join(states)} are there")
    says = ", ".join(f"{name} is {state}" for name, state in amiss.items())
    drops = [f"DROP INDEX CONCURRENTLY public.{name};" for name, state in amiss.items() if state == "invalid"]
    builds = [sql[name] for name in amiss]
    do = "\n".join([f"-- or: {_MIGRATE}; by hand each statement alone, outside a transaction", *drops, *builds])
    return warn("indexes", f"{says}: the sweep reads the whole table piece by piece", do)


def privileges(rights: LoginRights | NotKnown) -> Check:
    """Judge the rights of this login, each of which `run` uses."""
    if isinstance(rights, NotKnown):
        return not_looked("privileges", rights.why)
    login, lacking = rights.login, rights.lacking
    if not lacking:
        return ok("privileges", f"{login} may do everything that `run` does")
    sql = "\n".join(one.sql for one in lacking)
    if any(one.runs for one in lacking):
        return fail("privileges", f"{login} lacks rights that nothing runs without", sql)
    says = f"{login} lacks rights that ordering by createTask or the deleting of old failures needs"
    return warn("privileges", says, sql)


def row_security(openings: OpenAccesses | NotKnown) -> Check:
    """Judge who else may read and write rows."""
    if isinstance(openings, NotKnown):
        return not_looked("row_security", openings.why)
    roles, doors = openings.roles, openings.doors
    if not roles:
        return ok("row_security", "there is no role anon and no role authenticated here")
    if not doors:
        return ok("row_security", f"{' and '.join(roles)} can neither write rows nor read those of others")
    told = ", ".join(dict.fromkeys(f"{door.what} by {door.who}" for door in doors))
    sql = "\n".join(dict.fromkeys(door.sql for door in doors))
    if any(door.writes for door in doors):
        return fail("row_security", f"public.generations is open: {told}", sql)
    return warn("row_security", f"everybody's rows can be read: {told}", sql)
