"""The API on a real port over a real database and a simulated KIE, and one client for each kind of caller."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import jwt

from reconciler import settings
from reconciler.bootstrap import Parts, parts
from reconciler.bootstrap.http import route_services, routers
from reconciler.health import Health
from reconciler.http.app import application, serving
from reconciler.http.readiness_gate import ReadinessGate
from reconciler.simulator import Simulator

OPERATOR = "operator-token"
SECRET = "secret-of-the-project-that-signs-tokens"
ANN = "0b7d3c1e-5a42-4f0e-9f5d-3a8f5a0c9e11"
BOB = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"


@dataclass
class ServedApi:
    """One replica's API with a client for the operator, one each for Ann and Bob, and `nobody` without a token."""

    parts: Parts
    readiness_gate: ReadinessGate
    operator: httpx.AsyncClient
    ann: httpx.AsyncClient
    bob: httpx.AsyncClient
    nobody: httpx.AsyncClient


def token(user_id: str, **more: object) -> str:
    """Return a token as Supabase issues it to this user."""
    claims = {"sub": user_id, "aud": "authenticated", "role": "authenticated", "exp": time.time() + 600, **more}
    return jwt.encode(claims, SECRET, algorithm="HS256")


@asynccontextmanager
async def opened(dsn: str, kie: Simulator, folder: Path, **changes: str) -> AsyncIterator[ServedApi]:
    """Serve the API; no other part of the daemon runs."""
    environment = {
        "DATABASE_URL": dsn,
        "KIE_API_KEY": "key",
        "KIE_MARKET_BASE_URL": kie.url,
        "RECONCILER_ALLOW_PRIVATE_HOSTS": "true",
        "RECONCILER_API_TOKEN": OPERATOR,
        "RECONCILER_ORDERS": "users",
        "RECONCILER_USER_CREATE_RATE": "1000",
        "RECONCILER_POLL_RATE": "1000",
        "RECONCILER_PUBLIC_URL": "http://127.0.0.1:9",
        "RECONCILER_RESULT_HOSTS": "127.0.0.1",
        "RECONCILER_SPOOL_DIR": str(folder / "spool"),
        "RECONCILER_STORAGE_BACKEND": "local",
        "RECONCILER_STORAGE_LOCAL_DIR": str(folder / "files"),
        "SUPABASE_JWT_SECRET": SECRET,
        **changes,
    }
    async with AsyncExitStack() as stack:
        built = await stack.enter_async_context(parts(settings.load(environment, folder)))
        readiness_gate = ReadinessGate(Health(patience=45.0, reason=None))
        readiness_gate.services = route_services(built)
        routes = routers(built.settings, readiness_gate, built.metrics)
        app = application(readiness_gate.health, built.metrics, routers=routes)
        port = await stack.enter_async_context(serving(app, "127.0.0.1", 0))

        async def client(bearer: str = "") -> httpx.AsyncClient:
            headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
            base = f"http://127.0.0.1:{port}"
            # Loading the certificate authorities four times would take longer than the test.
            opened_client = httpx.AsyncClient(base_url=base, headers=headers, trust_env=False, verify=False, timeout=30)
            return await stack.enter_async_context(opened_client)

        yield ServedApi(
            built,
            readiness_gate,
            await client(OPERATOR),
            await client(token(ANN)),
            await client(token(BOB)),
            await client(),
        )
