"""Who fails is who is blamed: each party fails in each of its ways, and no other finding opens than its own.

Each cell makes three paid rows, lets one party fail, visits each row three times, and reads the findings of the whole
table. Then the party works again: every row is delivered, and no finding stays open.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import pytest

from reconciler.bootstrap import Parts
from reconciler.domain.findings.findings import Finding, FindingThresholds, findings
from reconciler.domain.model import Finish
from reconciler.media.fetch import FetchTimeouts
from reconciler.storage import tus
from testkit.standins.storage import Fault
from tests.worker.rig import Rig
from tests.worker.visit.test_visit_refused import STOP_REFUSING, refusing

ROWS, VISITS = 3, 3
SOON = 0.3
"""Seconds after which a cell's requests time out."""

Fails = Callable[[Rig, Parts], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Cell:
    """One party that fails in one way: how, the finding that opens, and a word of what it must say.

    `rig` is the rig on which it happens, `settings` are those of the instance. Where `heals` is false the rows are not
    delivered by the first visit after it: the key rests, or the rows keep addresses at a port that nobody has.
    """

    fails: Fails
    finding: str | None
    said: str = ""
    rig: str = "supabase_rig"
    settings: Mapping[str, str] = field(default_factory=dict)
    heals: bool = True


def kie(*faults: str) -> Fails:
    """The simulated KIE fails so until the end of the cell."""

    @asynccontextmanager
    async def fails(rig: Rig, parts: Parts) -> AsyncIterator[None]:
        parts.kie._timeout = SOON
        parts.deliverer.fetcher.timeouts = FetchTimeouts(idle=SOON, start=SOON)
        for fault in faults:
            rig.kie.strike(fault, times=math.inf)
        yield
        rig.kie.calm()

    return fails


def storage(fault: Fault, *operations: str) -> Fails:
    """The stand-in for storage fails so, at these operations."""

    @asynccontextmanager
    async def fails(rig: Rig, parts: Parts) -> AsyncIterator[None]:
        assert rig.storage is not None
        rig.storage.faults.roll = lambda operation, path: fault if operation in (operations or ("put",)) else None
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(tus, "TIMEOUT", SOON)
            yield
        rig.storage.faults.clear()

    return fails


@asynccontextmanager
async def refused(rig: Rig, parts: Parts, *, what: str) -> AsyncIterator[None]:
    """Nobody listens any more where this part of the world was."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"localhost:{free.getsockname()[1]}"
    with pytest.MonkeyPatch.context() as patched:
        if what == "kie":
            patched.setattr(parts.kie, "_base", f"http://{nobody}")
        elif what == "storage":
            patched.setattr(parts.store, "_objects", f"http://{nobody}/storage/v1/object/generations")
        else:
            patched.setattr(rig.kie, "origin", f"http://{nobody}")
        yield


@asynccontextmanager
async def private_bucket_rules(rig: Rig, parts: Parts, *, types: list[str]) -> AsyncIterator[None]:
    """The bucket takes other types only."""
    assert rig.storage is not None
    rig.storage.buckets["generations"].allowed_mime_types = types
    yield
    rig.storage.buckets["generations"].allowed_mime_types = None


@asynccontextmanager
async def full_disk(rig: Rig, parts: Parts) -> AsyncIterator[None]:
    """The disk of the local folder is full."""

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", full)
        yield


@asynccontextmanager
async def lost_folder(rig: Rig, parts: Parts) -> AsyncIterator[None]:
    """The disk of the local folder is not mounted any more."""
    shutil.rmtree(rig.folder / "stored")
    yield


@asynccontextmanager
async def table_refuses(rig: Rig, parts: Parts) -> AsyncIterator[None]:
    """A trigger of the application's table raises at every success."""
    await refusing(rig, "success")
    yield
    await rig.pool.execute(STOP_REFUSING)


@asynccontextmanager
async def nothing(rig: Rig, parts: Parts) -> AsyncIterator[None]:
    """Everybody works; what is wrong is a setting of ours."""
    yield


UNLISTED = {"RECONCILER_RESULT_HOSTS": "aiquickdraw.com"}
SMALL = {"RECONCILER_MAX_ASSET_BYTES": "10"}

CELLS = {
    # KIE's API
    "KIE refuses connections": Cell(partial(refused, what="kie"), "provider_silent", "path_silent"),
    "KIE times out": Cell(kie("record.hang"), "provider_silent", "path_silent"),
    "KIE resets": Cell(kie("record.reset"), "provider_silent", "path_silent"),
    "KIE answers 403": Cell(kie("record.http_403"), "provider_silent", "blocked"),
    "KIE answers 500": Cell(kie("record.http_500"), "provider_silent", "server_error"),
    "KIE answers 500 in a body": Cell(kie("record.body_500"), "provider_silent", "server_error"),
    "KIE's gateway answers 502": Cell(kie("record.html_502"), "provider_silent", "HTTP 502"),
    "KIE's gateway answers 520": Cell(kie("record.html_520"), "provider_silent", "HTTP 520"),
    "KIE is being maintained": Cell(kie("record.body_455"), "provider_silent", "maintenance"),
    "KIE's upstream is silent": Cell(kie("record.body_408"), "provider_silent", "upstream_silent"),
    "KIE sends half an answer": Cell(kie("record.truncated"), "provider_silent", "not_json"),
    "KIE sends a bare list": Cell(kie("record.bare_list"), "provider_silent", "bad_envelope"),
    "KIE sends an unknown state": Cell(kie("record.unknown_state"), "provider_silent", "unknown_state"),
    "KIE asks for patience": Cell(kie("record.http_429"), None, heals=False),
    "KIE has nothing yet": Cell(kie("record.null"), None),
    # our key, our account
    "our key is rejected": Cell(kie("record.http_401"), "key_rejected", "rejects an API key"),
    "our key is rejected in a body": Cell(kie("record.body_401"), "key_rejected", "rejects an API key"),
    "our account is empty": Cell(kie("record.body_402"), "unpaid_account", "no credits"),
    "our key's cap is reached": Cell(kie("record.body_433"), "unpaid_account", "cap"),
    # the hosts of results, and what lies there
    "the host refuses connections": Cell(partial(refused, what="host"), "source_failing", "host_silent", heals=False),
    "the host times out": Cell(kie("file.hang"), "source_failing", "host_silent"),
    "the host resets": Cell(kie("file.reset"), "source_failing", "fetch: "),
    "the host answers 500": Cell(kie("file.500"), "source_failing", "http_5xx"),
    "the host breaks off": Cell(kie("file.short"), "source_failing", "short"),
    "the file is gone": Cell(kie("file.404", "link.body_422"), "source_failing", "http_404"),
    "the file is forbidden": Cell(kie("file.403", "link.body_500"), "source_failing", "http_403"),
    "the file is empty": Cell(kie("file.empty"), "source_failing", "empty"),
    "the file is a page": Cell(kie("file.html"), "source_failing", "not_media"),
    # our storage
    "storage refuses connections": Cell(partial(refused, what="storage"), "storage_failing", "network"),
    "storage times out": Cell(storage(Fault("stall")), "storage_failing", "timeout"),
    "storage cuts": Cell(storage(Fault("cut", after=10)), "storage_failing", "network"),
    "storage wants money": Cell(storage(Fault("error", status=402)), "storage_failing", "402"),
    "storage fails": Cell(storage(Fault("error", status=500)), "storage_failing", "500"),
    "storage is paused": Cell(storage(Fault("error", status=540)), "storage_failing", "540"),
    "storage's database times out": Cell(storage(Fault("error", status=544)), "storage_failing", "544"),
    "storage's gateway answers 502": Cell(storage(Fault("html", status=502)), "storage_failing", "502"),
    "storage's gateway answers 503": Cell(storage(Fault("html", status=503)), "storage_failing", "503"),
    "storage's gateway knows no route": Cell(storage(Fault("no_route")), "storage_failing", "not_json"),
    "storage is busy": Cell(storage(Fault("limited", seconds=1)), "storage_failing", "busy"),
    "storage answers garbage": Cell(storage(Fault("garbage")), "storage_failing", "not_json"),
    "storage cannot tell what it holds": Cell(storage(Fault("html", status=504), "info"), "storage_failing", "prove"),
    "the bucket refuses the type": Cell(partial(private_bucket_rules, types=["video/mp4"]), "storage_refuses"),
    "the local disk is full": Cell(full_disk, "storage_failing", "full", rig="rig"),
    "the local folder is away": Cell(lost_folder, "storage_failing", "storage_disk", rig="rig"),
    # the application's table and hooks
    "the table refuses the success": Cell(table_refuses, "row_refused", rig="own_rig"),
    # ourselves
    "our list lacks the host": Cell(nothing, "host_unlisted", settings=UNLISTED),
    "our limit is too small": Cell(nothing, "over_limit", settings=SMALL),
}


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Rig:
    """The rig that a cell wants."""
    return cast("Rig", request.getfixturevalue(request.param))


@pytest.mark.sample(12)
@pytest.mark.parametrize(
    ("world", "cell"), [pytest.param(cell.rig, cell, id=name) for name, cell in CELLS.items()], indirect=["world"]
)
async def test_who_fails_is_who_is_blamed(world: Rig, cell: Cell) -> None:
    rig = world
    ids = [await rig.order() for _ in range(ROWS)]
    async with rig.instance(**cell.settings) as parts, cell.fails(rig, parts):
        for _ in range(VISITS):
            for generation_id in ids:
                await rig.visit(parts, generation_id)
        opened = await open_findings(parts)
    assert set(opened) == ({cell.finding} if cell.finding else set())
    if cell.finding:
        assert opened[cell.finding].count == ROWS
        assert cell.said in opened[cell.finding].says
    if cell.heals:
        await all_is_well_again(rig, ids)


async def open_findings(parts: Parts) -> dict[str, Finding]:
    """The findings of the whole table."""
    # This instance writes no heartbeat.
    snapshot = replace(await parts.reports.snapshot(), instances=1)
    return {one.name: one for one in findings(snapshot, FindingThresholds())}


async def all_is_well_again(rig: Rig, ids: list[str]) -> None:
    """Let a new instance deliver every row; no finding stays."""
    async with rig.instance() as parts:
        for generation_id in ids:
            assert isinstance((await rig.visit(parts, generation_id)).decision, Finish)
        assert await open_findings(parts) == {}


async def test_one_missed_poll_after_failed_uploads_leaves_the_blame_with_storage(supabase_rig: Rig) -> None:
    """After every third failure KIE is asked for new addresses: that it then misses once does not make it silent."""
    rig = supabase_rig
    ids = [await rig.order() for _ in range(ROWS)]
    async with rig.instance() as parts, storage(Fault("html", status=503))(rig, parts):
        for generation_id in ids * VISITS:
            await rig.visit(parts, generation_id)
        async with kie("record.http_500")(rig, parts):
            reasons = [(await rig.visit(parts, generation_id)).row.reason for generation_id in ids]
            opened = await open_findings(parts)
    assert [reason and reason.partition(",")[0] for reason in reasons] == ["KIE: server_error"] * ROWS
    assert set(opened) == {"storage_failing"}
    assert "store: storage_5xx, storage failed: 503" in opened["storage_failing"].says


async def test_a_hook_that_throws_is_the_applications_failure(own_rig: Rig) -> None:
    await own_rig.pool.execute(
        """CREATE FUNCTION reconciler.on_failed(generation uuid, reason text) RETURNS void LANGUAGE plpgsql AS
           $$ BEGIN RAISE EXCEPTION 'no wallet'; END $$"""
    )
    ids = [await own_rig.order(fate="fail") for _ in range(ROWS)]
    async with own_rig.instance() as parts:
        for generation_id in ids * VISITS:
            await own_rig.visit(parts, generation_id)
        opened = await open_findings(parts)
        assert {name: one.count for name, one in opened.items()} == {"hook_failed": ROWS}


async def test_rows_that_the_application_cancels_leave_their_finding_at_once(supabase_rig: Rig) -> None:
    rig = supabase_rig
    ids = [await rig.order() for _ in range(ROWS)]
    async with rig.instance() as parts, storage(Fault("html", status=503))(rig, parts):
        for generation_id in ids * VISITS:
            await rig.visit(parts, generation_id)
        assert set(await open_findings(parts)) == {"storage_failing"}
        await rig.pool.execute("UPDATE public.generations SET status = 'cancelled'")
        assert await open_findings(parts) == {}
