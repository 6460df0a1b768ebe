"""The options of the simulator; they can be changed while it runs."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

FORTNIGHT = 14 * 86400.0


@dataclass(kw_only=True)
class Options:
    """The options; unless noted, the defaults are what KIE itself does.

    `speed` shortens the life of every task (20: a task of 100 s takes 5 s). `keys` are the accepted bearer tokens;
    empty accepts any; each key knows only the tasks that it made. `faults` is the share of requests that fail, at
    most `fault_times` times for each task and stage.
    """

    seed: int = 0
    speed: float = 1.0
    host: str = "127.0.0.1"
    port: int = 0
    keys: Collection[str] = ()

    strict: bool = False
    """Whether createTask refuses unknown models and missing inputs, as KIE does."""

    faults: float = 0.0
    fault_times: int = 2
    failing: float = 0.0
    """The share of all API requests that get an HTTP 5xx, or whose connection is closed, before anything is done."""
    hang_seconds: float = 60.0
    """How long a request hangs in real time before the connection is cut."""

    slow_seconds: float = 2.0
    """How long each MiB of a slow file takes in real time."""

    limits: bool = True
    """Whether to limit each key to 20 creates in 10 s and 10 records in 1 s, in real time."""
    http_429: bool = True
    """Whether the limiter answers with HTTP 429 (as documented) or with HTTP 200 and code 429."""
    http_errors: bool = False
    """Whether refusals carry their code as HTTP status too; KIE answers 200."""
    compress: bool = True
    """Whether to send gzip, chunked bodies and Set-Cookie, as Cloudflare does; costs microseconds an answer."""
    latency: float | tuple[float, float] = 0.0
    """Real seconds before an answer, or the least and the most; KIE's median is 0.32."""

    extras: bool = False
    """Whether records carry updateTime, progress and creditsConsumed."""
    blanks: bool = False
    """Whether failCode and failMsg are "" instead of null while there is no failure."""
    cost_in_ms: bool = False

    file_rate: float | None = None
    """Bytes per second of all files together; None: no limit."""

    media_size: int | None = None
    """The size of results of tasks created over HTTP; None: random by kind."""
    media_lasts: float = FORTNIGHT
    link_lasts: float = 1200.0
    credits: float = 5916.25

    hmac_key: str | None = None
    callback_hosts: Collection[str] = ()
    """The hosts that callbacks may go to besides this machine; `*`: any. KIE calls any public host."""
    late_seconds: float = 3.0
    callback_timeout: float = 15.0
    callback_gap: float = 1.0
    """Real seconds before the first retry of a callback; doubled for each of the two that follow."""

    def may_call(self, address: str) -> bool:
        """Return whether a callback may go to this address."""
        host = callback_host(address)
        return "*" in self.callback_hosts or host in self.callback_hosts or _is_this_machine(host)


def callback_host(address: str) -> str:
    """Return the host of an address, "" where it has none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_latency(text: str) -> float | tuple[float, float]:
    """Return the seconds of a text such as `0.3` or `0.3-0.95`; raise ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?", text, re.ASCII)
    if match is None or float(match[2] or match[1]) < float(match[1]):
        raise ValueError(f"not seconds, nor a range of them: {text!r}")
    return float(match[1]) if match[2] is None else (float(match[1]), float(match[2]))
