"""`doctor`: one look at everything that the daemon needs, told as one line each.

The order of the looks and what each one waits for; the facts come from `edges/checkup/`, the judgement from
`core/checkup/`. Built by the composition root, called by the command line.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar
from urllib.parse import urlsplit

import asyncpg
import httpx

from reconciler import __version__
from reconciler.domain.object_keys import callback_address
from reconciler.kie.client import KieClient, key_hash
from reconciler.media.spool import SpoolDirectory
from reconciler.net.addresses import is_public
from reconciler.operations.doctor import Check, NotKnown, clock, fail, not_looked, ok
from reconciler.operations.doctor import configuration as of_setup
from reconciler.operations.doctor import database as of_database
from reconciler.operations.doctor import kie as of_kie
from reconciler.operations.doctor import storage as of_storage
from reconciler.operations.doctor import table as of_table
from reconciler.operations.doctor.database import DatabaseConnection, DatabaseServer
from reconciler.operations.doctor.facts import connection as lines
from reconciler.operations.doctor.facts import network, rights, seen
from reconciler.operations.doctor.facts import storage as objects
from reconciler.operations.doctor.facts import table as tables
from reconciler.operations.doctor.facts.network import KeyProbe
from reconciler.operations.doctor.facts.table import NewestTask
from reconciler.operations.doctor.storage import BucketUse
from reconciler.postgres.eligibility import UNREADABLE, readable
from reconciler.postgres.migrations.migrate import behind
from reconciler.postgres.schema import REQUIRED, statuses
from reconciler.settings import KieKey, Settings, variable
from reconciler.storage import Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DoctorClients:
    """What the looks are made with; each step takes `within` seconds at most, `now` is this machine's Unix time."""

    settings: Settings
    store: Store
    room: Callable[[], SpoolDirectory]
    kie: KieClient
    web: httpx.AsyncClient
    within: float = 10.0
    now: Callable[[], float] = time.time


@dataclass(slots=True)
class _Met:
    """What the database told that others need: what is made here, whom to ask KIE about, what it cannot read."""

    use: BucketUse | NotKnown
    newest: tuple[NewestTask, ...] | NotKnown
    refused: NotKnown | None = None


async def examine(tools: DoctorClients, strangers: Sequence[str] = ()) -> tuple[Check, ...]:
    """Look at everything; `strangers` are names that look like settings and are none."""
    settings = tools.settings
    met = _Met(BucketUse(), NotKnown("the database cannot be asked for tasks"))
    of_tables = await _database(tools, met)
    told = [
        of_setup.settings(len(settings.kie_keys()), settings.storage_backend, _notes(settings), met.refused),
        of_setup.spelling(strangers, [variable(name) for name in Settings.model_fields]),
    ]
    groups = await asyncio.gather(_storage(tools, met.use), _kie(tools, met.newest), _callback(tools))
    return (*told, *of_tables, *(check for group in groups for check in group))


def _notes(settings: Settings) -> list[str]:
    """What is set so that it defeats something else; values are not repeated."""
    notes = []
    if settings.give_up_after <= settings.stuck_after:
        notes.append("RECONCILER_GIVE_UP_AFTER is not longer than RECONCILER_STUCK_AFTER")
    if settings.allow_private_hosts and "*" in settings.result_hosts:
        notes.append("results may come from any host of the private network: RECONCILER_RESULT_HOSTS is *")
    if 0 < len(settings.api_token.get_secret_value()) < 16:
        notes.append("RECONCILER_API_TOKEN is shorter than 16 characters")
    return notes


_OF_LINE = ("connection", "listen", "database_clock")
_OF_TABLE = ("statuses", "triggers", "indexes", "privileges", "row_security", "realtime")


async def _database(tools: DoctorClients, met: _Met) -> list[Check]:
    dsn = tools.settings.database_url.get_secret_value()
    async with AsyncExitStack() as stack:

        async def connect() -> asyncpg.Connection:
            return await stack.enter_async_context(lines.connected(dsn))

        connection = await seen(connect, within=tools.within)
        if isinstance(connection, NotKnown):
            return _without(connection)
        server = await seen(lambda: lines.server(connection, tools.now), within=tools.within)
        if isinstance(server, NotKnown) or server.version[0] < of_database.OLDEST:
            return _without(server)
        other = await seen(connect, within=tools.within)
        line: DatabaseConnection | NotKnown = (
            other
            if isinstance(other, NotKnown)
            else await seen(lambda: lines.line(connection, other, within=tools.within / 2), within=2 * tools.within)
        )
        return [
            of_database.database(server),
            of_database.connection(line),
            of_database.listen(line),
            clock("database_clock", "the database's", server.ahead),
            *await _tables(tools, _Reader(connection, tools.within), met),
        ]


def _without(server: DatabaseServer | NotKnown) -> list[Check]:
    names = (*_OF_LINE, "schema", "table", *_OF_TABLE, "replicas")
    return [of_database.database(server), *_all(*names, why="the database cannot be used")]


@dataclass(frozen=True, slots=True)
class _Reader:
    """Asks the database one question after the other, each in a transaction of its own."""

    connection: asyncpg.Connection
    within: float

    async def read(self, look: Callable[[asyncpg.Connection], Awaitable[T]]) -> T | NotKnown:
        """Ask; what cannot be told is an answer, too."""
        connection = self.connection
        return await seen(lambda: lines.reading(connection, lambda: look(connection)), within=self.within)


async def _tables(tools: DoctorClients, reader: _Reader, met: _Met) -> list[Check]:
    read = reader.read
    pattern = await read(lambda asked: readable(asked.fetchval, tools.settings.task_pattern))
    met.refused = pattern if pattern is not None and pattern.code == UNREADABLE else None
    schema = of_table.schema(await read(behind))
    columns = await read(tables.columns)
    alive = timedelta(seconds=2 * tools.settings.lease_seconds)
    replicas = of_database.replicas(await read(lambda asked: tables.versions(asked, alive)), __version__)
    if isinstance(columns, NotKnown) or not columns:
        table = of_table.table(columns if isinstance(columns, NotKnown) else frozenset(), REQUIRED)
        return [schema, table, *_all(*_OF_TABLE, why="there is no table to look at"), replicas]
    deletes = tools.settings.failed_retention_days > 0
    checks = [
        schema,
        of_table.table(frozenset(columns), REQUIRED),
        of_table.statuses(await read(statuses)),
        of_table.triggers(await read(tables.triggers)),
        of_table.indexes(await read(tables.indexes), tables.index_sql()),
        of_table.privileges(await read(lambda asked: rights.rights(asked, deletes=deletes))),
        of_table.row_security(await read(rights.openings)),
        of_database.realtime(await read(tables.publications)),
        replicas,
    ]
    met.use = await read(lambda asked: tables.use(asked, columns))
    met.newest = await read(lambda asked: tables.newest(asked, columns))
    return checks


_OF_PROBE = ("upload", "public_read", "delete")


async def _storage(tools: DoctorClients, use: BucketUse | NotKnown) -> list[Check]:
    store, settings = tools.store, tools.settings
    room = await seen(lambda: asyncio.to_thread(tools.room), within=tools.within)
    spool = (
        fail("spool", room.why, room.do) if isinstance(room, NotKnown) else ok("spool", f"{room.folder} can be written")
    )
    local = settings.storage_backend == "local"
    named = str(settings.storage_local_dir) if local else settings.storage_bucket
    found = await seen(store.check, within=tools.within)
    bucket = of_storage.bucket(found, named)
    if found is not None and found.code != of_storage.PRIVATE:
        return [
            spool,
            bucket,
            *_all("bucket_rules", "upload", "public_read", "delete", why="the bucket cannot be used"),
        ]
    rules = objects.rules(store)
    judged = of_storage.bucket_rules(rules, use, named)
    if isinstance(room, NotKnown):
        return [spool, bucket, judged, *_all(*_OF_PROBE, why="there is no room for a probe")]
    what = objects.probe_of(of_storage.probe_type(rules))
    probe = await objects.probe(store, room, tools.web, what, within=tools.within)
    read = of_storage.public_read(probe, local=local)
    return [spool, bucket, judged, of_storage.upload(probe), read, of_storage.delete(probe, what.path)]


async def _kie(tools: DoctorClients, newest: tuple[NewestTask, ...] | NotKnown) -> list[Check]:
    names = {key_hash(key.secret.get_secret_value()): _setting(key) for key in tools.settings.kie_keys()}
    asking = KeyProbe(tools.kie, names, tools.within)
    accounts, ahead = await network.accounts(asking, tools.now)
    first = of_kie.keys(accounts)
    if all(isinstance(account.left, NotKnown) for account in accounts):
        models = not_looked("kie_models", "KIE takes no key")
    elif isinstance(newest, NotKnown):
        models = of_kie.models(newest)
    else:
        models = of_kie.models(await network.models(asking, newest))
    return [first, of_kie.credit(accounts), models, of_kie.kie_clock(ahead)]


async def _callback(tools: DoctorClients) -> list[Check]:
    settings = tools.settings
    if not settings.kie_callback_url:
        return [of_setup.callback(None, None)]
    parts = urlsplit(callback_address(settings.kie_callback_url, "", ""))
    # Without query and login: both may hold a secret, and the address is told.
    url = parts._replace(query="", netloc=parts.netloc.rpartition("@")[2]).geturl()
    address = of_setup.CallbackAddress(
        url,
        proven=bool(settings.kie_callback_secret or settings.kie_webhook_hmac_key),
        private=_is_private(parts.hostname or ""),
        by_design=settings.allow_private_hosts,
    )
    if of_setup.written(address) is not None:
        return [of_setup.callback(address, None)]
    return [of_setup.callback(address, await seen(lambda: network.answer(tools.web, url), within=tools.within))]


def _all(*names: str, why: str) -> list[Check]:
    return [not_looked(name, why) for name in names]


def _setting(key: KieKey) -> str:
    """The setting that a key came from."""
    what = {None: "", "image": "_PHOTO", "video": "_VIDEO"}[key.kind]
    return f"KIE_API_KEY{what}{'_POOL' if key.pool else ''}"


def _is_private(host: str) -> bool:
    """Whether an address as it is written, or this machine's own name, is out of KIE's reach."""
    literal = re.fullmatch(r"[0-9.]+|.*:.*", host) is not None
    return host == "localhost" or (literal and not is_public(host))
