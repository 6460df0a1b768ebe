"""What a callback must prove before it is stored: the secret in its address, and KIE's signature with its timestamp.

A pure check of values that `http/routes/callback.py` takes from the request. Source of the signature: docs.kie.ai,
webhook-verification.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.settings import Settings

CLOCK_TOLERANCE = 300.0
"""Seconds by which KIE's clock and ours may differ; KIE states no bound, its clients use five minutes."""

_SIGNATURE_LENGTH = 44
_BAD_SIGNATURE = "the signature is missing or wrong"


@dataclass(frozen=True, slots=True, repr=False)
class CallbackProofs:
    """The secret and the signing key that a callback must know; empty where they are not configured.

    Each check returns the reason to refuse the callback, None where it passes. A header that did not come exactly once
    is passed as an empty text.
    """

    secret: bytes = b""
    signing_key: bytes = b""

    @classmethod
    def from_settings(cls, settings: Settings) -> CallbackProofs:
        """Return the proofs that the settings require."""
        secret, key = settings.kie_callback_secret, settings.kie_webhook_hmac_key
        return cls(secret.get_secret_value().encode(), key.get_secret_value().encode())

    def refuse_head(self, secrets: Sequence[str], timestamp: str, signature: str) -> str | None:
        """Check what comes before the body: every `secret` of the address, the timestamp in Unix seconds, a signature.

        The signature itself can be checked only with the task id, which is in the body.
        """
        if not self.secret and not self.signing_key:
            return "neither a secret nor a signing key is configured here"
        if self.secret and not (len(secrets) == 1 and hmac.compare_digest(secrets[0].encode(), self.secret)):
            return "the secret is missing or wrong"
        if self.signing_key and not _fresh(timestamp):
            return "the timestamp is missing or not within five minutes of now"
        if self.signing_key and len(signature) != _SIGNATURE_LENGTH:
            return _BAD_SIGNATURE
        return None

    def refuse_signature(self, signature: str, timestamp: str, task_id: str) -> str | None:
        """Check the signature over the task id in the body and the timestamp."""
        if not self.signing_key:
            return None
        digest = hmac.digest(self.signing_key, f"{task_id}.{timestamp}".encode(), hashlib.sha256)
        if hmac.compare_digest(signature.encode(), base64.b64encode(digest)):
            return None
        return _BAD_SIGNATURE


def _fresh(timestamp: str) -> bool:
    number = timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12
    return number and abs(time.time() - int(timestamp)) <= CLOCK_TOLERANCE
