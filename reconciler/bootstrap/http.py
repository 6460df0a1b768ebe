"""Builds the HTTP API: the routes, and the services they work with once the database is there. The daemon calls it."""

from fastapi import APIRouter

from reconciler.bootstrap import Parts, operator, report_scope
from reconciler.domain.poll_interval import MIN_INTERVAL
from reconciler.http.auth import Authenticator, TokenVerifier
from reconciler.http.live.hub import Hub
from reconciler.http.readiness_gate import ReadinessGate, RouteServices
from reconciler.http.routes import callback, create_task, download_url, events, generations, page, status, sync
from reconciler.kie.callback_proofs import CallbackProofs
from reconciler.metrics import Metrics
from reconciler.net.jwks import Jwks
from reconciler.operations.single_flight import SingleFlight
from reconciler.postgres.create_rates import CreateRates
from reconciler.postgres.create_requests import CreateRequests
from reconciler.postgres.reports.change_feed import ChangeFeed
from reconciler.postgres.reports.generation_list import GenerationList
from reconciler.settings import Settings
from reconciler.worker.create.create_quota import CreateQuota
from reconciler.worker.create.create_task import CallbackTarget, TaskCreator
from reconciler.worker.create.record_outcome import OutcomeRecorder


def routers(settings: Settings, readiness_gate: ReadinessGate, metrics: Metrics) -> list[APIRouter]:
    """Return the routes of the API; each asks the readiness gate for the services."""
    who = authenticator(settings)
    users_order = settings.orders == "users"
    return [
        callback.routes(CallbackProofs.from_settings(settings), readiness_gate, metrics),
        generations.routes(who, readiness_gate),
        status.routes(who, readiness_gate),
        sync.routes(who, readiness_gate),
        download_url.routes(who, readiness_gate),
        create_task.routes(who, readiness_gate, users_order=users_order),
        events.routes(who, readiness_gate),
        page.routes(settings),
    ]


def authenticator(settings: Settings) -> Authenticator:
    """Return what knows callers by the operator's token, or by the project's way of signing its users' tokens."""
    secret = settings.supabase_jwt_secret.get_secret_value()
    keys = Jwks(settings.supabase_url) if settings.supabase_url and not secret else None
    return Authenticator(settings.api_token.get_secret_value(), TokenVerifier(secret, keys))


def route_services(parts: Parts) -> RouteServices:
    """Return what the routes work with."""
    shared = operator(parts, pause=MIN_INTERVAL)
    return RouteServices(
        worker=parts.worker,
        reports=parts.reports,
        operator=shared,
        hub=Hub(ChangeFeed(parts.database, parts.table)),
        inbox=parts.inbox,
        generation_list=GenerationList(parts.database, parts.table, report_scope(parts.settings)),
        single_flight=SingleFlight(shared),
        link_refresher=download_url.LinkRefresher(parts.kie, parts.rate_limit, parts.keys, parts.metrics),
        task_creator=task_creator(parts),
    )


def task_creator(parts: Parts) -> TaskCreator:
    """Return what orders tasks from KIE."""
    settings = parts.settings
    provider = "kie" if "kie" in settings.providers else settings.providers[0]
    rates = CreateRates(parts.database, rate=settings.create_rate, user_rate=settings.user_create_rate)
    requests = CreateRequests(parts.pools.application, parts.table, rates=rates, provider=provider)
    return TaskCreator(
        parts.ordering_kie,
        requests,
        OutcomeRecorder(requests, parts.claims, parts.ledger, parts.metrics),
        parts.metrics,
        CreateQuota(rates, parts.keys),
        CallbackTarget(settings.kie_callback_url, settings.kie_callback_secret.get_secret_value()),
        observe=parts.policy.limits.observe,
    )
