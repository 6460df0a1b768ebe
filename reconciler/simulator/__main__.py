"""`python -m reconciler.simulator`: runs the simulator without the rest of the package."""

from __future__ import annotations

import argparse
from pathlib import Path

from reconciler.simulator.faults import share_or_faults
from reconciler.simulator.options import read_latency
from reconciler.simulator.serve import serve
from reconciler.simulator.simulator import Simulator


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m reconciler.simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", type=float, default=1.0, help="20: a task of 100 s takes 5")
    parser.add_argument("--replay", type=Path, metavar="DIR", help="a folder of recordings to replay")
    parser.add_argument("--faults", type=share_or_faults, nargs="?", const=(1 / 3, []), default=(0.0, []),
                        help="share of requests that fail, or names of faults")  # fmt: skip
    parser.add_argument("--media-size", type=int, metavar="BYTES", help="size of every result")
    parser.add_argument("--file-rate", type=float, metavar="BYTES", help="bytes per second of all files together")
    parser.add_argument("--latency", type=read_latency, default=0.0, metavar="SECONDS", help="or a range: 0.3-0.95")
    parser.add_argument("--http-errors", type=float, default=0.0, dest="failing", help="share of requests with a 5xx")
    parser.add_argument("--hmac-key", help="sign callbacks with it")
    parser.add_argument("--callback-host", action="append", default=[], dest="callback_hosts",
                        help="a host that callbacks may go to besides this machine (repeatable; *: any)")  # fmt: skip
    parser.add_argument("--key", action="append", default=[], dest="keys", help="accept this key (repeatable)")
    parser.add_argument("--strict", action="store_true", help="refuse unknown models and missing inputs")
    parser.add_argument("--no-limits", action="store_false", dest="limits", help="no rate limits")
    return parser.parse_args()


def main() -> None:
    """Serve until a signal stops it."""
    options = vars(_arguments())
    recordings = options.pop("replay")
    options["faults"], named = options["faults"]
    serve(Simulator(**options), recordings, named)


if __name__ == "__main__":
    main()
