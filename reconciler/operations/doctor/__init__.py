"""`doctor` checks everything that the daemon needs. Each `Check` says what was found and what to do.

One file per subject: it reads the facts (`read_…`) and judges them (`judge_…`, pure functions). `runner.py` makes the
checks in order. Nothing here prints, and nothing is changed: the object that storage is tried with is removed again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import asyncpg

from reconciler.errors import Config, ReconcilerError

T = TypeVar("T")

Word = Literal["ok", "warn", "FAIL"]

NAMES: Final = (
    "settings", "spelling", "http_port", "database", "connection", "listen", "database_clock", "schema", "table",
    "statuses", "triggers", "indexes", "privileges", "row_security", "storage_policies", "search_path", "hooks",
    "orders", "realtime", "preflight", "replicas", "ignored_rows", "deliveries", "findings", "spool", "bucket",
    "bucket_rules", "upload", "public_read", "delete", "kie_keys", "kie_credits", "kie_models", "kie_clock", "callback",
)  # fmt: skip
"""The names of all checks, in the order in which they are printed. Scripts and docs/OPERATIONS.md rely on them."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: what was found, in one sentence, and what to do: a command or SQL where that helps."""

    name: str
    word: Word
    says: str
    do: str = ""


def ok(name: str, says: str) -> Check:
    """Return the check of a part that works."""
    return Check(name, "ok", says)


def warn(name: str, says: str, do: str = "") -> Check:
    """Return the check of a part that works, but slower, less safely or for less time than it could."""
    return Check(name, "warn", says, do)


def fail(name: str, says: str, do: str = "") -> Check:
    """Return the check of a part that the daemon needs and that does not work, or that is open to strangers."""
    return Check(name, "FAIL", says, do)


def not_looked(name: str, reason: str) -> Check:
    """Return the check of a part that could not be looked at."""
    return warn(name, f"not looked at: {reason}")


def failed(checks: tuple[Check, ...]) -> bool:
    """Return whether something must be repaired before the daemon can work."""
    return any(check.word == "FAIL" for check in checks)


@dataclass(frozen=True, slots=True)
class NotKnown:
    """Facts that could not be read: the reason, what to do about it, and the error's code.

    `lasting`: waiting does not help, and the daemon would stop.
    """

    reason: str
    do: str = ""
    code: str = ""
    lasting: bool = False


def judged(name: str, facts: T | NotKnown, judge: Callable[[T], Check]) -> Check:
    """Return what `judge` says of the facts; not looked at where they could not be read."""
    return not_looked(name, facts.reason) if isinstance(facts, NotKnown) else judge(facts)


async def attempt(read: Callable[[], Awaitable[T]], *, within: float) -> T | NotKnown:
    """Return what `read` returns, or NotKnown where it fails or takes more than `within` seconds."""
    try:
        async with asyncio.timeout(within):
            return await read()
    except TimeoutError:
        return NotKnown(f"no answer within {within:g} s", code="timeout")
    except ReconcilerError as error:
        return NotKnown(str(error), error.hint, error.code, lasting=isinstance(error, Config))
    except asyncpg.PostgresError as error:
        # Not the message: it can repeat a value of a row.
        return NotKnown(f"the database refuses the question ({type(error).__name__}, SQLSTATE {error.sqlstate})")


CLOCK_WARN: Final = 5.0
"""From this difference between two clocks on, in seconds, a check warns."""

CLOCK_FAIL: Final = 300.0
"""From this difference on, in seconds, signed callbacks and users' tokens count as stale and are refused."""


def judge_clock(name: str, owner: str, ahead: float) -> Check:
    """Judge this machine's clock beside the clock of `owner`, which is `ahead` seconds before ours."""
    if abs(ahead) < CLOCK_WARN:
        return ok(name, f"within {CLOCK_WARN:.0f} s of {owner}")
    says = f"this machine's clock is {abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} {owner}"
    do = "Set this machine's clock by NTP, for example: timedatectl set-ntp true"
    if abs(ahead) < CLOCK_FAIL:
        return warn(name, says, do)
    return fail(name, f"{says}: signed callbacks and users' tokens are refused", do)
