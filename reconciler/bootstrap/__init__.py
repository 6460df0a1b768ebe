"""The composition root: builds every part from the settings, and closes it again. Nothing else builds parts.

Here is what the commands and the daemon share. What only the daemon needs is in `http.py` (the API) and `periodic.py`
(the periodic tasks and the listener), so that no command loads it.
"""

import contextlib
import os
import tempfile
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import aiohttp
import structlog

from reconciler import tracing
from reconciler.bootstrap.pools import Pools, pool
from reconciler.domain.model import Policy
from reconciler.kie.client import KieClient, key_hash
from reconciler.logs.redaction import Redaction
from reconciler.media.fetch import Fetcher
from reconciler.media.spool import SpoolDirectory
from reconciler.metrics import Metrics
from reconciler.net.http_clients import CONNECTIONS, json_client, kie_session, media_session, storage_session
from reconciler.operations.doctor.activity import RowReaders
from reconciler.operations.doctor.runner import Doctor
from reconciler.operations.operator import Operator
from reconciler.postgres.claims.claims import Claims
from reconciler.postgres.eligibility import EligibleRows
from reconciler.postgres.inbox import Inbox
from reconciler.postgres.ledger.ledger import Ledger
from reconciler.postgres.ledger.reopen import Reopener
from reconciler.postgres.ledger.verification import VerificationQueue
from reconciler.postgres.migrations.schema_level import alive_within
from reconciler.postgres.outbox import Outbox
from reconciler.postgres.pool import Database
from reconciler.postgres.preflight import traceable, usable
from reconciler.postgres.rate_limit import RateLimit
from reconciler.postgres.reports.activity import ActivityReader
from reconciler.postgres.reports.recent_rows import RecentRows
from reconciler.postgres.reports.reports import Reports, ReportScope
from reconciler.postgres.table_reader import TableReader
from reconciler.settings import Settings
from reconciler.storage import Store
from reconciler.storage.local import LocalStore
from reconciler.storage.supabase import SupabaseStore
from reconciler.tracing import UNTRACED, Tracing
from reconciler.webhooks.client import TIMEOUT, WebhookClient
from reconciler.webhooks.sender import WebhookSender
from reconciler.worker.capacity.fair_slots import FairSlots
from reconciler.worker.deliver import Deliverer
from reconciler.worker.locked_rows import RETRY_LOCK_SECONDS, LockedRows
from reconciler.worker.periodic.verification import Verification
from reconciler.worker.poll import Poller
from reconciler.worker.route import RingKey
from reconciler.worker.visit import CurrentPolicy, Visitor, VisitSink
from reconciler.worker.visit_sinks import log_visit, measure_visit, trace_visit
from reconciler.worker.worker import Worker

log = structlog.get_logger()

MIN_POLLING = 4
MAX_POLLING = 64
QUEUE_SECONDS = 2.0
"""How long a visit may queue for a request to KIE; the rate times this is how many visits may poll at once."""

BEYOND_SLOTS = 2
"""Visits that may poll beyond the slots, so that a row of another path is there when one path holds all of them."""

ANSWER_SECONDS = 10.0
"""How long KIE may take to answer about a task; it answers within a second, so a longer wait is a dead connection."""

ORDER_SECONDS = 30.0
"""How long KIE may take to answer createTask; it answers within a second."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the daemon and the commands work with.

    `ordering_kie` opens a connection for every request; only createTask uses it.
    """

    settings: Settings
    instance: uuid.UUID
    metrics: Metrics
    pools: Pools
    table: TableReader
    reports: Reports
    claims: Claims
    ledger: Ledger
    inbox: Inbox
    kie: KieClient
    ordering_kie: KieClient
    store: Store
    rate_limit: RateLimit
    keys: tuple[RingKey, ...]
    policy: CurrentPolicy
    deliverer: Deliverer
    worker: Worker
    locked_rows: LockedRows
    sinks: list[VisitSink]
    verification: Verification

    @property
    def database(self) -> Database:
        """Return the pool of whatever waits for nothing but the database."""
        return self.pools.main


@contextlib.asynccontextmanager
async def parts(
    settings: Settings, *, observe: bool = False, metrics: Metrics | None = None, instance: uuid.UUID | None = None
) -> AsyncIterator[Parts]:
    """Build the parts, and close them at the end.

    Raises Config where a person must mend something, Transient while the database or storage is away.
    """
    settings.require("database_url", "kie_api_key", "storage")
    async with contextlib.AsyncExitStack() as stack:
        yield await _build(settings, metrics or Metrics(), instance or uuid.uuid4(), stack, observe=observe)


async def _build(
    settings: Settings, metrics: Metrics, instance: uuid.UUID, stack: contextlib.AsyncExitStack, *, observe: bool
) -> Parts:
    pools = Pools.of(settings.database_url.get_secret_value(), stack)
    database, table = pools.main, await _table(pools.main, settings, metrics)
    inbox = Inbox(pools.callbacks, table)
    store = _store(settings, settings.concurrency * 2, stack)
    await store.check()
    fetcher = await _fetcher(settings, stack)
    rate = settings.poll_rate * len(settings.kie_keys())
    polling = max(MIN_POLLING, min(MAX_POLLING, round(rate * QUEUE_SECONDS)))
    # As many requests again can go on beside the slots.
    asking = kie_session(timeout=ANSWER_SECONDS, connections=CONNECTIONS + 2 * polling)
    kie = _kie(settings, await stack.enter_async_context(asking))
    ordering = await stack.enter_async_context(kie_session(timeout=ORDER_SECONDS, keep_alive=False))
    tracing = await _tracing(settings, database, instance, stack)
    structlog.contextvars.bind_contextvars(instance=str(instance))
    keys = tuple(RingKey(key_hash(key.secret.get_secret_value()), key.kind) for key in settings.kie_keys())
    policy = CurrentPolicy(_policy(settings, observe=observe, key_count=len(keys)))
    eligible = EligibleRows(settings.providers, settings.task_pattern, settings.address_rules)
    term = settings.lease_seconds
    claims = Claims(
        pools.claims, table, eligible, instance=instance, term=term, traced=tracing.on, renewals=pools.leases
    )
    handover, second_look = settings.on_fail == "handover", timedelta(seconds=2 * term)
    ledger_of = partial(
        Ledger, database, table, application=pools.application, handover=handover, second_look=second_look
    )
    ledger = ledger_of()
    rate_limit = RateLimit(database, settings.poll_rate)
    poller = Poller(kie, inbox, rate_limit, keys, metrics, tracing, slots=FairSlots(polling))
    spool_dir = SpoolDirectory(_spool_dir(settings), settings.spool_max_bytes)
    deliverer = Deliverer(ledger, kie, fetcher, spool_dir, store, metrics, tracing, settings.concurrency)
    sinks: list[VisitSink] = [log_visit, partial(measure_visit, metrics), partial(trace_visit, tracing)]
    visitor = Visitor(ledger, poller, deliverer, policy=policy, metrics=metrics, tracing=tracing, sinks=sinks)
    worker = Worker(
        claims, ledger, visitor, metrics, polling + BEYOND_SLOTS, term, settings.sweep_seconds, request_gap=1 / rate
    )
    retrying = replace(visitor, ledger=ledger_of(lock_wait=RETRY_LOCK_SECONDS))
    locked_rows = LockedRows(claims, worker, retrying, settings.sweep_seconds)
    sinks.append(locked_rows.on_visit)
    queue = VerificationQueue(database, table, term=term)
    return Parts(
        settings=settings, instance=instance, metrics=metrics, pools=pools, table=table, claims=claims,
        ledger=ledger, inbox=inbox, kie=kie, store=store, rate_limit=rate_limit, keys=keys, policy=policy,
        deliverer=deliverer, worker=worker, locked_rows=locked_rows, sinks=sinks,
        reports=Reports(database, table, report_scope(settings)),
        ordering_kie=_kie(settings, ordering, timeout=ORDER_SECONDS),
        verification=Verification(queue, store, metrics, stir=worker.stir, observe=observe),
    )  # fmt: skip


def _policy(settings: Settings, *, observe: bool, key_count: int) -> Policy:
    return Policy(
        settings.give_up_after,
        address_rules=settings.address_rules,
        observe=observe,
        key_count=key_count,
        max_results=settings.max_results,
    )


async def _table(database: Database, settings: Settings, metrics: Metrics) -> TableReader:
    try:
        return await _usable(database, settings)
    finally:
        # Only now: until the new pool has an answer, what the attempt before saw is still true.
        metrics.database_up.set_function(lambda: database.trouble is None)


async def _usable(database: Database, settings: Settings) -> TableReader:
    shape = await usable(database, settings.task_pattern, alive_within(settings.lease_seconds))
    return TableReader(database, shape)


@contextlib.asynccontextmanager
async def reports(settings: Settings) -> AsyncIterator[Reports]:
    """Build only what reads reports of the tables."""
    async with _one_connection(settings) as (database, table):
        yield Reports(database, table, report_scope(settings))


@contextlib.asynccontextmanager
async def activity_reader(settings: Settings) -> AsyncIterator[ActivityReader]:
    """Build only what reads what the replicas are doing."""
    async with _one_connection(settings) as (database, _):
        yield ActivityReader(database, alive=report_scope(settings).alive)


@contextlib.asynccontextmanager
async def _one_connection(settings: Settings) -> AsyncIterator[tuple[Database, TableReader]]:
    async with contextlib.AsyncExitStack() as stack:
        database = pool(settings.database_url.get_secret_value(), 1, stack)
        yield database, await _usable(database, settings)


@contextlib.asynccontextmanager
async def _row_readers(settings: Settings) -> AsyncIterator[RowReaders]:
    """Build what `doctor` reads rows with, after the checks that `run` makes at its start."""
    async with _one_connection(settings) as (database, table):
        yield RowReaders(
            Reports(database, table, report_scope(settings)), RecentRows(database, table.shape, settings.providers)
        )


@contextlib.asynccontextmanager
async def doctor(settings: Settings) -> AsyncIterator[Doctor]:
    """Build what the command `doctor` needs; nothing is connected to yet."""
    settings.require("database_url", "kie_api_key", "storage")
    async with contextlib.AsyncExitStack() as stack:
        store = _store(settings, 2, stack)
        session = await stack.enter_async_context(kie_session())
        yield Doctor(
            settings=settings,
            store=store,
            open_spool=lambda: SpoolDirectory(_spool_dir(settings), settings.spool_max_bytes),
            open_readers=lambda: _row_readers(settings),
            kie=_kie(settings, session),
            client=await stack.enter_async_context(json_client()),
        )


async def _fetcher(settings: Settings, stack: contextlib.AsyncExitStack) -> Fetcher:
    session = media_session(allow_private=settings.allow_private_hosts, slots=settings.concurrency * 2)
    return Fetcher(
        await stack.enter_async_context(session),
        hosts=settings.result_hosts,
        max_bytes=settings.max_asset_bytes,
        allow_private=settings.allow_private_hosts,
        types=settings.media_types,
    )


def _kie(settings: Settings, session: aiohttp.ClientSession, *, timeout: float = 60.0) -> KieClient:
    """A client that can use every key of the ring."""
    secrets = (key.secret.get_secret_value() for key in settings.kie_keys())
    ring = {key_hash(secret): secret for secret in secrets}
    return KieClient(session, settings.kie_market_base_url, ring, timeout=timeout, secrets=settings.secrets())


def _spool_dir(settings: Settings) -> Path:
    return settings.spool_dir or Path(tempfile.gettempdir()) / f"kie-reconciler-{os.getuid()}"


async def _tracing(
    settings: Settings, database: Database, instance: uuid.UUID, stack: contextlib.AsyncExitStack
) -> Tracing:
    """The tracing that the environment asks for; none while the column that joins a trace is missing."""
    if not tracing.is_enabled(os.environ):
        return UNTRACED
    if not await traceable(database):
        log.warning("tracing.unavailable", do="run: kie-reconciler migrate")
        return UNTRACED
    redact = Redaction(settings.secrets()).text
    chosen = tracing.chosen(os.environ, instance=str(instance), redact=redact)
    stack.push_async_callback(chosen.close)
    return chosen


def _store(settings: Settings, slots: int, stack: contextlib.AsyncExitStack) -> Store:
    """Return the storage of the settings, which closes with the stack; nothing is connected to yet."""
    store: Store
    if settings.storage_backend == "local":
        settings.require("public_url")
        assert settings.storage_local_dir is not None
        store = LocalStore(settings.storage_local_dir, settings.public_url)
    else:
        key = settings.supabase_service_role_key.get_secret_value()
        session, client = storage_session(slots=slots), json_client()
        store = SupabaseStore(
            settings.supabase_url, key, bucket=settings.storage_bucket, session=session, client=client
        )
    stack.push_async_callback(store.close)
    return store


@contextlib.asynccontextmanager
async def webhook_sender(built: Parts) -> AsyncIterator[WebhookSender | None]:
    """Build the sender of webhooks; None without an address for them, and where this instance only observes."""
    settings = built.settings
    if not settings.notify_url or built.policy.limits.observe:
        yield None
        return
    async with json_client(timeout=TIMEOUT) as client:
        receiver = WebhookClient(client, settings.notify_url, settings.notify_secret.get_secret_value())
        yield WebhookSender(Outbox(built.database, built.ledger.clock.trusted_now), receiver, built.metrics)


def operator(built: Parts, *, at_once: int = 1, pause: float = 0.0) -> Operator:
    """Return what sync, retry, backfill and audit work with."""
    reopener = Reopener(built.database, built.table, term=built.settings.lease_seconds)
    return Operator(built.worker, built.reports, reopener, built.settings, at_once=at_once, pause=pause)


def report_scope(settings: Settings) -> ReportScope:
    """Return what the reports count as eligible, stuck and alive."""
    return ReportScope(
        providers=settings.providers,
        task_pattern=settings.task_pattern,
        result_hosts=settings.result_hosts,
        address_rules=settings.address_rules,
        stuck_after=settings.stuck_after,
        alive=timedelta(seconds=2 * settings.lease_seconds),
        announces=bool(settings.notify_url),
    )
