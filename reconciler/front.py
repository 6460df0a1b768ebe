"""The HTTP face put together: which routes there are, and what they work with.

Beside the composition root, and like it the only place that knows all of its parts. The daemon calls it.
"""

from __future__ import annotations

from fastapi import APIRouter

from reconciler.assembly import Parts, desk, scope
from reconciler.core.pace import FASTEST
from reconciler.doors import callback, creation, events, generations, links, page, sync
from reconciler.doors.auth import Gate, Tokens
from reconciler.doors.entrance import Entrance, Inside
from reconciler.doors.hub import Hub
from reconciler.doors.mint import Mint
from reconciler.doors.syncs import Syncs
from reconciler.edges.creations import Creations
from reconciler.edges.happenings import Happenings
from reconciler.edges.jwks import Jwks
from reconciler.edges.listing import Listing
from reconciler.engine.create import Callback, Creation, Means
from reconciler.engine.settle import Settling
from reconciler.metrics import Metrics
from reconciler.settings import Settings


def routers(settings: Settings, entrance: Entrance, metrics: Metrics) -> list[APIRouter]:
    """Return the routes of the API; they come in through the entrance once the parts are there."""
    gate = gate_for(settings)
    return [
        callback.routes(callback.proofs(settings), entrance, metrics),
        generations.routes(gate, entrance),
        sync.routes(gate, entrance),
        links.routes(gate, entrance),
        creation.routes(gate, entrance),
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
