"""A database of 0.1.0 with rows in every state: `migrate` preserves each row, and the new daemon goes on with each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from reconciler.simulator import MediaSpec, TaskSpec
from testkit import commands
from testkit.stage import USER, Rig
from testkit.waiting import until

TABLES = """
SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
 WHERE schemaname IN ('public', 'reconciler') AND tablename <> 'schema_version' ORDER BY 1
"""

IN_FLIGHT = {
    "new", "new_pending", "polled", "processing", "generating", "held", "half_stored", "not_stored", "empty", "unknown",
    "other_task", "task_replaced", "ordered",
}  # fmt: skip
HEALED = {"unstored", "gave_up", "reopened"}
AT_REST = {"delivered", "lost", "echoed", "failed", "cancelled", "of_another_provider", "parked"}

STORED = b"stored by 0.1.0\n"


async def migrated(rig: Rig, *options: str) -> commands.Ran:
    rig.folder.mkdir(exist_ok=True)
    return await commands.run("migrate", "--json", *options, folder=rig.folder, environment=rig.environment())


async def contents(rig: Rig) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, by the table's name."""
    kept = {}
    for (name,) in await rig.pool.fetch(TABLES):
        rows = await rig.pool.fetch(f"SELECT to_jsonb(t)::text AS row FROM {name} t ORDER BY 1")
        kept[name] = [json.loads(row["row"]) for row in rows]
    return kept


def without_new_columns(after: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    known = before[0].keys()
    rows = [{name: value for name, value in row.items() if name in known} for row in after]
    return sorted(rows, key=json.dumps)


async def test_migrate_preserves_every_row_of_every_table(filled: Rig) -> None:
    before = await contents(filled)
    assert all(before.values()), "a table without any row proves nothing"
    ran = await migrated(filled)
    assert ran.code == 0, ran.err
    after = await contents(filled)
    assert before.keys() <= after.keys()
    for name, rows in before.items():
        assert without_new_columns(after[name], rows) == sorted(rows, key=json.dumps), name


async def ids(rig: Rig) -> Mapping[str, str]:
    """The ids of all cases, by their names."""
    return dict(await rig.pool.fetch("SELECT prompt, id::text FROM public.generations"))


async def on_stage(rig: Rig, named: Mapping[str, str]) -> None:
    """Make the tasks of the rows that KIE has finished, and the objects that 0.1.0 has stored."""
    for name in (*IN_FLIGHT, *HEALED, "broken"):
        order: TaskSpec = {
            "task_id": f"task-{name}",
            "results": [MediaSpec()] * (2 if name in {"half_stored", "not_stored"} else 1),
        }
        if name == "ordered":
            order["callback_url"] = f"http://127.0.0.1:9/api/kie/callback?generation={named[name]}"
        rig.kie.add_task(**order)
    for name in ("delivered", "half_stored"):
        stored_by_former(rig, named[name]).parent.mkdir(parents=True, exist_ok=True)
        stored_by_former(rig, named[name]).write_bytes(STORED)


def stored_by_former(rig: Rig, generation_id: str) -> Path:
    """The first object of a generation."""
    return rig.folder / "stored" / USER / "image" / f"{generation_id}_0.png"


async def rows(rig: Rig) -> dict[str, dict[str, Any]]:
    """Every generation, by the name of its case."""
    found = await rig.pool.fetch("SELECT g.prompt, to_jsonb(g)::text AS row FROM public.generations g")
    return {row["prompt"]: json.loads(row["row"]) for row in found}


async def new_events(rig: Rig) -> dict[str, list[str]]:
    """What the new daemon has told, by the name of the case."""
    found = await rig.pool.fetch(
        "SELECT g.prompt, e.kind FROM reconciler.events e JOIN public.generations g ON g.id::text = e.generation_id"
        " WHERE e.at > now() - interval '9 min' ORDER BY e.id"  # those of 0.1.0 are older
    )
    told: dict[str, list[str]] = {}
    for row in found:
        told.setdefault(row["prompt"], []).append(row["kind"])
    return told


async def test_the_new_daemon_goes_on_with_every_kind_of_row(filled: Rig) -> None:
    named = await ids(filled)
    assert set(named) == IN_FLIGHT | HEALED | AT_REST | {"refused", "broken"}
    await on_stage(filled, named)
    assert (await migrated(filled)).code == 0
    before = await rows(filled)
    replica = await filled.run()

    await filled.delivered([named[name] for name in IN_FLIGHT - {"half_stored"} | HEALED], within=30)
    await half_stored_is_completed(filled, named["half_stored"])
    await refused_is_failed(filled, named["refused"])
    await audits_go_on(filled, named)
    assert replica.said("visit.broke") == replica.said("round.broke") == []
    after = await rows(filled)
    assert {name for name in AT_REST if after[name] != before[name]} == set()
    delivered = dict.fromkeys(IN_FLIGHT | {"reopened", "gave_up", "unstored"}, 1)
    assert {name: len(kinds) for name, kinds in (await new_events(filled)).items()} == (
        delivered | {"refused": 1, "broken": 1}
    )


async def half_stored_is_completed(rig: Rig, generation_id: str) -> None:
    """The result with a receipt of 0.1.0 is not fetched again, the other one is."""

    async def status() -> bool:
        row = await rig.pool.fetchrow("SELECT * FROM public.generations WHERE id::text = $1", generation_id)
        return row["status"] == "success" and len(json.loads(row["asset_urls"])) == 2

    await until(status, what="both results of half_stored")
    task = rig.kie.tasks["task-half_stored"]
    stored_before, fetched = task.downloads
    assert stored_before == 0
    assert fetched > 0
    assert stored_by_former(rig, generation_id).read_bytes() == STORED
    second = f"{USER}/image/{generation_id}_1.png"
    assert rig.sha256(second) == rig.kie.sha256(task.id, 1)


async def refused_is_failed(rig: Rig, generation_id: str) -> None:
    """A refusal that 0.1.0 has written down fails its row."""

    async def failed() -> bool:
        sql = "SELECT error FROM public.generations WHERE id::text = $1 AND status = 'failed'"
        return "The model is not supported (422)" in (await rig.pool.fetchval(sql, generation_id) or "")

    await until(failed, what="the failure of refused")


async def audits_go_on(rig: Rig, named: Mapping[str, str]) -> None:
    """A delivery of 0.1.0 that is whole is audited again in a month, and one that is broken is stored once more."""

    async def intact() -> bool:
        return bool((await rig.work(named["delivered"]))["audit_at"] > datetime.now(UTC) + timedelta(days=20))

    # KIE gives other bytes than 0.1.0 had stored, which get an address of their own.
    digest = rig.kie.sha256("task-broken", 0)
    mark = hashlib.sha256(digest.encode()).hexdigest()[:8]

    async def repaired() -> bool:
        return rig.sha256(f"{USER}/image/{named['broken']}_0-{mark}.png") == digest

    await until(intact, 30, "the audit of delivered")
    await until(repaired, 30, "the repair of broken")
    await until(lambda: _told(rig, "broken"), what="the event of the repair")
    assert stored_by_former(rig, named["delivered"]).read_bytes() == STORED


async def _told(rig: Rig, name: str) -> bool:
    return name in await new_events(rig)
