"""What the settings say by themselves, and the address that KIE calls back at.

Values come in as facts and without secrets; whether something answers at the address is looked at in
`operations/doctor/facts/network.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, assert_never
from urllib.parse import urlsplit

from reconciler.domain.object_keys import CALLBACK_PATH
from reconciler.operations.doctor import Check, NotKnown, fail, not_looked, ok, warn

_REFUSES_US: Final = 401
_MISSING: Final = 404


@dataclass(frozen=True, slots=True)
class CallbackAddress:
    """Where KIE is told to call back, without query and login.

    `proven`: a callback can prove something; `private`: the address is this machine's or a private network's, and
    `by_design` that this is wanted.
    """

    url: str
    proven: bool
    private: bool = False
    by_design: bool = False


@dataclass(frozen=True, slots=True)
class CallbackAnswer:
    """What came back from the callback's address for a request that proves nothing; `ours` is our own refusal."""

    status: int
    ours: bool


def settings(keys: int, storage: str, notes: Sequence[str], refused: NotKnown | None = None) -> Check:
    """Tell what is configured; `notes` are what goes together badly, `refused` is what the database cannot read."""
    if refused is not None:
        return fail("settings", refused.why, refused.do)
    if notes:
        return warn("settings", "; ".join(notes), "See the settings in README.md and docs/OPERATIONS.md.")
    return ok("settings", f"complete: {keys} key{'' if keys == 1 else 's'} for KIE, storage {storage}")


def spelling(strangers: Sequence[str], known: Sequence[str]) -> Check:
    """Judge names that look like settings and are none."""
    if not strangers:
        return ok("spelling", "every RECONCILER_ and KIE_ name is a setting")
    told = [f"{name} (did you mean {near[0]}?)" if (near := _near(name, known)) else name for name in strangers]
    says = f"no setting has the name {', '.join(told)}"
    return warn("spelling", says, "Correct the name, or take it away; as it stands it has no effect here.")


def callback(address: CallbackAddress | None, answer: CallbackAnswer | NotKnown | None) -> Check:
    """Judge where KIE is told to call back; an `answer` of None means that nobody was asked."""
    if address is None:
        return ok("callback", "KIE_CALLBACK_URL is not set: KIE is asked instead of being waited for")
    if (wrong := written(address)) is not None:
        return wrong
    match answer:
        case None:
            return not_looked("callback", "nobody was asked")
        case NotKnown():
            do = "Start the daemon, and see DNS, firewall and reverse proxy; until then KIE is asked instead."
            return warn("callback", f"{address.url} cannot be reached from here: {answer.why}", do)
        case CallbackAnswer(ours=True):
            return ok("callback", f"{address.url} answers, and refuses who proves nothing")
        case CallbackAnswer(status=status) if status in (_REFUSES_US, _MISSING):
            says = f"{address.url} answers {status}, but not as this daemon does"
            return fail("callback", says, f"Let the reverse proxy pass {CALLBACK_PATH} on to the daemon's port.")
        case CallbackAnswer(status=status) if status >= 500:
            do = "See whether the daemon runs, and the reverse proxy in front of it."
            return warn("callback", f"{address.url} answers {status}", do)
        case CallbackAnswer(status=status):
            says = f"{address.url} answers {status} to a callback that proves nothing, where {_REFUSES_US} is due"
            return fail("callback", says, "See what stands at that address; KIE's callbacks do not reach the daemon.")
        case _:
            assert_never(answer)


def written(address: CallbackAddress) -> Check | None:
    """What is wrong with the address as it is written, None where nothing is."""
    parts = urlsplit(address.url)
    if (times := parts.path.count(CALLBACK_PATH)) > 1:
        base = parts._replace(path=parts.path.partition(CALLBACK_PATH)[0]).geturl()
        return fail("callback", f"KIE_CALLBACK_URL holds the path {times} times", f"Set it: KIE_CALLBACK_URL={base}")
    if not address.proven:
        says = "every callback is refused: neither KIE_CALLBACK_SECRET nor KIE_WEBHOOK_HMAC_KEY is set"
        return fail("callback", says, "Set one of them; for a secret: openssl rand -hex 32")
    if address.private and not address.by_design:
        says = f"{address.url} is on this machine or a private network, where KIE cannot come"
        return fail("callback", says, "Give KIE_CALLBACK_URL the public address of the reverse proxy.")
    if parts.scheme == "http" and not address.private:
        return warn("callback", f"{address.url} is not encrypted, and the secret travels in it", "Use https.")
    return None


def _near(name: str, known: Sequence[str]) -> list[str]:
    return get_close_matches(name, known, n=1, cutoff=0.6)
