"""Everything KIE can answer, over real HTTP, and the row afterwards: state, reason, finding, next poll."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from reconciler.bootstrap import Parts
from reconciler.domain.model import Fail, Finish, Reschedule
from reconciler.domain.observations import WORDS, Failed, Ready, TaskUnknown, Unreachable, Unreadable, Working
from reconciler.simulator import Failure, never
from testkit.waiting import until
from tests.worker.rig import Rig


@dataclass(frozen=True)
class Answer:
    """What comes instead of a record, how it is understood, and the bounds of the first wait in seconds."""

    fault: str
    seen: type
    reason: str = ""
    finding: str | None = None
    wait: tuple[float, float] = (5, 10)


NO_VERDICT = (
    Answer("record.http_401", Unreachable, "unauthorized", "key_rejected"),
    Answer("record.body_401", Unreachable, "unauthorized", "key_rejected"),
    Answer("record.body_402", Unreachable, "no_credits", "unpaid_account"),
    Answer("record.http_403", Unreachable, "blocked"),
    Answer("record.cloudflare", Unreachable, "blocked"),
    Answer("record.http_404", TaskUnknown, "not_found"),
    Answer("record.body_404", TaskUnknown, "not_found"),
    Answer("record.body_408", Unreachable, "upstream_silent"),
    Answer("record.body_422", TaskUnknown, "record_null"),
    Answer("record.null", TaskUnknown, "no_data"),
    Answer("record.http_429", Unreachable, "rate_limited"),
    Answer("record.body_429", Unreachable, "rate_limited"),
    Answer("record.frequency", Unreachable, "rate_limited"),
    Answer("record.body_433", Unreachable, "key_capped", "unpaid_account"),
    Answer("record.body_455", Unreachable, "maintenance"),
    Answer("record.http_500", Unreachable, "server_error"),
    Answer("record.body_500", Unreachable, "server_error"),
    Answer("record.html_502", Unreachable, "server_error"),
    Answer("record.html_520", Unreachable, "server_error"),
    Answer("record.truncated", Unreachable, "not_json"),
    Answer("record.unknown_state", Unreachable, "unknown_state"),
    Answer("record.bare_list", Unreachable, "bad_envelope"),
    Answer("record.reset", Unreachable, "network"),
)


@pytest.mark.parametrize("answer", NO_VERDICT, ids=lambda answer: answer.fault)
async def test_an_answer_that_is_no_verdict_fails_nothing_and_is_polled_again(
    rig: Rig, parts: Parts, answer: Answer
) -> None:
    generation_id = await rig.order()
    task = (await rig.books.generation(generation_id))["task_id"]
    # The client repeats a GET once where its kept connection is cut.
    rig.kie.strike(answer.fault, task=task, times=2 if answer.fault == "record.reset" else 1)
    visited = await rig.visit(parts, generation_id)

    assert isinstance(visited.observation, answer.seen)
    assert visited.observation.reason == answer.reason
    assert isinstance(visited.decision, Reschedule)
    assert (await rig.books.generation(generation_id))["status"] == "queued"
    work = await rig.books.work(generation_id)
    assert work is not None
    assert answer.reason in work["why"]
    assert work["finding"] == answer.finding
    assert (work["misses"], work["looks"]) == (1, 1)
    least, most = answer.wait
    assert least - 1 < work["due_in"] <= most
    assert parts.metrics.polls.labels(WORDS[answer.seen])._value.get() == 1

    await rig.pool.execute("UPDATE reconciler.budget SET next_at = now(), rests_until = NULL")
    # Another one, since a process knows its own rests.
    async with rig.instance() as other:
        assert isinstance((await rig.visit(other, generation_id)).decision, Finish)
    await rig.proves(generation_id)


async def test_after_a_429_the_key_rests_for_the_window_of_its_limit(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order()
    rig.kie.strike("record.http_429")
    await rig.visit(parts, generation_id)
    resting = "SELECT extract(epoch FROM next_at - clock_timestamp())::float8 FROM reconciler.budget"
    assert 8 < await rig.pool.fetchval(resting) <= 10
    assert not parts.rate_limit.spare(parts.keys[0].key_hash)


@pytest.mark.parametrize("fault", ["record.code_zero", "record.code_string", "result.object"])
async def test_a_success_in_an_unusual_envelope_is_a_success(rig: Rig, parts: Parts, fault: str) -> None:
    generation_id = await rig.order()
    rig.kie.strike(fault)
    assert isinstance((await rig.visit(parts, generation_id)).decision, Finish)
    await rig.proves(generation_id)


async def test_a_kie_that_does_not_answer_counts_as_unreachable(rig: Rig) -> None:
    generation_id = await rig.order()
    async with rig.instance(KIE_MARKET_BASE_URL="http://127.0.0.1:9") as parts:
        visited = await rig.visit(parts, generation_id)
    assert isinstance(visited.observation, Unreachable)
    assert visited.observation.reason == "network"
    assert isinstance(visited.decision, Reschedule)


@pytest.mark.parametrize(
    ("state", "becomes"), [("waiting", "queued"), ("queuing", "queued"), ("generating", "generating")]
)
async def test_a_running_task_is_polled_again_and_only_generating_counts_as_progress(
    rig: Rig, parts: Parts, state: str, becomes: str
) -> None:
    generation_id = await rig.order(life=never(state))
    visited = await rig.visit(parts, generation_id)
    assert visited.observation == Working(state, generating=state == "generating")
    assert (await rig.books.generation(generation_id))["status"] == becomes
    work = await rig.books.work(generation_id)
    assert work is not None
    assert (work["why"], work["finding"], work["misses"]) == (f"KIE says {state}", None, 0)
    assert work["acknowledged_at"] is not None
    assert 2 <= work["due_in"] + 1 < 300


async def test_a_task_that_kie_does_not_know_is_polled_again(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.insert("f" * 32)
    visited = await rig.visit(parts, generation_id)
    assert isinstance(visited.observation, TaskUnknown)
    work = await rig.books.work(generation_id)
    assert work is not None
    assert (work["unknowns"], work["acknowledged_at"]) == (1, None)
    assert work["why"].startswith("KIE does not know the task")


async def test_a_failure_fails_the_generation_with_the_providers_message(rig: Rig, parts: Parts) -> None:
    failure = Failure(code="430", message="Your prompt was flagged")
    generation_id = await rig.order(fate="fail", failure=failure)
    visited = await rig.visit(parts, generation_id)
    assert isinstance(visited.observation, Failed)
    assert isinstance(visited.decision, Fail)
    generation = await rig.books.generation(generation_id)
    assert (generation["status"], generation["error"]) == ("failed", "Your prompt was flagged (430)")
    assert await rig.books.events(generation_id) == ["failed"]
    assert parts.metrics.deliveries.labels("failed", "sync")._value.get() == 1


async def test_a_success_is_delivered_in_the_visit_that_sees_it(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order()
    visited = await rig.visit(parts, generation_id)
    assert isinstance(visited.decision, Finish)
    assert isinstance(visited.row.sources, tuple)
    assert visited.event == "succeeded"
    generation = await rig.proves(generation_id)
    assert generation["asset_url"].endswith(f"/{generation['user_id']}/image/{generation_id}_0.png")
    assert await rig.books.events(generation_id) == ["succeeded"]


async def test_output_that_cannot_be_read_is_a_finding_that_names_it_and_fails_nothing(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order()
    rig.kie.strike("result.invalid_json")
    visited = await rig.visit(parts, generation_id)

    assert isinstance(visited.observation, Unreadable)
    work = await rig.books.work(generation_id)
    assert work is not None
    assert work["finding"] == "unreadable_output"
    assert "nano-banana-2" in work["why"]
    assert "resultJson" in work["why"]
    assert work["due_in"] <= 3
    await rig.visit(parts, generation_id)
    await rig.proves(generation_id)


@pytest.mark.parametrize("fault", ["result.empty", "result.null"])
async def test_a_success_without_output_is_believed_only_by_the_clock(rig: Rig, parts: Parts, fault: str) -> None:
    generation_id = await rig.order()
    rig.kie.strike(fault, times=14)
    for _ in range(10):
        visited = await rig.visit(parts, generation_id)
        assert isinstance(visited.observation, Ready)
        work = await rig.books.work(generation_id)
        assert work is not None
        assert (work["finding"], work["empties"]) == ("empty_success", 1)
        assert work["due_in"] <= 5
    for _ in range(3):
        await rig.elapse(generation_id, 15)
        visited = await rig.visit(parts, generation_id)
    assert isinstance(visited.decision, Fail)
    generation = await rig.books.generation(generation_id)
    assert generation["error"] == "KIE reports success without any output"

    await rig.visit(parts, generation_id)
    await rig.visit(parts, generation_id)
    await rig.proves(generation_id)
    assert await rig.books.events(generation_id) == ["gave_up", "recovered"]


async def test_a_row_without_a_task_waits_for_one_and_kie_is_not_asked(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.insert(None)
    visited = await rig.visit(parts, generation_id)
    assert isinstance(visited.decision, Reschedule)
    assert rig.kie.counts.records == 0
    work = await rig.books.work(generation_id)
    assert work is not None
    assert (work["why"], work["finding"]) == ("no task id yet", None)

    await rig.age(generation_id, 601)
    await rig.visit(parts, generation_id)
    work = await rig.books.work(generation_id)
    assert work is not None
    assert work["finding"] == "no_task"

    await rig.books.change(generation_id, f"task_id = '{rig.kie.add_task()}'")
    await rig.visit(parts, generation_id)
    await rig.proves(generation_id)


async def test_a_failure_seen_by_an_observer_is_written_by_the_next_working_instance(rig: Rig) -> None:
    refused = await rig.order(fate="fail")
    async with rig.instance(observe=True) as observer:
        await rig.visit(observer, refused)
    async with rig.instance() as built, rig.working(built):
        built.worker.wake(refused)

        async def failed() -> bool:
            return (await rig.books.generation(refused))["status"] == "failed"

        await until(failed, what="the failure")


async def test_observing_writes_nothing_to_the_application_and_stores_nothing(rig: Rig) -> None:
    ready, failed = await rig.order(), await rig.order(fate="fail")
    running = await rig.order(life=never("generating"))
    before = [await rig.books.generation(name) for name in (ready, failed, running)]
    async with rig.instance(observe=True) as parts:
        decisions = [(await rig.visit(parts, name)).decision for name in (ready, failed, running)]
    assert [type(decision) for decision in decisions] == [Reschedule, Reschedule, Reschedule]
    assert [await rig.books.generation(name) for name in (ready, failed, running)] == before
    assert rig.names() == []
    assert await rig.pool.fetchval("SELECT count(*) FROM reconciler.events") == 0
