"""The faults that the simulator can inject: as ordered for one task or for all, or at random from a seed.

A fault is named `stage.what`. The stages are create, record, result, file, plain (a file at its plain address, not by a
download-url link), link, callback, and early (a callback before its record says success). Nothing here answers
requests: the modules of `api/` ask for the next fault and act it out.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from types import MappingProxyType

FAULTS = MappingProxyType(
    {
        "create": frozenset(
            {"lost", "reset", "html_502", "http_429", "body_402", "body_422", "body_455", "body_500"}
        ),
        "record": frozenset(
            {
                "http_401", "http_403", "http_404", "http_429", "http_500", "body_401", "body_402", "body_404",
                "body_408", "body_422", "body_429", "body_433", "body_455", "body_500", "frequency",
                "html_502", "html_520", "cloudflare", "truncated", "null", "unknown_state", "bare_list",
                "code_zero", "code_string", "hang", "reset",
            }
        ),
        "result": frozenset({"invalid_json", "object", "empty", "null"}),
        "file": frozenset(
            {
                "403", "404", "500", "empty", "short", "wrong_length", "no_length", "html", "slow", "reset",
                "wrong_type", "redirect", "loop", "hang",
            }
        ),
        "plain": frozenset({"403", "404"}),
        "link": frozenset({"body_422", "body_500", "html_502"}),
        "early": frozenset({"callback"}),
        "callback": frozenset(
            {"lost", "twice", "late", "reordered", "unsigned", "forged", "tampered", "two_ids", "stale"}
        ),
    }
)  # fmt: skip
RANDOM_FAULTS = MappingProxyType(
    {
        "record": ("http_429", "body_429", "frequency", "http_500", "body_500", "html_502", "html_520", "cloudflare",
                   "truncated", "null", "unknown_state", "body_422", "body_455", "reset"),
        "result": ("invalid_json", "object"),
        "file": ("403", "404", "500", "empty", "short", "wrong_length", "no_length", "html", "slow", "reset",
                 "wrong_type", "redirect"),
        "link": ("body_500", "html_502"),
        "callback": ("lost", "twice", "late", "forged", "tampered", "reordered"),
        "early": ("callback",),
    }
)  # fmt: skip


@dataclass(slots=True)
class Fault:
    """One fault, how often it still occurs (`math.inf`: always) and, for files, for which result (None: any)."""

    name: str
    times: float = 1
    n: int | None = None

    def __post_init__(self) -> None:
        stage, _, what = self.name.partition(".")
        if what not in FAULTS.get(stage, frozenset()):
            raise ValueError(f"no such fault: {self.name!r}")


def next_fault(faults: list[Fault], stage: str, n: int | None = None) -> str | None:
    """Return the next ordered fault of this stage and count it down; None if there is none."""
    for fault in faults:
        at, _, what = fault.name.partition(".")
        if at == stage and fault.times > 0 and (fault.n is None or fault.n == n):
            fault.times -= 1
            return what
    return None


def random_number(*what: object) -> float:
    """Return a number in [0, 1) that depends only on the arguments."""
    digest = hashlib.blake2b("/".join(map(str, what)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / (1 << 56)


def random_fault(stage: str, share: float, *what: object) -> str | None:
    """Return a fault of this stage with this probability, which depends only on `what`; else None."""
    names = RANDOM_FAULTS.get(stage, ())
    if not names or random_number(stage, "whether", *what) >= share:
        return None
    return names[math.floor(random_number(stage, "which", *what) * len(names))]
