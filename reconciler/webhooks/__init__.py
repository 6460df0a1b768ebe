"""Webhooks: events of the outbox, posted to the operator's address and signed as Standard Webhooks describes."""
