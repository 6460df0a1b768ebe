"""KIE as this account sees it: its keys, what is left on them, what they may ask about, and its clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from reconciler.operations.doctor import Check, NotKnown, clock, fail, not_looked, ok, warn

LOW: Final = 100.0
"""Credits below which somebody should top up; a short video takes dozens."""

REJECTED: Final = "key_rejected"
"""The code under which KIE's refusal of a key is known."""


@dataclass(frozen=True, slots=True)
class KeyAccount:
    """One key by the name of its setting: the credits left, or why they are not known."""

    setting: str
    left: float | NotKnown


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """What KIE said of the newest task of a model: its record, that the key may not, or nothing that tells."""

    model: str
    setting: str
    word: Literal["known", "forbidden", "unknown"]


def keys(accounts: Sequence[KeyAccount]) -> Check:
    """Judge whether KIE takes every key."""
    lost = {account.setting: account.left for account in accounts if isinstance(account.left, NotKnown)}
    rejected = [name for name, why in lost.items() if why.code == REJECTED]
    if rejected:
        do = "Make or check the key at https://kie.ai/api-key, and its list of allowed addresses."
        return fail("kie_keys", f"KIE rejects {', '.join(rejected)}", do)
    if lost:
        told = "; ".join(dict.fromkeys(why.why for why in lost.values()))
        return fail("kie_keys", f"not known: {told}", "See KIE_MARKET_BASE_URL, this machine's network, KIE's status.")
    return ok("kie_keys", f"KIE takes {', '.join(account.setting for account in accounts)}")


def credit(accounts: Sequence[KeyAccount]) -> Check:
    """Judge what is left; keys of one account share it."""
    left = {account.setting: account.left for account in accounts if not isinstance(account.left, NotKnown)}
    if not left:
        return not_looked("kie_credits", "KIE told nothing to any key")
    told = ", ".join(f"{amount:g} with {name}" for name, amount in left.items())
    least = min(left.values())
    if least <= 0:
        return fail("kie_credits", f"no credits are left: {told}", "Top up at https://kie.ai; all goes on by itself.")
    if least < LOW:
        return warn("kie_credits", f"credits are low: {told}", "Top up at https://kie.ai before they end.")
    return ok("kie_credits", told)


def models(asked: Sequence[ModelAnswer] | NotKnown) -> Check:
    """Judge what the keys may ask about, as far as KIE tells: it has no list of permissions, only answers."""
    if isinstance(asked, NotKnown):
        return not_looked("kie_models", asked.why)
    forbidden = [f"{one.model} with {one.setting}" for one in asked if one.word == "forbidden"]
    if forbidden:
        do = "Give the key that model at https://kie.ai/api-key, or set the key that its tasks were made with."
        return fail("kie_models", f"KIE refuses to tell of {', '.join(forbidden)}", do)
    known = [one.model for one in asked if one.word == "known"]
    if not known:
        says = "no row has a task that KIE still knows" if asked else "no row has a task yet"
        return ok("kie_models", f"{says}, so nothing tells")
    return ok("kie_models", f"KIE tells of the newest tasks of {', '.join(known)}")


def kie_clock(ahead: float | NotKnown) -> Check:
    """Judge KIE's clock, read from its answers in whole seconds."""
    if isinstance(ahead, NotKnown):
        return not_looked("kie_clock", ahead.why)
    return clock("kie_clock", "KIE's", ahead)
