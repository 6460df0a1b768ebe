"""Faults occur as ordered and as often as ordered, and random ones never occur forever."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import aiohttp
import pytest

from reconciler.domain.observations import Ready, TaskUnknown, Unreachable, Unreadable
from reconciler.errors import Gone, Permanent, Transient
from reconciler.kie.dialects import by_name, judge
from reconciler.media.fetch import Fetcher
from reconciler.media.spool import SpoolDirectory
from reconciler.net.http_clients import media_session
from reconciler.simulator import Fault, MediaSpec, Simulator
from reconciler.simulator.faults import FAULTS, PLACES, RANDOM_FAULTS
from reconciler.simulator.records.dialects import DIALECTS
from tests.simulator.client import Asking, addresses, asking

T = TypeVar("T")
AGAIN = 2
"""aiohttp retries a GET once by itself if its connection was cut before an answer."""
CUT = {"reset", "hang"}
HARMLESS = {"code_zero", "code_string"}
NULL = {"null", "body_404", "http_404", "body_422"}


async def look(ask: Asking, task: str) -> object:
    """Return the observation in the answer to a poll."""
    family = by_name("market")
    assert family is not None
    address = f"{ask.kie.url}{family.path}?taskId={task}"
    async with ask.session.get(address) as answer:
        raw = await answer.read()
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        return judge(family, answer.status, body)


@pytest.mark.parametrize("what", sorted(FAULTS["record"]))
async def test_a_faulty_record_is_never_taken_for_a_failure_and_the_next_one_is_good(what: str) -> None:
    async with Simulator(hang_seconds=0.05) as kie, asking(kie) as ask:
        task = kie.add_task(faults=[Fault(f"record.{what}", times=AGAIN if what in CUT else 1)])
        if what in CUT:
            with pytest.raises(aiohttp.ClientError):
                await look(ask, task)
        else:
            seen = await look(ask, task)
            expected = Ready if what in HARMLESS else TaskUnknown if what in NULL else Unreachable
            assert isinstance(seen, expected), seen
        assert isinstance(await look(ask, task), Ready)
        assert kie.tasks[task].faults[0].times == 0


@pytest.mark.parametrize(("what", "expected"), [("invalid_json", Unreadable), ("object", Ready), ("empty", Ready)])
async def test_a_faulty_result_occurs_once(what: str, expected: type) -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task()
        kie.strike(f"result.{what}", task=task)
        seen = await look(ask, task)
        assert isinstance(seen, expected)
        assert addresses(seen) == (kie.addresses(kie.tasks[task]) if what == "object" else [])
        assert addresses(await look(ask, task))


FILES = {
    "403": Gone, "404": Gone, "500": Transient, "empty": Transient, "short": Transient, "wrong_length": Transient,
    "html": Transient, "reset": Transient, "hang": Transient, "loop": Permanent,
    "slow": None, "wrong_type": None, "redirect": None, "no_length": None,
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(FAULTS["file"]))
async def test_a_faulty_file_is_noticed_and_the_next_one_is_whole(what: str, tmp_path: Path) -> None:
    async with (
        Simulator(hang_seconds=0.05, slow_seconds=0.1) as kie,
        media_session(allow_private=True, slots=2) as http,
    ):
        room, error = SpoolDirectory(tmp_path / "spool", 1 << 24), FILES[what]
        fetcher = Fetcher(http, hosts=("*",), max_bytes=1 << 24, allow_private=True)
        task = kie.add_task(
            results=[MediaSpec(size=300_000)], faults=[Fault(f"file.{what}", times=math.inf if error else 1)]
        )
        address = kie.addresses(kie.tasks[task])[0]
        if error is not None:
            async with room.spool() as spool:
                with pytest.raises(error):
                    await fetcher.fetch(address, spool)
            kie.calm()
        async with room.spool() as spool:
            await fetcher.fetch(address, spool)
            assert (spool.size, spool.sha256) == (300_000, kie.sha256(task))


async def test_a_cut_connection_is_reset_and_not_just_closed() -> None:
    async with Simulator() as kie:
        path = f"/api/v1/jobs/recordInfo?taskId={kie.add_task(faults=[Fault('record.reset')])}"
        reader, writer = await asyncio.open_connection(kie.host, kie.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: kie\r\nAuthorization: Bearer k\r\n\r\n".encode())
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_a_create_can_be_accepted_and_its_answer_lost() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        kie.strike("create.lost")
        with pytest.raises(aiohttp.ClientError):
            await ask.post("/api/v1/jobs/createTask", {"model": "m", "input": {}})
        assert (len(kie.tasks), kie.counts.creates) == (1, 1)
        kie.strike("create.reset")
        with pytest.raises(aiohttp.ClientError):
            await ask.post("/api/v1/jobs/createTask", {"model": "m", "input": {}})
        assert (len(kie.tasks), kie.counts.creates) == (1, 1)


async def test_an_outage_lasts_until_calm_is_called() -> None:
    async with Simulator(limits=False) as kie, asking(kie) as ask:
        tasks = [kie.add_task() for _ in range(3)]
        kie.strike("record.html_502", times=math.inf)
        for task in tasks * 2:
            assert isinstance(await look(ask, task), Unreachable)
        kie.calm()
        for task in tasks:
            assert isinstance(await look(ask, task), Ready)


async def test_a_fault_can_be_ordered_for_one_result_of_many() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task(results=[MediaSpec(), MediaSpec()], faults=[Fault("file.404", n=1)])
        for address, status in zip(kie.addresses(kie.tasks[task]), (200, 404), strict=True):
            async with ask.session.get(address) as answer:
                assert answer.status == status


def test_an_unknown_fault_is_refused_where_it_is_ordered() -> None:
    for name in ("record.flood", "weather.rain", "record"):
        with pytest.raises(ValueError, match=name):
            Fault(name)


def test_random_faults_hit_a_third_of_all_and_each_task_a_limited_number_of_times() -> None:
    kie = Simulator(seed=3, faults=1 / 3, fault_times=2)
    struck = []
    for _ in range(600):
        task = kie.tasks[kie.add_task()]
        strikes = [kie.fault("record", task) for _ in range(40)]
        assert sum(what is not None for what in strikes) == 2
        struck.append(strikes[0] is not None)
    assert 0.27 < sum(struck) / len(struck) < 0.40


def test_random_faults_depend_on_the_seed_and_are_all_known() -> None:
    def strikes(seed: int) -> list[str | None]:
        kie = Simulator(seed=seed, faults=0.5, fault_times=100)
        task = kie.tasks[kie.add_task(task_id="one")]
        return [kie.fault(stage, task, 0) for stage in RANDOM_FAULTS for _ in range(20)]

    assert strikes(1) == strikes(1) != strikes(2)
    assert all(set(names) <= FAULTS[stage] for stage, names in RANDOM_FAULTS.items())
    assert {name for names in PLACES.values() for name in names} == FAULTS["place"]
    assert set(PLACES) <= set(DIALECTS)


def test_random_results_are_late_or_misplaced_for_a_third_of_all_tasks_and_only_for_seconds() -> None:
    kie = Simulator(seed=3, faults=1 / 3)
    families = ["market", "veo", "suno", "suno_stems", "luma"] * 120
    tasks = [kie.tasks[kie.add_task(family=family)] for family in families]
    for stage, possible in (("late", 600), ("place", 480)):
        drawn = [fault for task in tasks for fault in task.faults if fault.stage == stage]
        assert 0.27 < len(drawn) / possible < 0.40
        assert sum(kie.counts.faults[name] for name in {fault.name for fault in drawn}) == len(drawn)
    late = [fault for task in tasks for fault in task.faults if fault.stage == "late"]
    assert {fault.what for fault in late} == {"hole", "empty"}
    assert all(2 <= fault.seconds <= 20 for fault in late)
    assert not any(fault.stage == "place" for task in tasks if task.family == "luma" for fault in task.faults)


def test_a_task_with_a_fault_of_its_own_draws_no_other_of_that_stage() -> None:
    kie = Simulator(seed=3, faults=1.0)
    (late,) = [f for f in kie.tasks[kie.add_task(faults=[Fault("late.growing")])].faults if f.stage == "late"]
    assert late.what == "growing"


async def test_everything_arrives_although_a_third_of_all_requests_fail(tmp_path: Path) -> None:
    quick = {"slow_seconds": 0.02, "limits": False}
    async with Simulator(seed=5, faults=1 / 3, **quick) as kie, asking(kie) as ask:
        async with media_session(allow_private=True, slots=2) as http:
            room = SpoolDirectory(tmp_path / "spool", 1 << 24)
            fetcher = Fetcher(http, hosts=("*",), max_bytes=1 << 24, allow_private=True)
            for _ in range(30):
                task = kie.add_task()
                (source,) = await persist(lambda task=task: sources(ask, task))
                assert await persist(lambda source=source: bring(fetcher, room, source)) == kie.sha256(task)
        assert kie.counts.faults.total() > 20


async def sources(ask: Asking, task: str) -> list[str]:
    found = addresses(await look(ask, task))
    # What is late comes by the clock.
    ask.kie.skip(10)
    return found


async def bring(fetcher: Fetcher, room: SpoolDirectory, source: str) -> str:
    async with room.spool() as spool:
        await fetcher.fetch(source, spool)
        return spool.sha256


async def persist(attempt: Callable[[], Awaitable[T]]) -> T:
    """Retry an attempt until it succeeds: a task and a file each fail a limited number of times."""
    for _ in range(6):
        try:
            if brought := await attempt():
                return brought
        except (aiohttp.ClientError, Gone, Transient):
            continue
    raise AssertionError("it went wrong more often than it may")
