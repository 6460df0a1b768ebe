"""What an operator sees: metrics, alerts, log, `stuck` and `explain`, without what belongs to this machine only."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.incidents.scene import TOKEN, Alert, Look, Scene, status, true_alerts
from reconciler import __version__
from testkit.commands import run
from testkit.stage import KEY, USER

UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
HASH = re.compile(r"\b[0-9a-f]{64}\b")
HEX = re.compile(r"\b[0-9a-f]{32}\b")
SECOND = re.compile(r"\b1\.\d+e\+09\b")
MOMENT = re.compile(r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00| UTC)?")
CLOCK = re.compile(r"\b\d\d:\d\d:\d\d\b")
PID = re.compile(r"\bpid \d+")
ADDRESS = re.compile(r"127\.0\.0\.1:\d+")
LEFT_OUT = frozenset({"timestamp", "instance", "user_id", "path", "request_id"})


@dataclass(frozen=True)
class Transcript:
    """The parts of one incident's transcript, scrubbed."""

    status: str
    page: list[str]
    figures: list[str]
    alerts: list[Alert]
    log: list[str]
    stuck: str
    explain: str
    doctor: str


async def taken(on: Scene, prometheus: str, look: Look) -> Transcript:
    """Look where an operator looks."""
    scrub = Scrub(on, look)
    environment = on.rig.environment(**on.settings, COLUMNS="118")

    async def said(*words: str) -> str:
        ran = await run(*words, folder=on.folder, environment=environment)
        return scrub((ran.out or ran.err).rstrip())

    alerts = [Alert(one.name, one.severity, one.waits, scrub(one.says)) for one in await true_alerts(prometheus)]
    return Transcript(
        status=scrub(await status(on, look)),
        page=[scrub(line) for line in await _banner(look)],
        figures=[scrub(line) for line in await _figures(look)],
        alerts=alerts,
        log=[scrub(line) for line in _log(look)],
        stuck=aligned(await said("stuck")),
        explain=await said("explain", look.explain),
        doctor=_troubles(await said("doctor")),
    )


async def _banner(look: Look) -> list[str]:
    """The lines of the page's banner, as the operator's browser gets them from a replica that runs."""
    for replica in look.replicas:
        if replica.running:
            async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
                answer = await client.get(
                    f"http://127.0.0.1:{await replica.port()}/api/status", headers={"Authorization": f"Bearer {TOKEN}"}
                )
            body = answer.json()
            if answer.status_code != 200:
                return [f"{answer.status_code} {body['error']}: {body['detail']}"]
            return [f"{one['name']}: {one['says']} {one['do']}" for one in body["findings"]]
    return []


async def _figures(look: Look) -> list[str]:
    found: dict[str, None] = {}
    for replica in look.replicas:
        if replica.running:
            text = (await replica.get("/metrics")).text
            lines = [line for line in text.splitlines() if not line.startswith("#") and not line.endswith(" NaN")]
            found.update(dict.fromkeys(line for start in look.figures for line in lines if _begins(line, start)))
    return list(found)


def _begins(line: str, start: str) -> bool:
    """Whether a line is one of this metric; series with labels that count nothing are left out."""
    return line.startswith(f"kie_reconciler_{start}") and ("{" not in line or not line.endswith(" 0.0"))


def _log(look: Look) -> list[str]:
    """A line of each event that tells, about the row that is asked about where there is one."""
    lines: dict[tuple[Any, ...], str] = {}
    for replica in look.replicas:
        for line in replica.log:
            if line["event"] in look.log:
                mark = (line["event"], line.get("finding"))
                kept = {key: value for key, value in line.items() if key not in LEFT_OUT}
                if mark not in lines or look.explain in line.values():
                    lines[mark] = json.dumps(kept, ensure_ascii=False)
    return list(lines.values())


def _troubles(text: str) -> str:
    """The lines of `doctor` that are not ok."""
    return "\n".join(line for line in text.splitlines() if not re.match(r"\s*ok\b", line))


class Scrub:
    """Takes out of a text what is only this run's: ids, ports, times, folders; a secret in it is an error."""

    def __init__(self, on: Scene, look: Look) -> None:
        self._secrets = [KEY, TOKEN, on.storage.key, on.storage.secret]
        self._words = {
            USER: "USER",
            look.explain: "GENERATION",
            str(on.folder): "FOLDER",
            on.kie.dsn: "https://KIE",
            on.rig.kie.url: "https://KIE",
            on.storage.url: "https://PROJECT",
            socket.gethostname(): "HOST",
            __version__: "VERSION",
        }
        self._ids: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        assert not [secret for secret in self._secrets if secret in text], "a secret in a transcript"
        for word, name in self._words.items():
            text = text.replace(word, name)
        text = UUID.sub("ANOTHER", text)
        text = HASH.sub("HASH", text)
        text = HEX.sub("TASK", text)
        text = SECOND.sub("TIME", text)
        text = MOMENT.sub("TIME", text)
        text = CLOCK.sub("TIME", text)
        text = PID.sub("pid PID", text)
        return ADDRESS.sub("127.0.0.1:PORT", text)


def aligned(text: str) -> str:
    """A table with its columns as wide as they have to be, now that ids are short."""
    rows = [re.split(r"  +", line.strip()) for line in text.splitlines()]
    if len({len(row) for row in rows}) != 1:
        return text
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
