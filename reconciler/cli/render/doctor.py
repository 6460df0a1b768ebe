"""How the checks of `doctor` look: a line each, and below it what to do.

Plain lines and no table, because what to do is often SQL to copy.
"""

from collections.abc import Sequence

from reconciler.cli.render.console import console, text
from reconciler.operations.doctor import NAMES, Check

_STYLES = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}
_WIDTH = max(map(len, NAMES))


def show(checks: Sequence[Check]) -> None:
    """Print every check, and how many are not ok."""
    out = console()
    for check in checks:
        line = text(f"{check.word:<4}", style=_STYLES[check.word]) + text(f"  {check.name:<{_WIDTH}}  {check.says}")
        out.print(line, soft_wrap=True)
        for part in check.do.splitlines():
            out.print(text(f"      {part}"), soft_wrap=True)
    count = {word: sum(check.word == word for check in checks) for word in ("FAIL", "warn")}
    summary = f"{count['FAIL']} FAIL, {count['warn']} warn" if any(count.values()) else "all is well"
    out.print(text(f"{len(checks)} checks: {summary}"), soft_wrap=True)
