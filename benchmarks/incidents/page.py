"""Writes docs/INCIDENTS.md."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

from benchmarks.incidents.cases import INCIDENTS
from benchmarks.incidents.scene import Alert, Incident
from benchmarks.incidents.transcript import Transcript

PAGE = Path(__file__).resolve().parents[2] / "docs" / "INCIDENTS.md"

WIDTH = 120

_HEAD = """# Seventeen incidents, as an operator sees them

Written by `make incidents`, which stages each of them: a real PostgreSQL, the daemon as a process, Debian's Prometheus
over `monitoring/rules`, a local KIE and a stand-in for Supabase's storage. Every transcript was taken while it lasted.
`status` had to begin with the party that fails, and to accuse no other one. Then it was mended, and every row that
waited was delivered and compared with its source byte by byte (on the full disk: delivered).

To keep it short a sweep came every second and a lease was 3 s long; rows that are late were inserted 700 s old. An
alert stands here as soon as its expression is true; it is sent when that has lasted for the time beside it.
`GENERATION` is the row that `explain` was asked about, `ANOTHER` any other id.
"""


def rendered(told: Mapping[str, Transcript]) -> str:
    """The whole page."""
    rows = [_row(one, told[one.title]) for one in INCIDENTS]
    table = ["| incident | alerts |", "|---|---|", *rows]
    return "\n".join([_HEAD, *table, "", *(section(one, told[one.title]) for one in INCIDENTS)])


def replaced(page: str, incident: Incident, told: Transcript) -> str:
    """The page with one incident told anew."""
    title = re.escape(incident.title)
    page = re.sub(rf"^\| \[{title}\].*$", lambda _: _row(incident, told), page, flags=re.MULTILINE)
    return re.sub(rf"^## {title}\n(?:(?!^## ).*\n)*", lambda _: _closed(incident, told), page, flags=re.MULTILINE)


def _closed(incident: Incident, told: Transcript) -> str:
    last = incident is INCIDENTS[-1]
    return section(incident, told) + ("" if last else "\n")


def _row(incident: Incident, told: Transcript) -> str:
    return f"| [{incident.title}](#{_anchor(incident.title)}) | {_names(told.alerts)} |"


def section(incident: Incident, told: Transcript) -> str:
    """One incident."""
    parts = [f"## {incident.title}\n", f"{_filled(incident.happened)}\n", f"{_filled(f'**Do:** {incident.do}')}\n"]
    parts += [_block("kie-reconciler status", [told.status]), _block("the page's banner", told.page)]
    alerts = [f"{one.name} ({one.severity}, after {_span(one.waits)}): {one.says}" for one in told.alerts]
    parts += [_block("metrics", told.figures), _block("alerts", alerts), _block("log", told.log)]
    parts += [_block("kie-reconciler stuck", [told.stuck]), _block("kie-reconciler explain GENERATION", [told.explain])]
    parts.append(_block("kie-reconciler doctor, warnings and failures", [told.doctor]))
    return "\n".join(parts)


def _block(title: str, lines: list[str]) -> str:
    text = "\n".join(_filled(line, "      ") for part in lines for line in part.splitlines()).strip()
    return f"{title}:\n\n```text\n{text}\n```\n" if text else f"{title}: nothing.\n"


def _filled(text: str, indent: str = "") -> str:
    """The text in lines that fit a page, those after the first indented; nothing is broken inside a word."""
    if len(text) <= WIDTH:
        return text.rstrip()
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True,
        replace_whitespace=False,
    )  # fmt: skip


def _names(alerts: list[Alert]) -> str:
    return ", ".join(dict.fromkeys(f"{one.name} ({one.severity})" for one in alerts)) or "none"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-").replace("'", "").replace(",", "")


def _span(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
