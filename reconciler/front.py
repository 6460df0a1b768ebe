"""The HTTP face put together: which routes there are, and what they work with.

Beside the composition root, and like it the only place that knows all of its parts. The daemon calls it.
"""

from __future__ import annotations

from fastapi import APIRouter

from reconciler.bootstrap import Parts, desk, scope
from reconciler.domain.poll_interval import FASTEST
from reconciler.http.auth import Gate, Tokens
from reconciler.http.download_url import Mint
from reconciler.http.live.hub import Hub
from reconciler.http.readiness_gate import Entrance, Inside
from reconciler.http.routes import callback, create_task, download_url, events, generations, page, sync
from reconciler.metrics import Metrics
from reconciler.net.jwks import Jwks
from reconciler.operations.single_flight import Syncs
from reconciler.postgres.create_requests import Creations
from reconciler.postgres.reports.change_feed import Happenings
from reconciler.postgres.reports.generation_list import Listing
from reconciler.settings import Settings
from reconciler.worker.create.create_task import Callback, Creation, Means
from reconciler.worker.create.record_outcome import Settling


def routers(settings: Settings, entrance: Entrance, metrics: Metrics) -> list[APIRouter]:
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


def gate_for(settings: Settings) -> Gate:
    """Return who tells callers apart: the operator's token, and the project's way of signing its users' tokens."""
    secret = settings.supabase_jwt_secret.get_secret_value()
    keys = Jwks(settings.supabase_url) if settings.supabase_url and not secret else None
    return Gate(settings.api_token.get_secret_value(), Tokens(secret, keys))


def inside(parts: Parts) -> Inside:
    """Return what the routes work with."""
    at_work = desk(parts, pause=FASTEST)
    hub = Hub(Happenings(parts.database, parts.shape))
    return Inside(
        work=parts.work,
        reports=parts.reports,
        desk=at_work,
        hub=hub,
        inbox=parts.ways.inbox,
        listing=Listing(parts.database, parts.shape, scope(parts.settings)),
        syncs=Syncs(at_work),
        mint=Mint(parts.ways.kie, parts.budget, parts.keys, parts.metrics),
        creation=_creation(parts),
    )


def _creation(parts: Parts) -> Creation:
    settings = parts.settings
    provider = "kie" if "kie" in settings.providers else settings.providers[0]
    creations = Creations(parts.database, parts.shape, rate=settings.create_rate, provider=provider)
    settling = Settling(creations, parts.claims, parts.ways.ledger, parts.metrics)
    means = Means(parts.ways.ordering, creations, settling, parts.metrics)
    told = Callback(settings.kie_callback_url, settings.kie_callback_secret.get_secret_value())
    return Creation(means, parts.keys, told, observe=parts.current.limits.observe)
