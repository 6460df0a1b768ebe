"""No result host and no page of KIE slows the rows of another one (N2): real HTTP, waiting times scaled down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from reconciler.bootstrap import Parts
from reconciler.domain.model import Trigger
from reconciler.domain.observations import DeliveryPostponed, Unreachable
from reconciler.media.fetch import FetchTimeouts
from reconciler.simulator import MediaSpec
from reconciler.worker.capacity.transfer_speeds import TransferSpeeds
from testkit.waiting import until
from tests.wire import Answer, Origin, ok, origin
from tests.worker.rig import Rig

SILENT_ROWS = 60
VEO = "/api/v1/veo/record-info"
RESTING = "SELECT count(*) FROM reconciler.work WHERE why LIKE 'fetch: host_silent%' AND misses = 0 AND lease IS NULL"


@dataclass
class Hosts:
    """A KIE whose tasks have all ended, a host that gives their results, and one that says nothing until `speaks`.

    The results of a task lie on the host that its id begins with. `hanging` are the paths of KIE that say nothing.
    """

    kie: Origin
    good: Origin
    silent: Origin
    speaks: asyncio.Event
    hanging: set[str] = field(default_factory=set)
    slow: set[str] = field(default_factory=set)

    def downloads(self, name: str) -> int:
        return sum(f"/{name}.png " in head for head in self.good.heads)


def png() -> bytes:
    return b"".join(bytes(chunk) for chunk in MediaSpec(size=3_000).chunks("t", 0))


@asynccontextmanager
async def opened_hosts() -> AsyncIterator[Hosts]:
    speaks, body = asyncio.Event(), png()
    made: Hosts

    async def record(writer: asyncio.StreamWriter, head: str) -> None:
        path, _, query = head.split(" ", 2)[1].partition("?")
        if path in made.hanging:
            await speaks.wait()
        task = query.partition("taskId=")[2]
        host = made.silent if task.startswith("silent") else made.good
        urls = [f"{host.url}/{task}.png"]
        data: dict[str, object] = {"taskId": task, "state": "success", "resultJson": json.dumps({"resultUrls": urls})}
        if path == VEO:
            data = {"taskId": task, "successFlag": 1, "response": {"resultUrls": urls}}
        writer.write(ok(json.dumps({"code": 200, "msg": "success", "data": data}).encode()))

    async def file(writer: asyncio.StreamWriter, head: str) -> None:
        if any(f"/{name}.png " in head for name in made.slow):
            whole = ok(body)
            writer.write(whole[:-1000])
            await writer.drain()
            await speaks.wait()
            writer.write(whole[-1000:])
        else:
            writer.write(ok(body))

    async def nothing(writer: asyncio.StreamWriter, head: str) -> None:
        await speaks.wait()
        await file(writer, head)

    async with AsyncExitStack() as stack:
        answers: tuple[Answer, ...] = (record, file, nothing)
        kie, good, silent = [await stack.enter_async_context(origin(answer)) for answer in answers]
        made = Hosts(kie, good, silent, speaks)
        yield made


@pytest.fixture
async def hosts() -> AsyncIterator[Hosts]:
    async with opened_hosts() as hosts:
        yield hosts


@asynccontextmanager
async def instance(rig: Rig, hosts: Hosts, *, silence: float = 0.5, **changes: str) -> AsyncIterator[Parts]:
    """An instance that gives a silent host up after `silence` seconds, and finds a transfer slow after 0.2."""
    settings = {"KIE_MARKET_BASE_URL": hosts.kie.url, "RECONCILER_RESULT_HOSTS": "*", **changes}
    async with rig.instance(**settings) as built:
        built.deliverer.fetcher.timeouts = FetchTimeouts(idle=silence)
        built.deliverer.speeds = TransferSpeeds(slow_after=0.2)
        yield built


async def ordered(rig: Rig, built: Parts, *names: str, **columns: str) -> list[str]:
    """Insert rows of these tasks and wake them."""
    ids = [await rig.insert(name, **columns) for name in names]
    for generation_id in ids:
        built.worker.wake(generation_id)
    return ids


async def given(rig: Rig, folder: str) -> None:
    """Note for every row that KIE has given the address of its result, in this folder."""
    await rig.pool.execute(
        """UPDATE reconciler.work SET sources = ARRAY[$1 || seen_task || '.png'], looks = 1, looked_at = now(),
                  acknowledged_at = now(), answered_at = now(), completed_at = now()""",
        folder,
    )


def numbers(rig: Rig, statement: str, least: int) -> Callable[[], Awaitable[bool]]:
    async def reached() -> bool:
        return int(await rig.pool.fetchval(statement)) >= least

    return reached


async def test_n2_results_on_a_silent_host_do_not_delay_those_on_another_host(rig: Rig, hosts: Hosts) -> None:
    async with instance(rig, hosts) as built, rig.working(built):
        await ordered(rig, built, *[f"silent-{n}" for n in range(SILENT_ROWS)])
        await until(lambda: len(hosts.silent.heads) >= 8, what="every slot asks the silent host")
        good = await ordered(rig, built, *[f"good-{n}" for n in range(8)])
        for generation_id in good:
            await rig.delivered(generation_id, within=30)
        # Without the breaker each of the sixty is asked for, eight at once, before the good ones.
        assert len(hosts.silent.heads) < SILENT_ROWS / 2
        await until(lambda: built.deliverer.breakers.is_open(hosts.silent.url[7:]), what="the breaker opens")
        await until(numbers(rig, RESTING, 40), within=30, what="the rows of the silent host rest")
        assert sum("taskId=silent" in head for head in hosts.kie.heads) <= SILENT_ROWS + 12


@pytest.mark.soak
async def test_n2_the_rows_of_a_silent_host_are_delivered_once_it_speaks(rig: Rig, hosts: Hosts) -> None:
    async with instance(rig, hosts) as built, rig.working(built):
        ids = await ordered(rig, built, *[f"silent-{n}" for n in range(30)])
        await until(numbers(rig, RESTING, 10), within=30, what="the rows rest")
        hosts.speaks.set()
        for generation_id in ids:
            await rig.delivered(generation_id, within=60)
        assert not built.deliverer.breakers.is_open(hosts.silent.url[7:])


async def test_n2_eight_slow_downloads_do_not_stop_good_ones_of_the_same_host(rig: Rig, hosts: Hosts) -> None:
    hosts.slow = {f"slow-{n}" for n in range(8)}
    async with instance(rig, hosts, silence=60.0) as built, rig.working(built):
        slow = await ordered(rig, built, *hosts.slow)
        await until(lambda: len(built.deliverer.transfers) == 8, what="eight slow downloads")
        good = await ordered(rig, built, *[f"good-{n}" for n in range(8)])
        for generation_id in good:
            await rig.delivered(generation_id, within=30)
        assert not any([(await rig.books.generation(one))["status"] == "success" for one in slow])
        assert built.deliverer.slots.aside > 0
        hosts.speaks.set()
        for generation_id in slow:
            await rig.delivered(generation_id, within=30)
        # None of them was begun anew.
        assert [hosts.downloads(name) for name in hosts.slow] == [1] * 8


async def test_n2_a_page_of_kie_that_hangs_does_not_delay_the_rows_of_another_page(
    rig: Rig, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.bootstrap.ANSWER_SECONDS", 1.0)
    hosts.hanging = {VEO}
    async with instance(rig, hosts, RECONCILER_POLL_RATE="20") as built, rig.working(built):
        await ordered(rig, built, *[f"veo-{n}" for n in range(200)], kind="video", model_key="veo3")
        await until(lambda: len(hosts.kie.heads) >= 20, what="requests that hang")
        good = await ordered(rig, built, *[f"good-{n}" for n in range(8)])
        for generation_id in good:
            await rig.delivered(generation_id, within=30)
        assert sum("taskId=veo" in head for head in hosts.kie.heads) < 100
        await until(lambda: built.worker.visitor.poller.breakers.is_open(VEO), what="the breaker of the page opens")


async def test_n2_thousands_of_due_rows_on_a_silent_host_keep_no_new_row_waiting(rig: Rig, hosts: Hosts) -> None:
    async with instance(rig, hosts) as built:
        await rig.pool.execute(
            """INSERT INTO public.generations (status, task_id, kind, created_at)
               SELECT 'generating', 'silent-' || n, 'image', now() - interval '1 hour'
                 FROM generate_series(1, 3000) n"""
        )
        assert await built.claims.discover() == 3000
        await given(rig, f"{hosts.silent.url}/")
        async with rig.working(built):
            await until(lambda: built.deliverer.breakers.is_open(hosts.silent.url[7:]), what="the breaker opens")
            for n in range(5):
                (woken,) = await ordered(rig, built, f"good-{n}")
                await rig.delivered(woken, within=30)
            resting = await rig.pool.fetchval(RESTING)
            due = await rig.insert("good-due")
            await built.claims.discover()
            built.worker.stir()
            await rig.delivered(due, within=30)
            assert resting < 3000
        # KIE had given every address: it was asked about the good rows only.
        assert not any("taskId=silent" in head for head in hosts.kie.heads)


async def test_n2_no_more_due_rows_are_held_than_there_is_room_for(rig: Rig, hosts: Hosts) -> None:
    names = [f"slow-{n}" for n in range(60)]
    hosts.slow = set(names)
    most = 0
    async with instance(rig, hosts, silence=60.0, RECONCILER_CONCURRENCY="2") as built:
        ids = [await rig.insert(name) for name in names]
        await built.claims.discover()
        await given(rig, f"{hosts.good.url}/")
        # No request to KIE is to spare, so nothing is claimed beyond the room.
        built.worker.request_gap = 60.0
        async with rig.working(built):

            async def some_went_back() -> bool:
                nonlocal most
                most = max(most, built.worker.in_hand)
                went = "SELECT count(*) FROM reconciler.work WHERE why LIKE 'fetch: no_room%' AND misses = 0"
                return bool(await rig.pool.fetchval(went))

            await until(some_went_back, within=30, what="a row goes back")
            hosts.speaks.set()
            for generation_id in ids:
                await rig.delivered(generation_id, within=60)
    # Two that deliver, at most two beside them, two that wait, one beyond, and those of one claim.
    assert most <= 12


async def test_a_row_that_finds_no_slot_goes_back_with_its_addresses_and_without_a_failure(
    rig: Rig, hosts: Hosts
) -> None:
    async with instance(rig, hosts, RECONCILER_CONCURRENCY="1") as built:
        generation_id = await rig.insert("good-1")
        async with built.deliverer.slots.hold("another host"):
            built.deliverer.slots._patience = 0.05
            visited = await rig.visit(built, generation_id, Trigger.CALLBACK)
        assert isinstance(visited.observation, DeliveryPostponed)
        work = await rig.books.work(generation_id)
        assert work is not None
        assert (work["misses"], work["lease"], work["why"]) == (0, None, "fetch: no_room, no slot is free for it")
        assert list(work["sources"]) == [f"{hosts.good.url}/good-1.png"]
        await rig.visit(built, generation_id)
        await rig.delivered(generation_id)
        assert len(hosts.kie.heads) == 1


async def test_a_result_on_a_host_that_speaks_does_not_wait_for_one_on_a_silent_host(rig: Rig, hosts: Hosts) -> None:
    async with instance(rig, hosts) as built:
        for attempt in [built.deliverer.breakers.attempt(hosts.silent.url[7:], name) for name in "abc"]:
            attempt.silent()
        generation_id = await rig.insert("good-1")
        visited = await rig.visit(built, generation_id)
        await rig.delivered(generation_id)
        await rig.pool.execute("UPDATE public.generations SET status = 'generating', task_id = 'both'")
        await rig.pool.execute(
            """UPDATE reconciler.work SET seen_task = 'both', results_task = NULL, acknowledged_at = now(),
                      looks = 1, delivered_at = NULL, shown = NULL, sources = $1""",
            [f"{hosts.silent.url}/both.png", f"{hosts.good.url}/both.png"],
        )
        visited = await rig.visit(built, generation_id)
        assert isinstance(visited.observation, DeliveryPostponed)
        assert len(visited.observation.assets) == 1
        assert hosts.silent.heads == []
        # What is left lies on the silent host only: nothing is fetched again.
        before = len(hosts.good.heads)
        assert isinstance((await rig.visit(built, generation_id)).observation, DeliveryPostponed)
        assert len(hosts.good.heads) == before


async def test_our_own_end_and_a_lost_lease_open_no_breaker(rig: Rig, hosts: Hosts) -> None:
    async with instance(rig, hosts, silence=60.0) as built:
        async with rig.working(built):
            await ordered(rig, built, *[f"silent-{n}" for n in range(8)])
            await until(lambda: len(hosts.silent.heads) == 8, what="eight downloads")
        assert not built.deliverer.breakers.is_open(hosts.silent.url[7:])
        assert built.deliverer.slots.free == 8


async def test_while_a_page_of_kie_is_silent_its_rows_rest_without_a_failure_and_callbacks_can_be_trusted(
    rig: Rig, hosts: Hosts
) -> None:
    async with instance(rig, hosts) as built:
        breakers = built.worker.visitor.poller.breakers
        for attempt in [breakers.attempt("/api/v1/jobs/recordInfo", name) for name in "abc"]:
            attempt.silent()
        generation_id = await rig.insert("good-1")
        visited = await rig.visit(built, generation_id)
        assert isinstance(visited.observation, Unreachable)
        assert visited.observation.silent_for is not None
        work = await rig.books.work(generation_id)
        assert work is not None
        assert (work["misses"], work["looks"], hosts.kie.heads) == (0, 0, [])
        assert work["why"].startswith("KIE: path_silent, the page of KIE /api/v1/jobs/recordInfo says nothing")
