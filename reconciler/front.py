"""The HTTP face put together: which routes there are, and what they work with.

Beside the composition root, and like it the only place that knows all of its parts. The daemon calls it.
"""

from __future__ import annotations

from fastapi import APIRouter

from reconciler.assembly import Parts
from reconciler.doors import callback, events, page
from reconciler.doors.auth import Gate, Tokens
from reconciler.doors.chores import Desk
from reconciler.doors.entrance import Entrance, Inside
from reconciler.doors.hub import Hub
from reconciler.doors.story import Terms
from reconciler.edges.happenings import Happenings
from reconciler.edges.inbox import Inbox
from reconciler.edges.jwks import Jwks
from reconciler.edges.reopen import Reopening
from reconciler.metrics import Metrics
from reconciler.settings import Settings


def routers(settings: Settings, entrance: Entrance, metrics: Metrics) -> list[APIRouter]:
    """Return the routes of the API; they come in through the entrance once the parts are there."""
    gate = gate_for(settings)
    return [
        callback.routes(callback.proofs(settings), entrance, metrics),
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
    terms = Terms(parts.settings.give_up_after, parts.settings.result_hosts)
    desk = Desk(parts.work, parts.reports, Reopening(parts.database, parts.shape), terms)
    hub = Hub(Happenings(parts.database, parts.shape))
    inbox = Inbox(parts.database, parts.shape)
    return Inside(work=parts.work, reports=parts.reports, desk=desk, hub=hub, inbox=inbox)
