"""The HTTP face put together: which routes there are, and what they work with.

Beside the composition root, and like it the only place that knows all of its parts. The daemon calls it.
"""

from __future__ import annotations

from fastapi import APIRouter

from reconciler.bootstrap import Parts, desk, scope
from reconciler.domain.poll_interval import MIN_INTERVAL
from reconciler.http.auth import Authenticator, TokenVerifier
from reconciler.http.download_url import LinkRefresher
from reconciler.http.live.hub import Hub
from reconciler.http.readiness_gate import ReadinessGate, RouteServices
from reconciler.http.routes import callback, create_task, download_url, events, generations, page, sync
from reconciler.metrics import Metrics
from reconciler.net.jwks import Jwks
from reconciler.operations.single_flight import SingleFlight
from reconciler.postgres.create_requests import CreateRequests
from reconciler.postgres.reports.change_feed import ChangeFeed
from reconciler.postgres.reports.generation_list import GenerationList
from reconciler.settings import Settings
from reconciler.worker.create.create_task import CallbackTarget, Means, TaskCreator
from reconciler.worker.create.record_outcome import OutcomeRecorder


def routers(settings: Settings, entrance: ReadinessGate, metrics: Metrics) -> list[APIRouter]:
    """Return the routes of the API; they come in through the entrance once the parts are there."""
    gate = gate_for(settings)
    return [
        callback.routes(callback.proofs(settings), entrance, metrics),
        generations.routes(gate, entrance),
        sync.routes(gate, entrance),
        download_url.routes(gate, entrance),
        create_task.routes(gate, entrance),
        events.routes(gate, entrance),
        page.routes(settings),
    ]


def gate_for(settings: Settings) -> Authenticator:
    """Return who tells callers apart: the operator's token, and the project's way of signing its users' tokens."""
    secret = settings.supabase_jwt_secret.get_secret_value()
    keys = Jwks(settings.supabase_url) if settings.supabase_url and not secret else None
    return Authenticator(settings.api_token.get_secret_value(), TokenVerifier(secret, keys))


def inside(parts: Parts) -> RouteServices:
    """Return what the routes work with."""
    at_work = desk(parts, pause=MIN_INTERVAL)
    hub = Hub(ChangeFeed(parts.database, parts.shape))
    return RouteServices(
        work=parts.work,
        reports=parts.reports,
        desk=at_work,
        hub=hub,
        inbox=parts.ways.inbox,
        listing=GenerationList(parts.database, parts.shape, scope(parts.settings)),
        syncs=SingleFlight(at_work),
        mint=LinkRefresher(parts.ways.kie, parts.budget, parts.keys, parts.metrics),
        creation=_creation(parts),
    )


def _creation(parts: Parts) -> TaskCreator:
    settings = parts.settings
    provider = "kie" if "kie" in settings.providers else settings.providers[0]
    creations = CreateRequests(parts.database, parts.shape, rate=settings.create_rate, provider=provider)
    settling = OutcomeRecorder(creations, parts.claims, parts.ways.ledger, parts.metrics)
    means = Means(parts.ways.ordering, creations, settling, parts.metrics)
    told = CallbackTarget(settings.kie_callback_url, settings.kie_callback_secret.get_secret_value())
    return TaskCreator(means, parts.keys, told, observe=parts.current.limits.observe)
