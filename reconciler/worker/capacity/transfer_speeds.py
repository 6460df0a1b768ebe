"""Which transfers are much slower than the others of this process.

Pure: the deliverer tells how fast each stage of a transfer was, and asks about one that is under way.
"""

from reconciler.domain.transfer import Transfer

SLOW_AFTER = 5.0
"""Seconds from the beginning of a stage from which on its rate is judged."""

MUCH_SLOWER = 0.25
"""A transfer is slow below this share of the usual rate."""

USUAL_RATE = 256 * 1024.0
"""Bytes a second that count as usual until a transfer has ended."""

FAST_ENOUGH = 1024 * 1024.0
"""At so many bytes a second no transfer is slow, however fast the others are."""

_MEASURABLE = 64 * 1024
"""Bytes: in a shorter transfer, the answer time is most of its length."""

_WEIGHT = 0.1


class TransferSpeeds:
    """The usual bytes a second of each stage (fetch, store): the moving average of those that have ended.

    A stage is judged from `slow_after` seconds on.
    """

    def __init__(self, slow_after: float = SLOW_AFTER) -> None:
        self._slow_after = slow_after
        self._usual: dict[str, float] = {}

    def ended(self, transfer: Transfer) -> None:
        """Note a stage that has ended well."""
        if transfer.done < _MEASURABLE or transfer.seconds <= 0:
            return
        rate = transfer.done / transfer.seconds
        usual = self._usual.get(transfer.stage, rate)
        self._usual[transfer.stage] = usual + _WEIGHT * (rate - usual)

    def is_slow(self, transfer: Transfer) -> bool:
        """Return whether this transfer is much slower than the others in the same stage."""
        if transfer.seconds < self._slow_after or transfer.stage == "prove":
            return False
        usual = self._usual.get(transfer.stage, USUAL_RATE)
        return transfer.done / transfer.seconds < min(MUCH_SLOWER * usual, FAST_ENOUGH)
