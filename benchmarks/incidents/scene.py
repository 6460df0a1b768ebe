"""Where an incident is staged: a database of its own, a KIE, a storage, replicas; and how one waits for it to show."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from reconciler.demo.embedded_postgres import Postgres
from reconciler.postgres.migrations.migrate import migrate
from reconciler.simulator import Simulator
from testkit.commands import run
from testkit.replica import Replica
from testkit.stage import KEY, Rig, staged
from testkit.standins.clock import Clock
from testkit.standins.monitoring import asked
from testkit.standins.proxy import Proxy
from testkit.standins.storage import SupabaseStorage
from testkit.waiting import until

TOKEN = "operator-of-the-incident"

LATE = 700.0
"""The age in seconds of rows that are stuck from the start: more than the ten minutes of RECONCILER_STUCK_AFTER."""

PATIENCE = 120.0
"""Seconds within which an incident has to show, and within which everything has to be delivered after it."""


@dataclass
class Scene:
    """One stage; `kie` is a line to KIE that can be cut."""

    rig: Rig
    kie: Proxy
    folder: Path
    clock: Clock | None = None
    settings: dict[str, str] = field(default_factory=lambda: {"RECONCILER_API_TOKEN": TOKEN})
    """The settings of the replicas and the commands of this incident beside the usual ones."""

    @property
    def storage(self) -> SupabaseStorage:
        """The storage of an incident that has one."""
        assert self.rig.storage is not None
        return self.rig.storage

    async def replica(self, *, through: Iterable[str] = (), **settings: str) -> Replica:
        """Start a replica and wait until it is ready."""
        return await self.rig.run(through=through, **self.settings, **settings)

    async def late(self, count: int) -> list[str]:
        """Rows that wait for longer than they should, whose tasks KIE has ended."""
        return [await self.rig.insert(self.rig.kie.add_task(), age=LATE) for _ in range(count)]

    async def fetch(self, sql: str) -> list[str]:
        """The first column of what the database answers."""
        return [row[0] for row in await self.rig.pool.fetch(sql)]


@dataclass(frozen=True)
class Look:
    """Where an operator looks in an incident: what the transcript shows, and what has to be true of it.

    `alerts` must have come true, `figures` are the metrics that matter (by the beginning of their lines), `log` the
    events that tell, `explain` a row to ask about, `waiting` the rows that are delivered once it is mended, by `retry`
    where nobody wants to wait for the next look; `doctor` is asked where it knows more; `gone` are the ports of those
    that are scraped and dead. The first line of `status` must begin with `first`, and only the findings in `beside` may
    follow it: no other party is accused.
    """

    replicas: list[Replica]
    alerts: frozenset[str]
    figures: tuple[str, ...]
    log: tuple[str, ...]
    explain: str
    first: str
    beside: frozenset[str] = frozenset({"stuck"})
    waiting: list[str] = field(default_factory=list)
    gone: tuple[int, ...] = ()
    retry: bool = False
    patience: float = PATIENCE


Staging = Callable[[Scene], AbstractAsyncContextManager[Look]]


@dataclass(frozen=True)
class Incident:
    """One incident: `happened` and `do` are sentences for the page; without the program `needs` it is not staged.

    `clock` is whether its PostgreSQL reads a clock that can be set.
    """

    title: str
    happened: str
    do: str
    stage: Staging
    needs: str | None = None
    clock: bool = False


@contextlib.asynccontextmanager
async def scene(postgres: Postgres, folder: Path, clock: Clock | None = None) -> AsyncIterator[Scene]:
    """Build the stage on a fresh database, and take it down."""
    name = f"incident_{secrets.token_hex(4)}"
    await told(postgres.dsn(), f"CREATE DATABASE {name}")
    await migrate(postgres.dsn(name), application=True)
    kie = Simulator(keys=(KEY,), limits=False, slow_seconds=2.0)
    async with staged(postgres.dsn(name), kie, folder, SupabaseStorage()) as rig, Proxy(kie.url) as line:
        kie.origin = line.dsn
        yield Scene(rig, line, rig.folder, clock)
    await told(postgres.dsn(), f"DROP DATABASE {name} WITH (FORCE)")


async def told(dsn: str, sql: str) -> None:
    """Run one statement on a connection of its own."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


@dataclass(frozen=True)
class Alert:
    """A shipped alert whose expression is true; it is sent after `waits` seconds of that."""

    name: str
    severity: str
    waits: float
    says: str


async def true_alerts(prometheus: str) -> list[Alert]:
    """The alerts whose expressions are true at this moment, those that wake somebody first."""
    groups = (await asked(prometheus, "rules", type="alert"))["groups"]
    found = {
        Alert(rule["name"], rule["labels"]["severity"], rule["duration"], alert["annotations"]["summary"])
        for group in groups
        for rule in group["rules"]
        for alert in rule["alerts"]
    }
    return sorted(found, key=lambda one: (one.severity != "page", one.name, one.says))


async def shown(on: Scene, prometheus: str, look: Look) -> None:
    """Wait until every alert that the incident must raise has come true, and the log says what it must."""

    async def seen() -> object:
        names = {alert.name for alert in await true_alerts(prometheus)}
        said = {line["event"] for replica in look.replicas for line in replica.log}
        scraped = (await asked(prometheus, "query", query="up"))["result"]
        # Before the first scrape no replica is known, and the rules say so for a second.
        absent = "DaemonAbsent" in names and "DaemonAbsent" not in look.alerts
        if not scraped or absent or not look.alerts <= names or not set(look.log) <= said:
            return False
        return (await status(on, look)).startswith(look.first)

    try:
        await until(seen, look.patience, "the incident to show")
    except AssertionError as error:
        names = {alert.name for alert in await true_alerts(prometheus)}
        said = {line["event"] for replica in look.replicas for line in replica.log}
        missing = look.alerts - names or set(look.log) - said or {f"{look.first}: {await status(on, look)}"}
        raise AssertionError(f"{error}: no {missing}; {names}; {said}") from None


_NAMED = re.compile(r"^(\w+) \((?:warn|page)\):", re.MULTILINE)


async def status(on: Scene, look: Look) -> str:
    """What `status` says; no party is accused that the incident is not about."""
    said = await run("status", folder=on.folder, environment=on.rig.environment(**on.settings, COLUMNS="118"))
    text = (said.out or said.err).strip()
    accused = set(_NAMED.findall(text)) - look.beside - {look.first}
    assert not accused, f"{accused}: {text}"
    return text


async def recovered(on: Scene, look: Look) -> None:
    """Wait until every row that waited is delivered, byte for byte."""
    ids = look.waiting
    for one in ids if look.retry else ():
        await run("retry", one, folder=on.folder, environment=on.rig.environment(**on.settings))
    sql = "SELECT count(*) FROM public.generations WHERE id::text = ANY($1) AND status <> 'success'"

    async def none_waits() -> bool:
        return await on.rig.pool.fetchval(sql, ids) == 0

    try:
        await until(none_waits, PATIENCE, "everything to be delivered")
    except AssertionError as error:
        raise AssertionError(f"{error}: {await on.rig.why()}") from None
    for one in ids if "RECONCILER_STORAGE_BACKEND" not in on.settings else ():
        await on.rig.prove(one)
