"""The composition root: builds every part from the settings, and closes them again.

The only place that knows all parts; nothing else builds anything. The commands use `parts` for one row at a time, the
daemon for its life.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import structlog

from reconciler import tracing
from reconciler.domain.model import Policy
from reconciler.kie.client import KieClient, key_hash
from reconciler.logs.redaction import Redaction
from reconciler.media.fetch import Fetcher
from reconciler.media.spool import SpoolDirectory
from reconciler.metrics import Metrics
from reconciler.net.http_clients import json_client, kie_session, media_session, storage_session
from reconciler.operations.actions import Operator
from reconciler.operations.doctor.examine import DoctorClients
from reconciler.operations.explain import ExplainTerms
from reconciler.postgres.claims.claims import Claims
from reconciler.postgres.eligibility import EligibleRows
from reconciler.postgres.inbox import Inbox
from reconciler.postgres.ledger.ledger import Ledger
from reconciler.postgres.ledger.reopen import Reopener
from reconciler.postgres.ledger.verification import VerificationQueue
from reconciler.postgres.outbox import Outbox
from reconciler.postgres.pool import Database
from reconciler.postgres.preflight import traceable, usable
from reconciler.postgres.rate_limit import RateLimit
from reconciler.postgres.reports.activity import ActivityReader
from reconciler.postgres.reports.reports import Reports, ReportScope
from reconciler.postgres.schema import TableShape
from reconciler.settings import Settings
from reconciler.storage import Store
from reconciler.storage.local import LocalStore
from reconciler.storage.supabase import SupabaseStore
from reconciler.tracing import UNTRACED, Tracing
from reconciler.webhooks.client import PATIENCE, WebhookClient
from reconciler.webhooks.sender import WebhookSender
from reconciler.worker.deliver import Backends, Deliverer
from reconciler.worker.periodic.verification import Verification
from reconciler.worker.route import RingKey
from reconciler.worker.visit import CurrentPolicy, Visitor
from reconciler.worker.worker import Breadth, Worker

log = structlog.get_logger()

LEAST_ASKING = 4
MOST_ASKING = 64
WAITING_SECONDS = 2.0
"""How long a visit may stand in the queue for a request; with the rate it tells how many may ask at once."""

ANSWER_SECONDS = 10.0
"""How long KIE may be silent about a task: it answers within a second, so whoever waits longer waits on a dead line."""

ORDER_SECONDS = 30.0
"""How long KIE may take to answer createTask; it answers within a second."""

CALLBACKS_AT_ONCE = 2
"""Connections that callbacks have for themselves: one takes thousands a second."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that is built once, for the daemon and for the chores."""

    settings: Settings
    instance: uuid.UUID
    metrics: Metrics
    database: Database
    shape: TableShape
    reports: Reports
    claims: Claims
    ways: Backends
    budget: RateLimit
    keys: tuple[RingKey, ...]
    current: CurrentPolicy
    deliveries: Deliverer
    work: Worker
    audit: Verification


@contextlib.asynccontextmanager
async def parts(
    settings: Settings, *, observe: bool = False, metrics: Metrics | None = None, instance: uuid.UUID | None = None
) -> AsyncIterator[Parts]:
    """Build everything and close it again; Config for what a person must mend, Transient for what is merely away."""
    settings.require("database_url", "kie_api_key", "storage")
    metrics = metrics or Metrics()
    async with contextlib.AsyncExitStack() as stack:
        database = _connections(settings, min(4 + settings.concurrency, 20), stack)
        try:
            shape = await usable(database, settings.task_pattern)
        finally:
            # Not before: until it has answered, what the last try saw is still the truth.
            metrics.database_up.set_function(lambda: database.trouble is None)
        second_look = timedelta(seconds=2 * settings.lease_seconds)
        ledger = Ledger(database, shape, handover=settings.on_fail == "handover", second_look=second_look)
        inbox = Inbox(_connections(settings, CALLBACKS_AT_ONCE, stack), shape)
        ways = await _ways(settings, ledger, inbox, stack)
        named = instance or uuid.uuid4()
        ways = replace(ways, tracing=await _tracing(settings, database, named, stack))
        yield _assembled(settings, database, shape, ways, metrics, instance=named, observe=observe)


def _connections(settings: Settings, size: int, stack: contextlib.AsyncExitStack) -> Database:
    """A pool that is opened when first asked, and closed with the stack."""
    database = Database(settings.database_url.get_secret_value(), size=size)
    stack.push_async_callback(database.close)
    return database


@contextlib.asynccontextmanager
async def reports(settings: Settings) -> AsyncIterator[Reports]:
    """Build no more than it takes to ask about the tables."""
    async with _asking(settings) as (database, shape):
        yield Reports(database, shape, scope(settings))


@contextlib.asynccontextmanager
async def watching(settings: Settings) -> AsyncIterator[ActivityReader]:
    """Build no more than it takes to watch what moves."""
    async with _asking(settings) as (database, _):
        yield ActivityReader(database, alive=scope(settings).alive)


@contextlib.asynccontextmanager
async def _asking(settings: Settings) -> AsyncIterator[tuple[Database, TableShape]]:
    database = Database(settings.database_url.get_secret_value(), size=1)
    try:
        yield database, await usable(database, settings.task_pattern)
    finally:
        await database.close()


@contextlib.asynccontextmanager
async def instruments(settings: Settings) -> AsyncIterator[DoctorClients]:
    """Build what `doctor` looks with; nothing is asked yet, and nothing need be there."""
    settings.require("database_url", "kie_api_key", "storage")
    async with contextlib.AsyncExitStack() as stack:
        store = _store(settings, slots=2)
        stack.push_async_callback(store.close)
        session = await stack.enter_async_context(kie_session())
        yield DoctorClients(
            settings=settings,
            store=store,
            room=lambda: SpoolDirectory(_spool_dir(settings), settings.spool_max_bytes),
            kie=KieClient(session, settings.kie_market_base_url, _ring(settings), secrets=settings.secrets()),
            web=await stack.enter_async_context(json_client()),
        )


async def _ways(settings: Settings, ledger: Ledger, inbox: Inbox, stack: contextlib.AsyncExitStack) -> Backends:
    slots = settings.concurrency * 2
    store = _store(settings, slots)
    stack.push_async_callback(store.close)
    await store.check()
    media = await stack.enter_async_context(media_session(allow_private=settings.allow_private_hosts, slots=slots))
    asking = await stack.enter_async_context(kie_session(timeout=ANSWER_SECONDS))
    ordering = await stack.enter_async_context(kie_session(timeout=ORDER_SECONDS, lasting=False))
    keys = _ring(settings)
    return Backends(
        ledger=ledger,
        inbox=inbox,
        kie=KieClient(asking, settings.kie_market_base_url, keys, secrets=settings.secrets()),
        ordering=KieClient(
            ordering, settings.kie_market_base_url, keys, timeout=ORDER_SECONDS, secrets=settings.secrets()
        ),
        fetcher=Fetcher(
            media,
            hosts=settings.result_hosts,
            max_bytes=settings.max_asset_bytes,
            allow_private=settings.allow_private_hosts,
        ),
        room=SpoolDirectory(_spool_dir(settings), settings.spool_max_bytes),
        store=store,
    )


def _ring(settings: Settings) -> dict[str, str]:
    """KIE's keys by their hashes."""
    secrets = (key.secret.get_secret_value() for key in settings.kie_keys())
    return {key_hash(secret): secret for secret in secrets}


def _spool_dir(settings: Settings) -> Path:
    return settings.spool_dir or Path(tempfile.gettempdir()) / f"kie-reconciler-{os.getuid()}"


async def _tracing(
    settings: Settings, database: Database, instance: uuid.UUID, stack: contextlib.AsyncExitStack
) -> Tracing:
    """What visits tell; nothing while the column is missing that holds a trace together."""
    if not tracing.is_enabled(os.environ):
        return UNTRACED
    if not await traceable(database):
        log.warning("tracing.unavailable", do="run: kie-reconciler migrate")
        return UNTRACED
    redact = Redaction(settings.secrets()).text
    chosen = tracing.chosen(os.environ, instance=str(instance), redact=redact)
    stack.push_async_callback(chosen.close)
    return chosen


def _store(settings: Settings, slots: int) -> Store:
    if settings.storage_backend == "local":
        settings.require("public_url")
        assert settings.storage_local_dir is not None
        return LocalStore(settings.storage_local_dir, settings.public_url)
    return SupabaseStore(
        settings.supabase_url,
        settings.supabase_service_role_key.get_secret_value(),
        bucket=settings.storage_bucket,
        session=storage_session(slots=slots),
        client=json_client(),
    )


def _assembled(
    settings: Settings,
    database: Database,
    shape: TableShape,
    ways: Backends,
    metrics: Metrics,
    *,
    instance: uuid.UUID,
    observe: bool,
) -> Parts:
    structlog.contextvars.bind_contextvars(instance=str(instance))
    keys = tuple(RingKey(key_hash(key.secret.get_secret_value()), key.kind) for key in settings.kie_keys())
    limits = Policy(
        settings.give_up_after, provider_hosts=settings.provider_hosts, observe=observe, key_count=len(keys)
    )
    current = CurrentPolicy(limits)
    reach = EligibleRows(settings.providers, settings.task_pattern, settings.provider_hosts)
    traced = ways.tracing.on
    claims = Claims(database, shape, reach, instance=instance, term=settings.lease_seconds, traced=traced)
    budget = RateLimit(database, settings.poll_rate)
    deliveries = Deliverer(ways, metrics, slots=settings.concurrency)
    visits = Visitor(ways, deliveries, budget, keys=keys, current=current, metrics=metrics)
    rate = settings.poll_rate * len(keys)
    asking = max(LEAST_ASKING, min(MOST_ASKING, round(rate * WAITING_SECONDS)))
    breadth = Breadth(asking, settings.lease_seconds, settings.sweep_seconds, 1 / rate)
    work = Worker(claims, ways.ledger, visits, metrics, breadth)
    return Parts(
        settings=settings,
        instance=instance,
        metrics=metrics,
        database=database,
        shape=shape,
        reports=Reports(database, shape, scope(settings)),
        claims=claims,
        ways=ways,
        budget=budget,
        keys=keys,
        current=current,
        deliveries=deliveries,
        work=work,
        audit=Verification(VerificationQueue(database, shape), ways.store, metrics, stir=work.stir, observe=observe),
    )


@contextlib.asynccontextmanager
async def announcer(built: Parts) -> AsyncIterator[WebhookSender | None]:
    """Build what tells of events; None where nobody is to be told, and where we only watch."""
    settings = built.settings
    if not settings.notify_url or built.current.limits.observe:
        yield None
        return
    async with json_client(timeout=PATIENCE) as client:
        receiver = WebhookClient(client, settings.notify_url, settings.notify_secret.get_secret_value())
        yield WebhookSender(Outbox(built.database), receiver, built.metrics)


def desk(built: Parts, *, at_once: int = 1, pause: float = 0.0) -> Operator:
    """Return what chores work with."""
    reopening = Reopener(built.database, built.shape)
    return Operator(built.work, built.reports, reopening, ExplainTerms.of(built.settings), at_once=at_once, pause=pause)


def scope(settings: Settings) -> ReportScope:
    """Return what the reports count as ours, stuck and alive."""
    return ReportScope(
        providers=settings.providers,
        task_pattern=settings.task_pattern,
        result_hosts=settings.result_hosts,
        their_hosts=settings.provider_hosts,
        stuck_after=settings.stuck_after,
        alive=timedelta(seconds=2 * settings.lease_seconds),
        announces=bool(settings.notify_url),
    )
