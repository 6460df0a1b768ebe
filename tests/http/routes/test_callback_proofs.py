"""What a callback must prove before anything of it is kept: its secret, its signature, its time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
import structlog

from reconciler import settings
from reconciler.domain.object_keys import CALLBACK_PATH
from reconciler.http.routes.callback import CallbackProofs, proofs
from reconciler.simulator.api.callbacks import sign
from tests.http.callback_client import (
    BY_BOTH,
    BY_KEY,
    BY_NOTHING,
    BY_SECRET,
    KEY,
    SECRET,
    Stage,
    market,
    opened_door,
    opened_stage,
    signed,
)  # fmt: skip

STAMP, SIGNATURE = "X-Webhook-Timestamp", "X-Webhook-Signature"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(_worn: str) -> AsyncIterator[Stage]:
    async with opened_stage(_worn) as found:
        yield found


def none(_: str) -> dict[str, Any]:
    return {}


def by(**how: Any) -> Callable[[str], dict[str, Any]]:
    """KIE's headers, made for the task at hand."""
    return lambda task: signed(task, **how)


def but(name: str, value: Any, **how: Any) -> Callable[[str], dict[str, Any]]:
    """KIE's headers, one of them replaced, or gone."""
    return lambda task: {key: kept for key, kept in {**signed(task, **how), name: value}.items() if kept is not None}


def now() -> str:
    return signed("any")[STAMP]


Case = tuple[CallbackProofs, Callable[[str], dict[str, Any]], dict[str, Any], int]
CASES: dict[str, Case] = {
    "the secret": (BY_SECRET, none, {}, 200),
    "a wrong secret": (BY_SECRET, none, {"secret": SECRET + "x"}, 401),
    "the secret's beginning": (BY_SECRET, none, {"secret": SECRET[:-1]}, 401),
    "no secret": (BY_SECRET, none, {"secret": None}, 401),
    "an empty secret": (BY_SECRET, none, {"secret": ""}, 401),
    "the secret twice": (BY_SECRET, none, {"secret": [SECRET, SECRET]}, 401),
    "a wrong secret, then the right one": (BY_SECRET, none, {"secret": ["x", SECRET]}, 401),
    "the right secret, then a wrong one": (BY_SECRET, none, {"secret": [SECRET, "x"]}, 401),
    "only a signature where a secret is asked": (BY_SECRET, by(), {"secret": None}, 401),
    "the signature": (BY_KEY, by(), {"secret": None}, 200),
    "the signature beside any secret": (BY_KEY, by(), {"secret": "x"}, 200),
    "no signature": (BY_KEY, none, {}, 401),
    "a signature by another key": (BY_KEY, by(key="other"), {}, 401),
    "a signature for another task": (BY_KEY, lambda _: signed("another"), {}, 401),
    "a signature without a stamp": (BY_KEY, but(STAMP, None), {}, 401),
    "a stamp without a signature": (BY_KEY, but(SIGNATURE, None), {}, 401),
    "a stamp of four minutes ago": (BY_KEY, by(late=240), {}, 200),
    "a stamp in four minutes": (BY_KEY, by(late=-240), {}, 200),
    "a stale stamp": (BY_KEY, by(late=310), {}, 401),
    "a stamp in the future": (BY_KEY, by(late=-310), {}, 401),
    "another stamp than the signed one": (BY_KEY, lambda task: {**signed(task, late=60), STAMP: now()}, {}, 401),
    "a stamp that is no number": (BY_KEY, but(STAMP, "soon"), {}, 401),
    "a stamp with a sign": (BY_KEY, lambda task: {**signed(task), STAMP: "+" + now()}, {}, 401),
    "a stamp of a thousand digits": (BY_KEY, but(STAMP, "9" * 1000), {}, 401),
    "a signature that is no text": (BY_KEY, but(SIGNATURE, b"\xff\xfe"), {}, 401),
    "both": (BY_BOTH, by(), {}, 200),
    "both, but a wrong secret": (BY_BOTH, by(), {"secret": "x"}, 401),
    "both, but a wrong signature": (BY_BOTH, by(key="other"), {}, 401),
    "both, but stale": (BY_BOTH, by(late=310), {}, 401),
    "only the secret of both": (BY_BOTH, none, {}, 401),
    "only the signature of both": (BY_BOTH, by(), {"secret": None}, 401),
    "nothing, where nothing is configured": (BY_NOTHING, none, {"secret": None}, 401),
    "an empty secret, where nothing is configured": (BY_NOTHING, by(key=""), {"secret": ""}, 401),
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", CASES)
async def test_only_what_is_proven_is_kept(stage: Stage, name: str) -> None:
    asked, headers, query, status = CASES[name]
    task, door = stage.task(), stage.doors[asked]
    found = await stage.books.insert(task_id=task)
    answer = await door.call(market(task), headers=headers(task), **query)
    assert answer.status_code == status, answer.text
    assert door.woken() == ({found} if status == 200 else set())
    assert door.counted() == {"stored" if status == 200 else "unauthorized": 1}
    assert await stage.kept(task) == (1 if status == 200 else 0)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_signature_is_kies_own(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    # A vector made by hand: HMAC-SHA256 with key test-key over abc123.1700000000.
    monkeypatch.setattr("reconciler.http.routes.callback.time.time", lambda: 1700000100.0)
    headers = {STAMP: "1700000000", SIGNATURE: "diYY62zxsP2BFxtYj0YyvQeMUZQI0yiCknnho5HSdmY="}
    books = stage.books
    async with opened_door(books.database, books.table, CallbackProofs(key=b"test-key")) as door:
        assert (await door.call(market("abc123"), headers=headers)).status_code == 202
        assert (await door.call(market("abc124"), headers=headers)).status_code == 401


@pytest.mark.asyncio(loop_scope="module")
async def test_two_signatures_are_none(stage: Stage) -> None:
    task = stage.task()
    for more in ((SIGNATURE, "x"), (STAMP, "1")):
        answer = await stage.doors[BY_KEY].client.post(
            CALLBACK_PATH, json=market(task), headers=[*signed(task).items(), more]
        )
        assert answer.status_code == 401


@pytest.mark.asyncio(loop_scope="module")
async def test_a_tampered_body_under_a_valid_signature_moves_nothing(stage: Stage) -> None:
    task, door = stage.task(), stage.doors[BY_BOTH]
    found = await stage.books.insert(task_id=task, status="generating")
    before = await stage.versions()
    forged = market(task, resultJson='{"resultUrls":["https://stranger.example/x.png"]}')
    assert (await door.call(forged, headers=signed(task))).status_code == 200
    assert (door.woken(), await stage.versions()) == ({found}, before)


@pytest.mark.asyncio(loop_scope="module")
async def test_nothing_of_a_body_is_read_before_what_can_be_proven_without_it(stage: Stage) -> None:
    stage.task()
    for asked, door in stage.doors.items():
        assert (await door.call(b"no JSON", secret="x")).status_code == 401, asked
        assert door.counted() == {"unauthorized": 1}


@pytest.mark.asyncio(loop_scope="module")
async def test_a_refusal_tells_nobody_what_would_have_been_right(stage: Stage) -> None:
    task, door = stage.task(), stage.doors[BY_BOTH]
    stale = {STAMP: "1700000000", SIGNATURE: sign(KEY, task, 1700000000)}
    with structlog.testing.capture_logs() as lines:
        answers = [
            await door.call(market(task), secret="wrong-guess"),
            await door.call(market(task), headers=signed(task, key="other")),
            await door.call(market(task), headers=stale),
        ]
    told = str(lines) + "".join(answer.text + str(answer.headers) for answer in answers)
    for hidden in (SECRET, quote(SECRET), KEY, "wrong-guess", stale[SIGNATURE], signed(task)[SIGNATURE]):
        assert hidden not in told
    assert [line["status"] for line in lines if line["event"] == "callback.refused"] == [401, 401, 401]


def test_the_settings_say_what_is_asked_and_nobody_prints_it(tmp_path: Path) -> None:
    assert proofs(settings.load({}, tmp_path)) == BY_NOTHING
    both = settings.load({"KIE_CALLBACK_SECRET": SECRET, "KIE_WEBHOOK_HMAC_KEY": KEY}, tmp_path)
    assert proofs(both) == BY_BOTH
    assert KEY not in repr(BY_BOTH)
