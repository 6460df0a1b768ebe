"""What `doctor` says about the address at which KIE calls back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from reconciler.domain.object_keys import CALLBACK_PATH
from reconciler.net.http_clients import json_client
from reconciler.operations.doctor.callback import CallbackAddress, CallbackAnswer, judge_callback, read_answer
from tests.http.api import opened
from tests.operations.doctor.installation import KEY, Installation, not_ok


async def test_the_daemons_own_refusal_is_the_right_answer_at_the_callback_address(shared: Installation) -> None:
    secret = "known-to-kie-alone"
    async with opened(shared.dsn, shared.kie, shared.folder, KIE_API_KEY=KEY, KIE_CALLBACK_SECRET=secret) as face:
        base = str(face.nobody.base_url).rstrip("/")
        more = {"KIE_CALLBACK_SECRET": secret, "RECONCILER_ALLOW_PRIVATE_HOSTS": "true"}
        checks = await shared.examine(KIE_CALLBACK_URL=f"{base}?secret={secret}", **more)
        assert not_ok(checks) == {}
        assert checks["callback"].says.startswith(f"{base}{CALLBACK_PATH} answers")
        assert secret not in repr(checks)
        checks = await shared.examine(KIE_CALLBACK_URL=f"{base}/elsewhere", **more)
        assert (checks["callback"].word, "404" in checks["callback"].says) == ("FAIL", True)
        checks = await shared.examine(KIE_CALLBACK_URL=base, KIE_CALLBACK_SECRET=secret)
        assert (checks["callback"].word, "private" in checks["callback"].says) == ("FAIL", True)


@asynccontextmanager
async def answering(status: int, body: str) -> AsyncIterator[str]:
    """A server that gives one answer to every request; yields its address."""

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=status, text=body)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


OURS = json.dumps({"error": "unauthorized"})
LONG = 100_000 * "x"


@pytest.mark.parametrize(
    ("status", "body", "word"),
    [
        (401, OURS, "ok"),
        (401, "<html>", "FAIL"),
        (401, LONG, "FAIL"),
        (502, "", "warn"),
        (200, OURS, "FAIL"),
        (308, "", "FAIL"),
    ],
)
async def test_the_answer_at_the_callback_address_is_judged(status: int, body: str, word: str) -> None:
    async with answering(status, body) as base, json_client() as client:
        answer = await read_answer(client, base)
    check = judge_callback(CallbackAddress(f"https://shop.example{CALLBACK_PATH}", proven=True), answer)
    assert (check.word, answer.status) == (word, status)


async def test_an_address_that_does_not_answer_is_a_warning(shared: Installation) -> None:
    more = {"KIE_CALLBACK_SECRET": "secret", "RECONCILER_ALLOW_PRIVATE_HOSTS": "true"}
    check = (await shared.examine(KIE_CALLBACK_URL="http://127.0.0.1:1", **more))["callback"]
    assert (check.word, "cannot be reached" in check.says) == ("warn", True)


async def test_an_address_that_holds_the_path_twice_fails_with_the_right_address(shared: Installation) -> None:
    more = {"KIE_CALLBACK_SECRET": "secret", "RECONCILER_ALLOW_PRIVATE_HOSTS": "true"}
    doubled = f"https://shop.example{CALLBACK_PATH}{CALLBACK_PATH}"
    check = (await shared.examine(KIE_CALLBACK_URL=doubled, **more))["callback"]
    assert (check.word, check.do) == ("FAIL", "Set it: KIE_CALLBACK_URL=https://shop.example")


@pytest.mark.parametrize(
    ("address", "word", "says"),
    [
        (CallbackAddress("https://shop.example/api/kie/callback", proven=False), "FAIL", "KIE_CALLBACK_SECRET"),
        (CallbackAddress("http://shop.example/api/kie/callback", proven=True), "warn", "not encrypted"),
        (CallbackAddress("https://10.1.2.3/api/kie/callback", proven=True, private=True), "FAIL", "private network"),
        (CallbackAddress("https://shop.example/api/kie/callback", proven=True), "ok", "refuses"),
    ],
)
def test_an_address_is_judged_as_it_is_written(address: CallbackAddress, word: str, says: str) -> None:
    check = judge_callback(address, CallbackAnswer(401, ours=True))
    assert (check.word, says in check.says) == (word, True)


def test_an_address_to_which_no_request_was_sent_is_not_looked_at() -> None:
    address = CallbackAddress("https://shop.example/api/kie/callback", proven=True)
    assert judge_callback(address, None).says == "not looked at: no request was sent"
