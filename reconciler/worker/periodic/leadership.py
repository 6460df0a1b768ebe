"""Which state of leadership this instance is in. The leader does what is needed once for all replicas.

              the database says: ours                no answer within the trust window
    follower ─────────────────────────> leader ──────────────────────────────────────> expired
       ^                                │  ^                                            │  │
       │   the database says: another's │  └────────── the database says: ours ─────────┘  │
       └────────────────────────────────┴────────── the database says: another's ──────────┘

An expired leader acts as a follower. The trust window is shorter than the lease in the database, so that a slow answer
never makes two leaders. All that a leader does is harmless when two do it. `heartbeat.py` brings the answers.
"""

from reconciler.boottime import boottime

KNOWN_AFTER = 1.0
"""Seconds after the start by which the first answer has arrived: tasks of the leader run first then."""


class Leadership:
    """The last answer about who leads, trusted for `trust_window` seconds."""

    def __init__(self, *, trust_window: float) -> None:
        self._trust_window = trust_window
        self._leads_until = 0.0

    @property
    def leads(self) -> bool:
        """Whether this instance leads."""
        return boottime() < self._leads_until

    def record(self, leads: bool, *, asked_at: float) -> None:
        """Record the answer to a question asked at this time of `boottime`."""
        self._leads_until = asked_at + self._trust_window if leads else 0.0
