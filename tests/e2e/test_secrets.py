"""Every secret is set to a recognisable value, everything fails, and no output of any kind holds one of them."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import re
import secrets as dice
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import httpx
import pytest
from aiohttp import web

from reconciler import settings
from reconciler.bootstrap import parts
from reconciler.bootstrap.http import authenticator, route_services
from reconciler.errors import Config
from reconciler.simulator import Failure, Simulator
from testkit.commands import Ran, run
from testkit.replica import Replica
from testkit.stage import Rig
from testkit.standins.receiver import SECRET as NOTIFY
from testkit.standins.receiver import Receiver
from testkit.standins.storage.answers import Refused
from testkit.waiting import until
from tests.wire import Origin, ok, origin

pytestmark = pytest.mark.soak

PASSWORD = "pass/of@the:database?"
KIE = {
    "KIE_API_KEY": "kie-key-plain-0001",
    "KIE_API_KEY_PHOTO": "kie-key-photo-0002",
    "KIE_API_KEY_VIDEO": "kie-key-video-0003",
    "KIE_API_KEY_PHOTO_POOL": "kie-key-pool-0004, kie-key-pool-0005",
    "KIE_API_KEY_VIDEO_POOL": "kie-key-pool-0006 kie-key-pool-0007",
}
KEYS = tuple(key for listed in KIE.values() for key in re.split("[, ]+", listed))
OTHERS = {
    "KIE_CALLBACK_SECRET": "callback+secret/in=address",
    "KIE_WEBHOOK_HMAC_KEY": "key-that-signs-callbacks",
    "SUPABASE_JWT_SECRET": "secret-that-signs-tokens-of-users",
    "RECONCILER_API_TOKEN": "token-of-the-operator-0815",
    "RECONCILER_NOTIFY_SECRET": NOTIFY,
}
SECRET_SETTINGS = (*KIE, *OTHERS, "DATABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "RECONCILER_NOTIFY_URL")
LOGIN, TOKEN = "login-of-the-shop", "t0ken-in-the-address"
SIGNATURE = "X-Amz-Signature"


@pytest.fixture
def kie() -> Simulator:
    return Simulator(keys=KEYS, limits=False, slow_seconds=0.2, hmac_key=OTHERS["KIE_WEBHOOK_HMAC_KEY"])


@dataclass
class Stage:
    """A stage where every secret is known; `told` holds each text that came out so far, with its place."""

    rig: Rig
    receiver: Receiver
    dsn: str
    told: list[tuple[str, str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        assert self.rig.storage is not None
        address = self.receiver.url.replace("http://", f"http://shop:{LOGIN}@")
        more = {"DATABASE_URL": self.dsn, "KIE_CALLBACK_URL": "http://127.0.0.1:9", "LOG_LEVEL": "debug"}
        more |= {"RECONCILER_NOTIFY_URL": address, "RECONCILER_STUCK_AFTER": "1s"}
        return self.rig.environment(**KIE, **OTHERS, **more)

    def needles(self) -> set[str]:
        """Every text that must show nowhere."""
        assert self.rig.storage is not None
        service = self.rig.storage.key
        known = {
            PASSWORD,
            *KEYS,
            *OTHERS.values(),
            NOTIFY.removeprefix("whsec_"),
            LOGIN,
            TOKEN,
            self.rig.storage.secret,
        }
        known |= {service, service.rpartition(".")[2], base64.b64encode(f"shop:{LOGIN}".encode()).decode()}
        return known | {quote(one, safe="") for one in known} | {quote(one) for one in known}

    def leaks(self) -> list[str]:
        return [f"{one} in {where}: {text[:300]}" for where, text in self.told for one in self.needles() if one in text]

    async def ask(self, replica: Replica, method: str, path: str, bearer: str = "", **more: Any) -> httpx.Response:
        headers = {**({"Authorization": f"Bearer {bearer}"} if bearer else {}), **more.pop("headers", {})}
        url = f"http://127.0.0.1:{await replica.port()}{path}"
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            answer = await client.request(method, url, headers=headers, **more)
        self.told.append((f"{method} {path}: {answer.status_code}", f"{answer.headers} {answer.text}"))
        return answer

    async def command(self, *words: str, **changes: str) -> Ran:
        folder = self.rig.folder
        folder.mkdir(exist_ok=True)
        ran = await run(*words, folder=folder, environment={**self.environment, **changes})
        self.told.append((" ".join(words), ran.out + ran.err))
        return ran

    async def commands(self, *lines: str) -> None:
        await asyncio.gather(*(self.command(*line.split()) for line in lines))

    async def row(self, generation_id: str) -> asyncpg.Record:
        return await self.rig.pool.fetchrow("SELECT * FROM public.generations WHERE id::text = $1", generation_id)

    async def failed(self, generation_id: str) -> str:
        async def reason() -> str | None:
            row = await self.row(generation_id)
            return row["error"] if row["status"] == "failed" else None

        return str(await until(reason, 20, "a failed row"))

    async def why(self, generation_id: str, word: str) -> str:
        async def because() -> str | None:
            row = await self.rig.pool.fetchrow("SELECT * FROM reconciler.work WHERE generation_id = $1", generation_id)
            return row["why"] if row and word in str(row["why"]) else None

        return str(await until(because, 20, f"a row that waits: {word}"))

    async def look_around(self, replica: Replica) -> None:
        """Read everything that a running daemon shows of itself, and every row that a person may read."""
        for path in ("/metrics", "/docs", "/openapi.json", "/", "/readyz", "/healthz"):
            await self.ask(replica, "GET", path)
        for path in ("/api/generations", "/api/generations?stuck=true"):
            await self.ask(replica, "GET", path, OTHERS["RECONCILER_API_TOKEN"])
        for file in ("cmdline", "comm", "status"):
            self.told.append((f"/proc/{file}", _proc(replica.pid, file)))
        for table in ("public.generations", "reconciler.work", "reconciler.events", "reconciler.assets"):
            rows = await self.rig.pool.fetch(f"SELECT to_jsonb(t)::text AS row FROM {table} t")
            self.told += [(table, row["row"]) for row in rows]
        self.told.append(("log", replica._errors.read_text() + replica._errors.with_name("stdout").read_text()))


@pytest.fixture
async def stage(rig: Rig) -> AsyncIterator[Stage]:
    role = f"kr_{dice.token_hex(6)}"
    await rig.pool.execute(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
    address = urlsplit(rig.dsn)
    login = f"{role}:{quote(PASSWORD, safe='')}"
    dsn = address._replace(netloc=f"{login}@{address.netloc.rpartition('@')[2]}").geturl()
    async with Receiver(token=TOKEN) as receiver:
        yield Stage(rig, receiver, dsn)
        for replica in rig.replicas:
            await replica.kill()
    await rig.pool.execute(f"DROP ROLE {role}")


async def wrong_requests(stage: Stage, replica: Replica) -> None:
    """Secrets in every wrong place of a request, and the right ones beside something wrong."""
    operator, callback = OTHERS["RECONCILER_API_TOKEN"], quote(OTHERS["KIE_CALLBACK_SECRET"], safe="")
    body = {"code": 200, "data": {"taskId": "t-1", "state": "success", "token": operator}}
    path = "/api/kie/callback"
    for query in (
        f"?secret={callback}",
        f"?secret={operator}",
        f"?secret={callback}&secret=x",
        f"?generation={callback}",
    ):
        answer = await stage.ask(
            replica, "POST", f"{path}?{query}", json=body, headers={"X-Webhook-Signature": KEYS[0]}
        )
        assert answer.status_code == 401
    order: dict[str, Any] = {"model": operator, "input": {"key": KEYS[0]}, "kind": operator, "apiKey": KEYS[1]}
    answers = [
        await stage.ask(replica, "POST", "/api/kie/createTask", operator, json=order),
        await stage.ask(replica, "POST", "/api/kie/createTask", f"{operator}x", json=order),
        await stage.ask(replica, "POST", "/api/kie/createTask", operator, content=f"{{{operator}".encode()),
        await stage.ask(replica, "GET", f"/api/generations?token={operator}&limit={operator}"),
        await stage.ask(replica, "GET", f"/api/generations?limit={operator}&cursor={operator}", operator),
        await stage.ask(replica, "GET", f"/api/generations/{operator}", operator),
        await stage.ask(replica, "GET", f"/api/events?token={operator}"),
        await stage.ask(replica, "GET", f"/nowhere/{operator}?secret={callback}"),
        await stage.ask(replica, "PUT", f"/api/kie/sync?taskId={operator}"),
        await stage.ask(replica, "GET", f"/api/kie/sync?taskId={operator}", operator),
        await stage.ask(replica, "POST", "/api/kie/downloadUrl", operator, json={"generationId": KEYS[0]}),
    ]
    assert [one.status_code for one in answers] == [400, 401, 400, 401, 400, 404, 401, 404, 405, 404, 404]


async def odd_callbacks(stage: Stage, replica: Replica) -> None:
    """Callbacks that prove all they must, about tasks that are called like secrets: the log tells of each."""
    secret, key = quote(OTHERS["KIE_CALLBACK_SECRET"], safe=""), OTHERS["KIE_WEBHOOK_HMAC_KEY"].encode()
    for task_id in (*KEYS[:2], PASSWORD, OTHERS["RECONCILER_API_TOKEN"], f"https://kie.example/a.png?{SIGNATURE}=1f2e"):
        now = str(int(time.time()))
        signed = base64.b64encode(hmac.digest(key, f"{task_id}.{now}".encode(), "sha256")).decode()
        answer = await stage.ask(
            replica, "POST", f"/api/kie/callback?secret={secret}", json={"code": 200, "data": {"taskId": task_id}},
            headers={"X-Webhook-Timestamp": now, "X-Webhook-Signature": signed},
        )  # fmt: skip
        assert answer.status_code == 202
    assert len(replica.said("callback.received")) == 5


async def test_no_secret_comes_out_while_all_works_and_others_fail(stage: Stage, kie: Simulator) -> None:
    rig = stage.rig
    for fault in ("plain.403", "file.redirect"):
        kie.strike(fault)
    replica = await rig.run(**stage.environment)
    good = [await rig.order(key=key) for key in (KEYS[0], KEYS[1], KEYS[6])]
    refused = await rig.order(fate="fail", failure=Failure("422", f"no model for Bearer {KEYS[0]} and {KEYS[3]}"))
    answer = await stage.ask(
        replica, "POST", "/api/kie/createTask", OTHERS["RECONCILER_API_TOKEN"],
        json={"model": "nano-banana-2", "input": {"prompt": "a lens"}, "kind": "image"},
    )  # fmt: skip
    assert answer.status_code == 201
    await rig.delivered(good)
    assert "no model for" in await stage.failed(refused)
    await until(lambda: len(stage.receiver.heard) > len(good), what="announcements")
    assert stage.receiver.forged == 0
    stage.receiver.answer = lambda _: 500
    await rig.delivered([await rig.order()])
    await until(lambda: replica.said("event.not_announced"), what="an announcement that fails")
    await stage.receiver.down()
    await rig.delivered([await rig.order()])
    await wrong_requests(stage, replica)
    await odd_callbacks(stage, replica)
    await stage.commands(f"explain {refused}", f"explain {good[0]} --json", f"retry {refused}", "status")
    await stage.look_around(replica)
    assert stage.leaks() == []
    signed = [text for where, text in stage.told if where == "log" and SIGNATURE in text]
    assert signed == []


async def test_no_secret_comes_out_when_kie_repeats_the_request(stage: Stage) -> None:
    async def echo(writer: asyncio.StreamWriter, head: str) -> None:
        said = f"cannot: {' '.join(head.split())} {heard.bodies[-1].decode()} {SIGNATURE}=1"
        record = {"taskId": "refused-1", "state": "fail", "failMsg": said, "failCode": KEYS[0]}
        code, value = (200, record) if "taskId=refused" in head else (401 if "recordInfo" in head else 422, None)
        writer.write(ok(json.dumps({"code": code, "msg": said, "data": value}).encode()))

    heard: Origin
    async with origin(echo) as heard:
        replica = await stage.rig.run(**{**stage.environment, "KIE_MARKET_BASE_URL": heard.url})
        refused, waiting = await stage.rig.insert("refused-1"), await stage.rig.insert("waiting-1")
        for key in ("Authorization", "another"):
            answer = await stage.ask(
                replica, "POST", "/api/kie/createTask", OTHERS["RECONCILER_API_TOKEN"],
                headers={"Idempotency-Key": key},
                json={"model": "nano-banana-2", "input": {"prompt": "a lens"}, "kind": "image"},
            )  # fmt: skip
            assert (answer.status_code, "cannot" in answer.text) == (422, True)
        assert "cannot" in await stage.failed(refused)
        await stage.why(waiting, "cannot")
        sync = await stage.ask(replica, "GET", "/api/kie/sync?taskId=waiting-1&wait=1", OTHERS["RECONCILER_API_TOKEN"])
        assert sync.status_code in (202, 502)
        await stage.commands(f"explain {refused}", f"explain {waiting} --json", "stuck", "stuck --json")
        await stage.command("sync", "waiting-1", KIE_MARKET_BASE_URL=heard.url)
        await stage.look_around(replica)
    assert any("Bearer" in head or "bearer" in head for head in heard.heads)
    assert stage.leaks() == []


async def test_no_secret_comes_out_when_storage_repeats_the_key(stage: Stage) -> None:
    storage = stage.rig.storage
    assert storage is not None
    replica = await stage.rig.run(**stage.environment)

    def echo(request: web.Request) -> str:
        said = f"denied: {request.headers.get('Authorization')} {request.headers.get('apikey')} {request.query_string}"
        raise Refused("403", "Unauthorized", "AccessDenied", said)

    storage.role = echo  # type: ignore[method-assign]
    row = await stage.rig.order()
    await stage.why(row, "denied")
    await stage.commands(f"explain {row}", f"explain {row} --json", f"sync {next(iter(stage.rig.kie.tasks))}")
    (ended,) = [await stage.rig.begin(**stage.environment)]
    stage.told.append(("run", " ".join((await ended.ended(within=20)).lines)))
    await stage.look_around(replica)
    assert stage.leaks() == []


async def test_a_malformed_secret_is_named_and_not_shown(stage: Stage) -> None:
    wrong = {name: f"{value} \u00fc" for name, value in stage.environment.items() if name in SECRET_SETTINGS}
    wrong["DATABASE_URL"] = stage.dsn.replace("://", "//")
    more = {"RECONCILER_LEASE_SECONDS": KEYS[0], "LOG_LEVEL": LOGIN, "RECONCILER_RESULT_HOSTS": ","}
    for name in SECRET_SETTINGS:
        try:
            settings.load({**stage.environment, **more, name: wrong[name]}, stage.rig.folder)
        except Config as error:
            stage.told.append((name, f"{error!r} {error} {error.hint} {error.__cause__} "))
    ran = await stage.command("run", **wrong, **more)
    assert ran.code == 2
    assert len(stage.told) == len(SECRET_SETTINGS) + 1
    assert stage.leaks() == []


async def test_no_part_of_the_daemon_shows_a_secret_when_it_is_printed(stage: Stage) -> None:
    loaded = settings.load(stage.environment, stage.rig.folder)
    async with parts(loaded) as built:
        everything, seen = [loaded, built, route_services(built), authenticator(loaded)], set[int]()
        while everything:
            part = everything.pop()
            if id(part) in seen or isinstance(part, str | bytes | bytearray):
                continue
            seen.add(id(part))
            if type(part).__module__.startswith("reconciler"):
                stage.told += [(f"repr of {type(part).__name__}", repr(part)), (f"str of {type(part)}", str(part))]
                named = [getattr(part, name, None) for name in _names(part)]
                everything += named
    assert len(stage.told) > 60
    assert stage.leaks() == []


def _proc(pid: int, file: str) -> str:
    return Path(f"/proc/{pid}/{file}").read_bytes().decode()


def _names(part: object) -> list[str]:
    slots = [name for kind in type(part).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*slots, *getattr(part, "__dict__", {})]
