"""One event told to the operator's address, signed the way of Standard Webhooks.

Here one request is made and its answer judged; which event and when again is the engine's affair. The address may hold
a password or a token, so it is never part of an error. It is the operator's own, so it may be a private one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import UTC, datetime

import httpx
from standardwebhooks import Webhook

from reconciler.errors import Config, Gone, Transient
from reconciler.net.http_clients import retry_after
from reconciler.postgres.outbox import OutboxEvent

PATIENCE = 15.0
"""Seconds until a receiver must have answered."""

_MAX_BODY = 64 << 10
_BODY_SECONDS = 1.0
_BUSY = frozenset({429, 503})


class WebhookClient:
    """Whoever answers at the address of RECONCILER_NOTIFY_URL."""

    def __init__(self, client: httpx.AsyncClient, url: str, secret: str, *, patience: float = PATIENCE) -> None:
        """`secret` is base64 with or without `whsec_`, as the settings have checked; Config for an impossible `url`."""
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL:
            raise Config("RECONCILER_NOTIFY_URL is no address that can be asked") from None
        self._client = client
        self._patience = patience
        self._webhook = Webhook(secret)
        # The client's transport takes a header or a login in the address, not both.
        self._auth = httpx.BasicAuth(address.username, address.password) if address.userinfo else None
        self._url = address.copy_with(userinfo=b"", fragment=None)

    async def tell(self, event: OutboxEvent) -> None:
        """Return once the receiver has taken it (2xx); Transient where another try may help, Gone after a 410.

        The code is `timeout`, `network`, or the status as `http_503`; `retry_after` is what a busy receiver asked for.
        """
        try:
            async with asyncio.timeout(self._patience):
                response = await self._client.send(self._request(event), auth=self._auth, stream=True)
                try:
                    await _read_away(response)
                finally:
                    await response.aclose()
        except (TimeoutError, httpx.TimeoutException):
            raise Transient("the receiver does not answer in time", code="timeout") from None
        except httpx.HTTPError as error:
            # Only the kind, and no cause: an error's text may repeat the address.
            raise Transient(f"the receiver is away ({type(error).__name__})", code="network") from None
        _judge(response)

    def _request(self, event: OutboxEvent) -> httpx.Request:
        body = {"type": f"generation.{event.kind}", "timestamp": _iso(event.at), "data": event.payload}
        text = json.dumps(body, separators=(",", ":"))
        now = datetime.now(UTC)
        headers = {
            "Content-Type": "application/json",
            "Webhook-Id": event.webhook_id,
            "Webhook-Timestamp": str(int(now.timestamp())),
            "Webhook-Signature": self._webhook.sign(event.webhook_id, now, text),
        }
        return self._client.build_request("POST", self._url, content=text.encode("ascii"), headers=headers)


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def _read_away(response: httpx.Response) -> None:
    """Read what little a receiver says, so that the connection can be used again; the status has said it all."""
    read = 0
    with contextlib.suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in response.aiter_raw():
                read += len(piece)
                if read > _MAX_BODY:
                    return


def _judge(response: httpx.Response) -> None:
    status = response.status_code
    if 200 <= status < 300:
        return
    if status == 410:
        raise Gone("the receiver wants this no more (410)", code="http_410")
    wait = retry_after(response.headers.get("Retry-After")) if status in _BUSY else None
    raise Transient(f"the receiver answers {status}", code=f"http_{status}", retry_after=wait)
