"""Every error of the house, named by what the caller must do: fix, wait, stop, or step back.

Edges raise these and nothing else; the engine and the doors translate them. Nothing here imports anything of ours.
"""

from __future__ import annotations


class ReconcilerError(Exception):
    """The root; never raised itself.

    `code` is a stable word for metrics and logs, `hint` tells an operator what to do. Neither may hold a secret.
    """

    def __init__(self, message: str, *, code: str = "error", hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class Config(ReconcilerError):
    """Fix the configuration: no waiting will help, the process ends with exit code 2."""

    def __init__(self, message: str, *, code: str = "config", hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)


class Transient(ReconcilerError):
    """Wait: the other side is away, busy or slow. `retry_after` is in seconds, None where it said nothing."""

    def __init__(self, message: str, *, code: str, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.retry_after = retry_after


class Permanent(ReconcilerError):
    """Stop: the same request will be refused again until somebody changes something."""

    def __init__(self, message: str, *, code: str, hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)


class Gone(Permanent):
    """Ask for a new address: this one is dead or refused (404, 403, 410)."""


class LeaseLost(ReconcilerError):
    """Step back: another instance holds this generation now, nothing of ours may be written."""

    def __init__(self, message: str = "the lease on this generation is no longer ours") -> None:
        super().__init__(message, code="lease_lost")
