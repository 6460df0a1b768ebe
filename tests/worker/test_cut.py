"""The database is cut off at every statement of a visit, and another instance continues: same end, written once.

Each visit first runs whole to count its statements, then once for every statement and both ways of cutting.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from reconciler.domain.model import Trigger
from reconciler.errors import LeaseLost, Transient
from reconciler.simulator import Failure, Fault, MediaSpec, TaskSpec, never
from reconciler.simulator.api.callback_bodies import callback_body
from reconciler.simulator.records.snapshots import take_snapshot
from tests.worker.cuts import Cut, through
from tests.worker.rig import Rig, opened_rig

HOOK = """
CREATE TABLE public.refunds (generation_id uuid);
CREATE FUNCTION reconciler.on_failed(generation uuid, reason text) RETURNS void LANGUAGE sql AS
$$ INSERT INTO public.refunds VALUES (generation) $$;
CREATE TABLE public.written (id uuid, was text, is_now text);
CREATE FUNCTION public.watch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.written VALUES (NEW.id, OLD.status, NEW.status);
    RETURN NULL;
END
$$;
CREATE TRIGGER watched AFTER UPDATE ON public.generations FOR EACH ROW EXECUTE FUNCTION public.watch();
"""
CALLBACK = "https://app.example/api/kie/callback"
DAY = 86_400.0
PNG = MediaSpec(size=4_000)
FILM = MediaSpec("video", "mp4", size=(6 << 20) + 5_000)

KINDS: Mapping[str, tuple[TaskSpec, float, str]] = {
    "delivered": ({"results": (PNG, MediaSpec(ext="webp", size=5_000))}, 0.0, "queued"),
    "film": ({"results": (FILM,)}, 0.0, "queued"),
    "healed": ({"results": (PNG,)}, 0.0, "success"),
    "refused": ({"fate": "fail", "failure": Failure()}, 0.0, "queued"),
    "begun": ({"life": never("generating")}, 0.0, "queued"),
    "given up": ({"life": never()}, DAY + 60, "queued"),
    "unanswered": ({"life": never("null")}, 0.0, "queued"),
    "adopted": ({"results": (PNG,)}, 0.0, "queued"),
    "believed": ({"results": (PNG,), "faults": [Fault("record.http_500", math.inf)]}, 0.0, "queued"),
}
ENDS: Mapping[str, tuple[str, list[str], list[tuple[str, str]]]] = {
    "delivered": ("success", ["succeeded"], [("queued", "success")]),
    "film": ("success", ["succeeded"], [("queued", "success")]),
    "healed": ("success", ["healed"], [("success", "success")]),
    "refused": ("failed", ["failed"], [("queued", "failed")]),
    "begun": ("generating", [], [("queued", "generating")]),
    "given up": ("failed", ["gave_up"], [("queued", "failed")]),
    "unanswered": ("queued", [], []),
    "adopted": ("success", ["succeeded"], [("queued", "generating"), ("generating", "success")]),
    "believed": ("success", ["succeeded"], [("queued", "success")]),
}


@pytest.fixture
async def own_rig(dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with opened_rig(dsn, tmp_path) as rig:
        await rig.pool.execute(HOOK)
        yield rig


async def ordered(rig: Rig, kind: str) -> str:
    """The row that is visited; only a callback knows the task of `adopted` and the end of `believed`."""
    order, age, status = KINDS[kind]
    if kind == "adopted":
        generation_id = await rig.insert(None, status=status, age=age)
        await store_callback(
            rig, rig.kie.add_task(callback_url=f"{CALLBACK}?generation={generation_id}", **order), generation_id
        )
        return generation_id
    task_id = rig.kie.add_task(**order)
    generation_id = await rig.insert(task_id, status=status, age=age)
    if kind == "believed":
        await store_callback(rig, task_id, None)
        sql = """INSERT INTO reconciler.work
                        (generation_id, seen_task, results_task, seen_status, due_at, looks, misses, failing_since)
                 VALUES ($1, $2, $2, $3, now(), 2, 2, now() - interval '1 minute')"""
        await rig.pool.execute(sql, generation_id, task_id, status)
    return generation_id


async def store_callback(rig: Rig, task_id: str, generation_id: str | None) -> None:
    """Store KIE's callback about a finished task."""
    body = json.dumps(callback_body(take_snapshot(rig.kie, rig.kie.tasks[task_id], "success")))
    sql = "INSERT INTO reconciler.callbacks (task_id, generation_id, body) VALUES ($1, $2, $3)"
    await rig.pool.execute(sql, task_id, generation_id, body)


async def cut_visit(rig: Rig, generation_id: str, cut: Cut, patch: pytest.MonkeyPatch) -> None:
    """Visit once with an instance that dies at the cut, and end its lease."""
    with patch.context() as patched:
        through(cut, patched)
        async with rig.instance() as parts:
            cut.counting = True
            try:
                await parts.worker.once(generation_id, Trigger.SYNC)
            except (Transient, LeaseLost):
                assert cut.dead
            cut.counting = False
    work = await rig.books.work(generation_id)
    if work is not None and work["lease"] is not None:
        await rig.abandoned(generation_id)


async def check_end(rig: Rig, generation_id: str, kind: str) -> None:
    status, events, written = ENDS[kind]
    generation = await rig.books.generation(generation_id)
    assert generation["status"] == status
    assert await rig.books.events(generation_id) == events
    rows = await rig.pool.fetch("SELECT was, is_now FROM public.written WHERE id::text = $1", generation_id)
    assert [(row["was"], row["is_now"]) for row in rows] == written
    refunds = await rig.pool.fetchval(
        "SELECT count(*) FROM public.refunds WHERE generation_id::text = $1", generation_id
    )
    assert refunds == (status == "failed")
    work: Mapping[str, Any] | None = await rig.books.work(generation_id)
    assert work is not None
    assert work["lease"] is None
    if status == "success":
        await rig.proves(generation_id)
        assert len([name for name in rig.names() if generation_id in name]) == len(json.loads(generation["asset_urls"]))
        assert await rig.pool.fetch("SELECT * FROM reconciler.orphans") == []
    if kind == "given up":
        assert work["due_in"] > 1000


async def check_every_cut(rig: Rig, kind: str, patch: pytest.MonkeyPatch) -> None:
    whole = Cut()
    generation_id = await ordered(rig, kind)
    await cut_visit(rig, generation_id, whole, patch)
    await check_end(rig, generation_id, kind)
    assert len(whole.said) >= 4
    async with rig.instance() as successor:
        for at, answered in itertools.product(range(len(whole.said)), (False, True)):
            generation_id = await ordered(rig, kind)
            await cut_visit(rig, generation_id, Cut(at, answered), patch)
            await successor.claims.discover()
            await successor.worker.once(generation_id, Trigger.POLL)
            try:
                await check_end(rig, generation_id, kind)
            except AssertionError as error:
                where = f"cut {'after' if answered else 'before'} statement {at}: {whole.said[at]}"
                raise AssertionError(where) from error


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "film"])
async def test_a_visit_cut_at_any_statement_ends_the_same_when_another_instance_goes_on(
    own_rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    await check_every_cut(own_rig, kind, monkeypatch)


@pytest.mark.soak
async def test_an_upload_in_pieces_cut_at_any_statement_ends_the_same(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_rig(dsn, tmp_path, supabase=True) as rig:
        assert rig.storage is not None
        await rig.pool.execute(HOOK)
        await check_every_cut(rig, "film", monkeypatch)
        assert rig.storage.twice() == {}
