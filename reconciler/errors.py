"""All errors of the package, named by what the caller must do: fix, wait, stop, or release the row.

The code that talks to databases, KIE, hosts and storage raises only these; worker, http and cli handle them. This
module imports nothing of the package.
"""

from collections.abc import Sequence


class ReconcilerError(Exception):
    """The base class; never raised itself.

    `code` is a stable word for metrics and logs, `hint` tells an operator what to do. Neither may contain a secret.
    """

    def __init__(self, message: str, *, code: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class Config(ReconcilerError):
    """Fix the configuration: waiting does not help, the process ends with exit code 2.

    `lines` has one sentence for each fault, where there are several.
    """

    def __init__(self, message: str, *, code: str = "config", hint: str = "", lines: Sequence[str] = ()) -> None:
        super().__init__(message, code=code, hint=hint)
        self.lines = tuple(lines) or (message,)


class Transient(ReconcilerError):
    """Wait: the other side is unreachable, busy or slow. `retry_after` is in seconds, None if it named none."""

    def __init__(self, message: str, *, code: str, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.retry_after = retry_after


class Locked(Transient):
    """Wait: another session holds a lock that our write of the application's table needs. Nothing has failed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="row_locked", retry_after=1.0)


class TableChanged(Transient):
    """Wait: the application's table is not what a statement was made for, or cannot be used as it is now.

    Nothing has failed: the statement is made anew as soon as the table has been read again.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, code="table_changed", retry_after=5.0)


class Permanent(ReconcilerError):
    """Stop: the same request fails again until a person changes something."""


class Gone(Permanent):
    """Get a new address: this one is dead or refused (403, 404, 410)."""


class LeaseLost(ReconcilerError):
    """Release the row: another instance holds this generation now, and we may write nothing."""

    def __init__(self, message: str = "the lease on this generation is no longer ours") -> None:
        super().__init__(message, code="lease_lost")
