"""What a callback must prove before it is stored: its secret, its signature, its timestamp."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
import structlog

from reconciler.domain.object_keys import CALLBACK_PATH
from reconciler.kie.callback_proofs import CallbackProofs
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
    opened_replica,
    opened_stage,
    signed,
)  # fmt: skip

STAMP, SIGNATURE = "X-Webhook-Timestamp", "X-Webhook-Signature"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(_worn: str) -> AsyncIterator[Stage]:
    async with opened_stage(_worn) as opened:
        yield opened


def none(_: str) -> dict[str, Any]:
    return {}


def by(**how: Any) -> Callable[[str], dict[str, Any]]:
    """Return a function that makes KIE's headers for a task."""
    return lambda task: signed(task, **how)


def but(name: str, value: Any, **how: Any) -> Callable[[str], dict[str, Any]]:
    """Return a function that makes KIE's headers with one of them replaced, or removed where `value` is None."""
    return lambda task: {key: text for key, text in {**signed(task, **how), name: value}.items() if text is not None}


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
async def test_only_a_proven_callback_is_stored(stage: Stage, name: str) -> None:
    proofs, headers, query, status = CASES[name]
    task, replica = stage.task(), stage.replicas[proofs]
    generation_id = await stage.books.insert(task_id=task)
    answer = await replica.call(market(task), headers=headers(task), **query)
    assert answer.status_code == status, answer.text
    assert replica.woken() == ({generation_id} if status == 200 else set())
    assert replica.counted() == {"stored" if status == 200 else "unauthorized": 1}
    assert await stage.stored(task) == (1 if status == 200 else 0)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_signature_follows_the_rule_of_kie(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    # A vector computed by hand: HMAC-SHA256 with key test-key over abc123.1700000000.
    monkeypatch.setattr("reconciler.kie.callback_proofs.time.time", lambda: 1700000100.0)
    headers = {STAMP: "1700000000", SIGNATURE: "diYY62zxsP2BFxtYj0YyvQeMUZQI0yiCknnho5HSdmY="}
    books = stage.books
    async with opened_replica(books.database, books.table, CallbackProofs(signing_key=b"test-key")) as replica:
        assert (await replica.call(market("abc123"), headers=headers)).status_code == 202
        assert (await replica.call(market("abc124"), headers=headers)).status_code == 401


@pytest.mark.asyncio(loop_scope="module")
async def test_a_repeated_signature_or_timestamp_header_is_refused(stage: Stage) -> None:
    task = stage.task()
    for more in ((SIGNATURE, "x"), (STAMP, "1")):
        answer = await stage.replicas[BY_KEY].client.post(
            CALLBACK_PATH, json=market(task), headers=[*signed(task).items(), more]
        )
        assert answer.status_code == 401


@pytest.mark.asyncio(loop_scope="module")
async def test_a_tampered_body_under_a_valid_signature_changes_no_row(stage: Stage) -> None:
    task, replica = stage.task(), stage.replicas[BY_BOTH]
    generation_id = await stage.books.insert(task_id=task, status="generating")
    before = await stage.versions()
    forged = market(task, resultJson='{"resultUrls":["https://stranger.example/x.png"]}')
    assert (await replica.call(forged, headers=signed(task))).status_code == 200
    assert (replica.woken(), await stage.versions()) == ({generation_id}, before)


@pytest.mark.asyncio(loop_scope="module")
async def test_no_body_is_read_before_the_proofs_that_do_not_need_it(stage: Stage) -> None:
    stage.task()
    for proofs, replica in stage.replicas.items():
        assert (await replica.call(b"no JSON", secret="x")).status_code == 401, proofs
        assert replica.counted() == {"unauthorized": 1}


@pytest.mark.asyncio(loop_scope="module")
async def test_a_refusal_does_not_reveal_the_secret_or_a_valid_signature(stage: Stage) -> None:
    task, replica = stage.task(), stage.replicas[BY_BOTH]
    stale = {STAMP: "1700000000", SIGNATURE: sign(KEY, task, 1700000000)}
    with structlog.testing.capture_logs() as lines:
        answers = [
            await replica.call(market(task), secret="wrong-guess"),
            await replica.call(market(task), headers=signed(task, key="other")),
            await replica.call(market(task), headers=stale),
        ]
    output = str(lines) + "".join(answer.text + str(answer.headers) for answer in answers)
    for hidden in (SECRET, quote(SECRET), KEY, "wrong-guess", stale[SIGNATURE], signed(task)[SIGNATURE]):
        assert hidden not in output
    assert [line["status"] for line in lines if line["event"] == "callback.refused"] == [401, 401, 401]
