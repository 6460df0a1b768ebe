"""The faults that the simulator can inject: as ordered for one task or for all, or at random from a seed.

A fault is named `stage.what`. The stages are create, record, result, file, plain (a file at its plain address, not by a
download-url link), link, upload, callback, and early (a callback before its record says success). Nothing here answers
requests: the modules of `api/` ask for the next fault and act it out.

Two stages last as long as a task and are not counted by requests. `late` hides results of a success for `seconds`
simulated seconds: the last one is blank (hole), all are missing (empty), or they appear one after another (growing).
`place` puts the results where few clients look: resultWaterMarkUrls (watermark), fullResultUrls (full), data.info
(info), originData (origin), sourceAudioUrl beside a stream without bytes (source); a dialect without that place
ignores it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

FAULTS = MappingProxyType(
    {
        "create": frozenset(
            {
                "lost", "reset", "html_502", "http_429", "frequency", "body_401", "body_402", "body_422", "body_429",
                "body_430", "body_433", "body_451", "body_455", "body_500", "body_505", "unpublished", "unsupported",
                "record_id", "task_id", "code_zero", "code_string",
            }
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
        "upload": frozenset({"body_500", "html_502", "reset"}),
        "late": frozenset({"hole", "empty", "growing"}),
        "place": frozenset({"watermark", "full", "info", "origin", "source"}),
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
        # A list that grows announces nothing: a client that takes the first result is done.
        "late": ("hole", "empty"),
    }
)  # fmt: skip
LASTING_STAGES = frozenset({"late", "place"})
PLACES = MappingProxyType(
    {"market": ("watermark",), "veo": ("full", "info"), "suno_stems": ("origin",), "suno": ("source",)}
)
"""The dialects with unusual places for their results."""

LATE_SECONDS = (2.0, 20.0)
"""The least and the most simulated seconds that a random late fault lasts."""

_WRITTEN = re.compile(r"([a-z]+\.\w+)(?:\*([0-9]+))?(?:@([0-9]+(?:\.[0-9]+)?))?")


@dataclass(slots=True)
class Fault:
    """One fault, how often it still occurs (`math.inf`: always) and, for files, for which result (None: any).

    `seconds` matters to the stage `late` only. Ordered for the whole simulator, a fault of a lasting stage strikes
    `times` new tasks.
    """

    name: str
    times: float = 1
    n: int | None = None
    seconds: float = 60.0

    def __post_init__(self) -> None:
        stage, _, what = self.name.partition(".")
        if what not in FAULTS.get(stage, frozenset()):
            raise ValueError(f"no such fault: {self.name!r}")

    @property
    def stage(self) -> str:
        """The stage at which it occurs."""
        return self.name.partition(".")[0]

    @property
    def what(self) -> str:
        """What goes wrong there."""
        return self.name.partition(".")[2]


def read_faults(text: str, times: float = math.inf) -> list[Fault]:
    """Return the faults of a text such as `create.body_402*2,late.hole@75`: `*` how often, `@` for how many seconds.

    `times` holds where none is written. Raises ValueError for anything that is no fault.
    """
    faults = []
    for written in filter(None, (part.strip() for part in text.split(","))):
        match = _WRITTEN.fullmatch(written)
        if match is None:
            raise ValueError(f"no such fault: {written!r}")
        name, often, seconds = match.groups()
        fault = Fault(name, times if often is None else float(often))
        if seconds is not None:
            fault.seconds = float(seconds)
        faults.append(fault)
    return faults


def share_or_faults(text: str) -> tuple[float, list[Fault]]:
    """Return the share of requests that fail, or the faults that are named; raise ValueError for neither."""
    try:
        share = float(text)
    except ValueError:
        return 0.0, read_faults(text)
    if not 0 <= share <= 1:
        raise ValueError(f"not a share between 0 and 1: {text!r}")
    return share, []


def lasting_fault(faults: Iterable[Fault], stage: str) -> Fault | None:
    """Return the first fault of a lasting stage, None if there is none."""
    return next((fault for fault in faults if fault.stage == stage), None)


def next_fault(faults: list[Fault], stage: str, n: int | None = None) -> str | None:
    """Return the next ordered fault of this stage and count it down; None if there is none."""
    for fault in faults:
        if fault.stage == stage and fault.times > 0 and (fault.n is None or fault.n == n):
            fault.times -= 1
            return fault.what
    return None


def random_number(*what: object) -> float:
    """Return a number in [0, 1) that depends only on the arguments."""
    digest = hashlib.blake2b("/".join(map(str, what)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / (1 << 56)


def random_lasting_faults(family: str, share: float, *what: object) -> list[Fault]:
    """Return the faults of the lasting stages that strike a new task of this dialect, each with this probability."""
    low, high = LATE_SECONDS
    seconds = low + (high - low) * random_number("late", "seconds", *what)
    drawn = [
        ("late", random_fault("late", share, *what)),
        ("place", random_fault("place", share, *what, names=PLACES.get(family, ()))),
    ]
    return [Fault(f"{stage}.{name}", seconds=seconds) for stage, name in drawn if name is not None]


def random_fault(stage: str, share: float, *what: object, names: Sequence[str] | None = None) -> str | None:
    """Return a fault of this stage, or of these names, with this probability, which depends only on `what`."""
    names = RANDOM_FAULTS.get(stage, ()) if names is None else names
    if not names or random_number(stage, "whether", *what) >= share:
        return None
    return names[math.floor(random_number(stage, "which", *what) * len(names))]
