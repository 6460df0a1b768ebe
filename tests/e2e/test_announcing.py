"""The application's webhook hears of each finished generation at least once and in order, whatever fails on the way."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator

import pytest

from reconciler.webhooks.sender import CONCURRENCY
from testkit.replica import Replica
from testkit.stage import Rig
from testkit.standins.receiver import SECRET, Heard, Receiver, never
from testkit.waiting import until

pytestmark = pytest.mark.soak

_HISTORY = """
INSERT INTO reconciler.events (key, generation_id, kind, payload)
SELECT g || '|' || k, 'g' || g, 'turn' || k, jsonb_build_object('generation_id', 'g' || g, 'turn', k)
  FROM generate_series(1, $1) g, generate_series(1, $2) k ORDER BY k, g
"""


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as made:
        yield made


def told(receiver: Receiver) -> dict[str, str]:
    """The settings by which a replica tells this receiver."""
    return {"RECONCILER_NOTIFY_URL": receiver.url, "RECONCILER_NOTIFY_SECRET": SECRET}


async def unannounced(rig: Rig) -> int:
    count: int = await rig.pool.fetchval("SELECT count(*) FROM reconciler.events WHERE announced_at IS NULL")
    return count


async def none_waits(rig: Rig, within: float = 20.0) -> None:
    async def none() -> bool:
        return await unannounced(rig) == 0

    await until(none, within, "everything told")


def written(replica: Replica) -> str:
    return replica._errors.read_text()


async def test_an_end_is_announced_within_a_moment_and_no_secret_is_logged(rig: Rig, receiver: Receiver) -> None:
    replica = await rig.run(LOG_LEVEL="debug", **told(receiver))
    good, bad = await rig.order(), await rig.order(fate="fail")
    await rig.delivered([good])
    await until(lambda: receiver.of(good) and receiver.of(bad), what="both told")
    (success,), (failure,) = receiver.of(good), receiver.of(bad)
    row = await rig.pool.fetchrow("SELECT * FROM public.generations WHERE id::text = $1", good)
    assert (success.kind, success.payload["asset_url"]) == ("generation.succeeded", row["asset_url"])
    assert (failure.kind, failure.payload["gave_up"]) == ("generation.failed", False)
    assert receiver.forged == 0
    await until(lambda: len(replica.said("event.announced")) == 2, what="both in the log")
    assert {line["generation_id"] for line in replica.said("event.announced")} == {good, bad}
    receiver.answer = lambda _: 500
    await rig.order()
    await until(lambda: replica.said("event.not_announced"), what="a refusal in the log")
    for secret in (receiver.token, SECRET, SECRET.removeprefix("whsec_")):
        assert secret not in written(replica)


async def test_a_receiver_that_was_down_hears_everything_in_order_under_the_same_ids(
    rig: Rig, receiver: Receiver
) -> None:
    await receiver.down()
    replica = await rig.run(**told(receiver))
    ids = [await rig.order() for _ in range(3)]
    await rig.delivered(ids)
    await rig.pool.execute(_HISTORY, 5, 3)
    await until(lambda: len(replica.said("event.not_announced")) >= 3, what="tries in vain")
    tried = {line["webhook_id"] for line in replica.said("event.not_announced")}
    await receiver.up()
    await none_waits(rig)
    assert {one.generation_id for one in receiver.taken} == {*ids, *(f"g{n}" for n in range(1, 6))}
    for n in range(1, 6):
        assert [one.payload["turn"] for one in receiver.of(f"g{n}")] == [1, 2, 3]
    assert tried <= {one.id for one in receiver.taken}
    assert await replica.figure("announcements_total", outcome="again") >= 3


async def test_two_replicas_send_no_event_out_of_order_and_hardly_any_twice(rig: Rig, receiver: Receiver) -> None:
    both, count = asyncio.Event(), itertools.count(1)

    async def answer(_: Heard) -> int:
        await both.wait()
        return 200 if next(count) % 25 else 500

    receiver.answer = answer
    replicas = [await rig.begin(**told(receiver)) for _ in range(2)]
    for replica in replicas:
        await replica.ready()
    await rig.pool.execute(_HISTORY, 25, 6)
    await until(lambda: receiver.at_once == 2 * CONCURRENCY, 10, "both telling as many at once as they may")
    both.set()
    await none_waits(rig, within=40)
    for n in range(1, 26):
        turns = [one.payload["turn"] for one in receiver.of(f"g{n}")]
        assert turns == sorted(turns)
        assert set(turns) == set(range(1, 7))
    assert len(receiver.taken) <= 152

    async def shares() -> list[float]:
        return [await replica.figure("announcements_total", outcome="told") for replica in replicas]

    async def counted() -> bool:
        return sum(await shares()) == 150

    await until(counted, what="every event counted once")
    assert all(await shares())


async def test_a_replica_killed_between_sending_and_marking_leaves_the_event_to_the_next(
    rig: Rig, receiver: Receiver
) -> None:
    killed: list[Heard] = []
    first = await rig.run(**told(receiver))

    async def answer(heard: Heard) -> int:
        killed.append(heard)
        await first.kill()
        return 200

    receiver.answer = answer
    generation_id = await rig.order()
    await until(lambda: killed and not first.running, what="a power cut in mid-answer")
    receiver.answer = lambda _: 200
    assert await unannounced(rig) == 1
    # The claim of the dead one outlives it by a minute.
    await rig.pool.execute("UPDATE reconciler.events SET next_at = now()")
    await rig.run(**told(receiver))
    await none_waits(rig)
    assert receiver.of(generation_id)[-1].id == killed[0].id


async def test_a_receiver_that_never_answers_holds_up_no_delivery_and_no_exit(rig: Rig, receiver: Receiver) -> None:
    receiver.answer = never
    replica = await rig.run(RECONCILER_DRAIN_SECONDS="1", **told(receiver))
    ids = [await rig.order() for _ in range(20)]
    await rig.delivered(ids)
    await until(lambda: receiver.at_once >= 8, what="everybody waiting")
    replica.signal(signal.SIGTERM)
    assert (await replica.ended(within=10)).code == 0
    receiver.answer = lambda _: 200
    # Released at the exit: no replica has to wait until the claims end.
    await rig.run(**told(receiver))
    await none_waits(rig)
    assert {one.generation_id for one in receiver.taken} == set(ids)


async def test_an_observer_sends_no_event(rig: Rig, receiver: Receiver) -> None:
    await rig.pool.execute(_HISTORY, 3, 1)
    replica = await rig.run("--observe", **told(receiver))
    task = rig.kie.add_task()
    await rig.insert(task)
    await until(lambda: rig.kie.tasks[task].polls, 30, "a look")

    async def drawn() -> bool:
        return await replica.figure("last_sweep_timestamp_seconds") > 0

    await until(drawn, what="rounds that have run")
    assert receiver.heard == []
    assert await unannounced(rig) == 3
