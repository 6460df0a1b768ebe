"""Webhooks: the outbox's events, posted to RECONCILER_NOTIFY_URL with a Standard Webhooks signature.

`client.py` makes one request and judges its answer; `sender.py` decides when each event is sent. The events themselves
live in `postgres/outbox.py`. Log events and metrics keep the older word `announce`.
"""
