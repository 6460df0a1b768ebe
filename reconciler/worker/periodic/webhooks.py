"""Looks into the outbox every second: an event that no notification announced is sent all the same.

The sending is `webhooks/sender.py`.
"""

from __future__ import annotations

from reconciler.webhooks.sender import WebhookSender


class WebhookDispatch:
    """Makes the sender look for events that are due."""

    name = "look"
    interval = 1.0
    first_after = 0.0

    def __init__(self, sender: WebhookSender) -> None:
        self._sender = sender

    async def run_once(self) -> None:
        """Start to send what is due; returns before it is sent."""
        await self._sender.send_due()
