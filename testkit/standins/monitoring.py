"""Debian's Prometheus and Alertmanager as real processes, on what the project ships, in seconds instead of minutes.

The shipped files are copied and rewritten where a test cannot wait or must not reach: intervals, addresses, secrets.
Used by the test that pages and by the staged incidents.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from testkit.waiting import until

SHIPPED = Path(__file__).resolve().parents[2] / "monitoring"
PROMETHEUS = shutil.which("prometheus")
ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")

_WAITS = re.compile(r"^(\s+(?:for|keep_firing_for): )\d\w*$", re.MULTILINE)


def rewritten(text: str, changes: dict[str, str]) -> str:
    """The text with every pattern replaced; each must be there, so that a test follows what is shipped."""
    for pattern, replacement in changes.items():
        text, count = re.subn(pattern, replacement.replace("\\", r"\\"), text, flags=re.MULTILINE)
        assert count, f"nothing in the shipped file is like {pattern!r}"
    return text


def hurried(rules: str, alert: str, seconds: int) -> str:
    """The rules, with one alert's waits as short as this."""
    before, found, rest = rules.partition(f"- alert: {alert}\n")
    assert found, f"there is no alert {alert}"
    own, following, after = rest.partition("- alert: ")
    return before + found + _WAITS.sub(rf"\g<1>{seconds}s", own) + following + after


def _copy(folder: Path, hurry: str | None) -> None:
    """Copy the shipped rules into a folder, one alert hurried."""
    rules = folder / "rules"
    rules.mkdir(parents=True)
    for path in (SHIPPED / "rules").glob("*.yml"):
        text = path.read_text()
        (rules / path.name).write_text(hurried(text, hurry, 1) if hurry and f"alert: {hurry}\n" in text else text)


@contextlib.asynccontextmanager
async def _running(folder: Path, *command: str) -> AsyncIterator[str]:
    """Run one of the two programs until the context ends; once it is ready, the address that it listens on."""
    log = folder / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, "--web.listen-address=127.0.0.1:0",
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder,
        )  # fmt: skip

    def listens() -> str | None:
        said = log.read_text()
        assert process.returncode is None, said
        found = re.search(r'msg="?Listening on"? address=(127\.0\.0\.1:[1-9]\d*)', said)
        return found.group(1) if found else None

    try:
        address = f"http://{await until(listens, 30, f'the port of {Path(command[0]).name}')}"
        # It listens before it has read its storage, and answers 503 until then.
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:

            async def ready() -> bool:
                return (await client.get(f"{address}/-/ready")).status_code == 200

            await until(ready, 30, f"{Path(command[0]).name} to be ready")
        yield address
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 15)
        except TimeoutError:
            process.kill()
            await process.wait()


def _routed(folder: Path, pager: str, credentials: str) -> None:
    """Write the shipped routes into a folder, pages go to `pager`, mail goes nowhere."""
    folder.mkdir(parents=True)
    secret = folder / "secret"
    secret.write_text(credentials)
    changes = {
        r"https://pager\.example\.com/\S*": pager,
        r"/etc/prometheus/secrets/pager": str(secret),
        r"/etc/prometheus/secrets/smtp": str(secret),
        r"mail\.example\.com:587": "127.0.0.1:9",
        r"group_wait: \w+": "group_wait: 0s",
        r"group_interval: \w+": "group_interval: 1s",
    }
    shipped = (SHIPPED / "alertmanager" / "alertmanager.yml").read_text()
    (folder / "alertmanager.yml").write_text(rewritten(shipped, changes))


def _watching(folder: Path, ports: Sequence[int], alerts_to: str | None, hurry: str | None) -> None:
    """Write the shipped rules and what is to be scraped into a folder, every second instead of every 15."""
    _copy(folder, hurry)
    changes = {
        r"_interval: 15s": "_interval: 1s",
        r"scrape_timeout: 10s": "scrape_timeout: 1s",
        r"127\.0\.0\.1:9093": (alerts_to or "http://127.0.0.1:9").removeprefix("http://"),
        r"127\.0\.0\.1:9464": "\n          - ".join(f"127.0.0.1:{port}" for port in ports),
    }
    (folder / "prometheus.yml").write_text(rewritten((SHIPPED / "prometheus.yml").read_text(), changes))


@contextlib.asynccontextmanager
async def alertmanager(folder: Path, *, pager: str, credentials: str) -> AsyncIterator[str]:
    """Run Alertmanager with the shipped routes; the address it listens on."""
    assert ALERTMANAGER is not None
    _routed(folder, pager, credentials)
    flags = ("--config.file=alertmanager.yml", "--storage.path=data", "--cluster.listen-address=")
    async with _running(folder, ALERTMANAGER, *flags) as address:
        yield address


@contextlib.asynccontextmanager
async def prometheus(
    folder: Path, ports: Sequence[int], *, alerts_to: str | None = None, hurry: str | None = None
) -> AsyncIterator[str]:
    """Run Prometheus with the shipped rules over the replicas at these ports; the address it listens on."""
    assert PROMETHEUS is not None
    _watching(folder, ports, alerts_to, hurry)
    async with _running(folder, PROMETHEUS, "--config.file=prometheus.yml", "--storage.tsdb.path=data") as address:
        yield address


async def asked(address: str, path: str, **query: str) -> Any:
    """What Prometheus answers to a question of its API."""
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        return (await client.get(f"{address}/api/v1/{path}", params=query)).raise_for_status().json()["data"]
