"""What `doctor` looks at, and how one look is told: ok, warn or FAIL, and what to do.

The files beside this one judge facts, one subject each; nothing here asks anybody for them. Facts are gathered in
`edges/checkup/`, the order of the looks is in `operations/doctor/examine.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Word = Literal["ok", "warn", "FAIL"]

NAMES: Final = (
    "settings",
    "spelling",
    "database",
    "connection",
    "listen",
    "database_clock",
    "schema",
    "table",
    "statuses",
    "triggers",
    "indexes",
    "privileges",
    "row_security",
    "realtime",
    "replicas",
    "spool",
    "bucket",
    "bucket_rules",
    "upload",
    "public_read",
    "delete",
    "kie_keys",
    "kie_credits",
    "kie_models",
    "kie_clock",
    "callback",
)
"""Every check there is, in the order in which they are told; scripts and the page for operators hang on the names."""


@dataclass(frozen=True, slots=True)
class Check:
    """One look: what was found in one sentence, and what to do about it, SQL or a command where that helps."""

    name: str
    word: Word
    says: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class NotKnown:
    """Facts that could not be had: why, what to do about that, and the error's code."""

    why: str
    do: str = ""
    code: str = ""


def ok(name: str, says: str) -> Check:
    """All is well."""
    return Check(name, "ok", says)


def warn(name: str, says: str, do: str = "") -> Check:
    """The daemon works, but something is slower, weaker or sooner over than it need be."""
    return Check(name, "warn", says, do)


def fail(name: str, says: str, do: str = "") -> Check:
    """Something that the daemon needs does not work, or is open to strangers."""
    return Check(name, "FAIL", says, do)


def not_looked(name: str, why: str) -> Check:
    """Tell of a look that something else made impossible."""
    return warn(name, f"not looked at: {why}")


def failed(checks: tuple[Check, ...]) -> bool:
    """Whether anything has to be mended before the daemon can do its work."""
    return any(check.word == "FAIL" for check in checks)


CLOCK_SLACK: Final = 5.0
"""Seconds that two clocks may differ before it is worth a word."""

CLOCK_MOST: Final = 300.0
"""Seconds from which on what is signed or dated counts as stale: callbacks and tokens of users are refused."""


def clock(name: str, whose: str, ahead: float) -> Check:
    """Judge two clocks; `ahead` is how many seconds theirs is before ours."""
    if abs(ahead) < CLOCK_SLACK:
        return ok(name, f"within {CLOCK_SLACK:.0f} s of {whose}")
    says = f"this machine's clock is {abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} {whose}"
    do = "Set this machine's clock by NTP, for example: timedatectl set-ntp true"
    if abs(ahead) < CLOCK_MOST:
        return warn(name, says, do)
    return fail(name, f"{says}: signed callbacks and users' tokens are refused", do)
