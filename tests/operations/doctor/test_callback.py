"""What `doctor` says of KIE and of the address that KIE calls back at."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from reconciler.domain.object_keys import CALLBACK_PATH
from reconciler.net.http_clients import json_client
from reconciler.operations.doctor import callback as judge
from reconciler.operations.doctor import kie as of_kie
from reconciler.operations.doctor.callback import CallbackAddress, CallbackAnswer
from reconciler.operations.doctor.facts import network
from reconciler.operations.doctor.kie import KeyAccount
from testkit.rows import add, keep
from tests.http.api import opened
from tests.operations.doctor.installation import KEY, Surgery, amiss, pooled


async def test_every_key_is_tried_and_a_rejected_one_is_named_by_its_setting(shared: Surgery) -> None:
    checks = await shared.look(KIE_API_KEY_VIDEO="no-longer-valid")
    assert amiss(checks) == {"kie_keys": "FAIL"}
    assert checks["kie_keys"].says == "KIE rejects KIE_API_KEY_VIDEO"
    assert "no-longer-valid" not in repr(checks)
    assert KEY not in repr(checks)


async def test_a_kie_that_is_away_is_told_and_the_rest_is_not_looked_at(shared: Surgery) -> None:
    checks = await shared.look(KIE_MARKET_BASE_URL="http://127.0.0.1:1")
    assert amiss(checks) == {
        "kie_keys": "FAIL", "kie_credits": "warn", "kie_models": "warn", "kie_clock": "warn"
    }  # fmt: skip
    assert checks["kie_credits"].says.startswith("not looked at: ")
    assert checks["kie_keys"].says.startswith("not known: KIE is away")


async def test_low_credits_are_told(shared: Surgery) -> None:
    shared.kie.credits = 99.5
    assert amiss(await shared.look()) == {"kie_credits": "warn"}
    judged = [of_kie.credit([KeyAccount("KIE_API_KEY", left)]) for left in (100.0, 99.5, 0.0, -3.0)]
    assert [check.word for check in judged] == ["ok", "warn", "FAIL", "FAIL"]
    assert judged[1].says == "credits are low: 99.5 with KIE_API_KEY"


@pytest.mark.parametrize("fault", ["record.body_401", "record.http_403"])
async def test_a_key_that_may_not_ask_about_a_model_in_use_is_told(shared: Surgery, rows_dsn: str, fault: str) -> None:
    async with pooled(rows_dsn) as pool:
        for model, faults in (("flux-2/pro", ()), ("kling-3.0/video", (fault,))):
            task = shared.kie.add_task(model=model, key=KEY)
            for name in faults:
                shared.kie.strike(name, task=task)
            made = await add(pool, model_key=model, task_id=task)
            await keep(pool, made, due_at_in=60, seen_task=task)
        check = (await shared.look())["kie_models"]
        assert check.word == "FAIL"
        assert check.says == "KIE refuses to tell of kling-3.0/video with KIE_API_KEY"
        check = (await shared.look())["kie_models"]
        assert (check.word, check.says) == ("ok", "KIE tells of the newest tasks of flux-2/pro, kling-3.0/video")


async def test_tasks_that_kie_does_not_know_tell_nothing(shared: Surgery, rows_dsn: str) -> None:
    async with pooled(rows_dsn) as pool:
        await keep(pool, await add(pool, task_id="nobody-s"), due_at_in=60)
        check = (await shared.look())["kie_models"]
    assert (check.word, check.says) == ("ok", "no row has a task that KIE still knows, so nothing tells")


async def test_the_daemons_own_answer_is_what_is_due_at_the_callbacks_address(shared: Surgery) -> None:
    secret = "known-to-kie-alone"
    async with opened(shared.dsn, shared.kie, shared.folder, KIE_API_KEY=KEY, KIE_CALLBACK_SECRET=secret) as face:
        base = str(face.nobody.base_url).rstrip("/")
        more = {"KIE_CALLBACK_SECRET": secret, "RECONCILER_ALLOW_PRIVATE_HOSTS": "true"}
        checks = await shared.look(KIE_CALLBACK_URL=f"{base}?secret={secret}", **more)
        assert amiss(checks) == {}
        assert checks["callback"].says.startswith(f"{base}{CALLBACK_PATH} answers")
        assert secret not in repr(checks)
        checks = await shared.look(KIE_CALLBACK_URL=f"{base}/elsewhere", **more)
        assert (checks["callback"].word, "404" in checks["callback"].says) == ("FAIL", True)
        checks = await shared.look(KIE_CALLBACK_URL=base, KIE_CALLBACK_SECRET=secret)
        assert (checks["callback"].word, "private" in checks["callback"].says) == ("FAIL", True)


@asynccontextmanager
async def answering(status: int, body: str) -> AsyncIterator[str]:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=status, text=body)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


OURS = json.dumps({"error": "unauthorized"})


@pytest.mark.parametrize(
    ("status", "body", "word"),
    [(401, OURS, "ok"), (401, "<html>", "FAIL"), (502, "", "warn"), (200, OURS, "FAIL"), (308, "", "FAIL")],
)
async def test_what_stands_at_the_callbacks_address_is_told(status: int, body: str, word: str) -> None:
    async with answering(status, body) as base, json_client() as client:
        heard = await network.answer(client, base)
    check = judge.callback(CallbackAddress(f"https://shop.example{CALLBACK_PATH}", proven=True), heard)
    assert (check.word, heard.status) == (word, status)


async def test_an_address_where_nobody_answers_is_told(shared: Surgery) -> None:
    more = {"KIE_CALLBACK_SECRET": "secret", "RECONCILER_ALLOW_PRIVATE_HOSTS": "true"}
    check = (await shared.look(KIE_CALLBACK_URL="http://127.0.0.1:1", **more))["callback"]
    assert (check.word, "cannot be reached" in check.says) == ("warn", True)


async def test_a_path_that_stands_twice_in_the_address_is_told_with_the_right_one(shared: Surgery) -> None:
    more = {"KIE_CALLBACK_SECRET": "secret", "RECONCILER_ALLOW_PRIVATE_HOSTS": "true"}
    doubled = f"https://shop.example{CALLBACK_PATH}{CALLBACK_PATH}"
    check = (await shared.look(KIE_CALLBACK_URL=doubled, **more))["callback"]
    assert (check.word, check.do) == ("FAIL", "Set it: KIE_CALLBACK_URL=https://shop.example")


@pytest.mark.parametrize(
    ("address", "word", "told"),
    [
        (CallbackAddress("https://shop.example/api/kie/callback", proven=False), "FAIL", "KIE_CALLBACK_SECRET"),
        (CallbackAddress("http://shop.example/api/kie/callback", proven=True), "warn", "not encrypted"),
        (CallbackAddress("https://10.1.2.3/api/kie/callback", proven=True, private=True), "FAIL", "private network"),
        (CallbackAddress("https://shop.example/api/kie/callback", proven=True), "ok", "refuses"),
    ],
)
def test_an_address_is_judged_as_it_is_written(address: CallbackAddress, word: str, told: str) -> None:
    check = judge.callback(address, CallbackAnswer(401, ours=True))
    assert (check.word, told in check.says) == (word, True)


async def test_names_that_are_no_settings_are_told_with_the_nearest(shared: Surgery, tmp_path: Path) -> None:
    from reconciler import settings  # noqa: PLC0415 - the fixtures come first

    (tmp_path / ".env").write_text("RECONCILER_POL_RATE=3\n")
    environment = shared.environment(KIE_APIKEY="x", RECONCILER_ENV_FILE=".env", KIE_API_KEY_PHOTO="y")
    assert settings.strangers(environment, tmp_path) == ("KIE_APIKEY", "RECONCILER_POL_RATE")
    checks = await shared.look(strangers=("KIE_APIKEY", "RECONCILER_POL_RATE", "RECONCILER_"))
    assert amiss(checks) == {"spelling": "warn"}
    assert "KIE_APIKEY (did you mean KIE_API_KEY?)" in checks["spelling"].says
    assert "RECONCILER_POL_RATE (did you mean RECONCILER_POLL_RATE?)" in checks["spelling"].says


async def test_a_pattern_that_only_python_can_read_is_told(shared: Surgery) -> None:
    checks = await shared.look(RECONCILER_TASK_PATTERN="(?P<id>[0-9a-f]+)")
    assert amiss(checks) == {"settings": "FAIL"}
    assert "RECONCILER_TASK_PATTERN" in checks["settings"].says
    assert "PostgreSQL" in checks["settings"].do


async def test_settings_that_defeat_each_other_are_told(shared: Surgery) -> None:
    checks = await shared.look(RECONCILER_GIVE_UP_AFTER="5m", RECONCILER_API_TOKEN="short")
    assert checks["settings"].word == "warn"
    assert "RECONCILER_GIVE_UP_AFTER" in checks["settings"].says
    assert "RECONCILER_API_TOKEN" in checks["settings"].says
    assert "short" not in checks["settings"].says.replace("shorter", "")
