"""One webhook request: it posts an event to the operator's address, signed as Standard Webhooks describes.

`sender.py` decides which event is sent and when it is tried again. The address may hold a password or a token, so no
error contains it. The operator chose the address, so a private one is allowed.
"""

import asyncio
import contextlib
import json
from datetime import UTC, datetime

import httpx
from standardwebhooks import Webhook

from reconciler.errors import Config, Gone, Transient
from reconciler.net.http_clients import retry_after
from reconciler.postgres.outbox import OutboxEvent

TIMEOUT = 15.0
"""Seconds within which a receiver must answer."""

_MAX_BODY = 64 << 10
_BODY_SECONDS = 1.0
_BUSY = frozenset({429, 503})


class WebhookClient:
    """Sends webhooks to the receiver at RECONCILER_NOTIFY_URL."""

    def __init__(self, client: httpx.AsyncClient, url: str, secret: str, *, timeout: float = TIMEOUT) -> None:
        """Take a `secret` that the settings have checked (base64, `whsec_` optional); Config for an invalid `url`."""
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL:
            raise Config("RECONCILER_NOTIFY_URL is not a valid address") from None
        self._client = client
        self._timeout = timeout
        self._webhook = Webhook(secret)
        # The client's transport accepts either an Authorization header or a login in the address.
        self._auth = httpx.BasicAuth(address.username, address.password) if address.userinfo else None
        self._url = address.copy_with(userinfo=b"", fragment=None)

    async def deliver(self, event: OutboxEvent) -> None:
        """Return once the receiver accepted the event (2xx); Transient where another try may help, Gone after a 410.

        The error's code is `timeout`, `network`, or the status as in `http_503`; `retry_after` is the pause in seconds
        that a busy receiver (429, 503) asks for.
        """
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._client.send(self._request(event), auth=self._auth, stream=True)
                try:
                    await _drain_body(response)
                finally:
                    await response.aclose()
        except (TimeoutError, httpx.TimeoutException):
            raise Transient("the receiver does not answer in time", code="timeout") from None
        except httpx.HTTPError as error:
            # Only the type, and no cause: the error's text may contain the address.
            raise Transient(f"the receiver is away ({type(error).__name__})", code="network") from None
        _judge(response)

    def _request(self, event: OutboxEvent) -> httpx.Request:
        at = event.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        body = {"type": f"generation.{event.kind}", "timestamp": at, "data": event.payload}
        text = json.dumps(body, separators=(",", ":"))
        now = datetime.now(UTC)
        headers = {
            "Content-Type": "application/json",
            "Webhook-Id": event.webhook_id,
            "Webhook-Timestamp": str(int(now.timestamp())),
            "Webhook-Signature": self._webhook.sign(event.webhook_id, now, text),
        }
        return self._client.build_request("POST", self._url, content=text.encode("ascii"), headers=headers)


async def _drain_body(response: httpx.Response) -> None:
    """Read a short body to its end, so that the connection can be used again; only the status counts."""
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
