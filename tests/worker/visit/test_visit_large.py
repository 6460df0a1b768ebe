"""Records of KIE up to the largest that are read: the event loop keeps turning while they are."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from reconciler.kie.dialects.parsing import MAX_VALUES
from testkit.loop_watch import assert_loop_turns
from tests.worker.rig import Rig
from tests.worker.visit.test_visit_hostile import answering


def addresses(count: int, padding: int = 0) -> list[str]:
    return [f"https://tempfile.aiquickdraw.com/{n}/{'x' * padding}.png" for n in range(count)]


def record(results: Iterable[object], **more: object) -> dict[str, object]:
    return {"taskId": "t", "state": "success", "resultJson": json.dumps({"resultUrls": list(results)}), **more}


RECORDS: dict[str, dict[str, object]] = {
    "a thousand results": record(addresses(1000)),
    "two thousand long ones": record(addresses(2000, 1500)),
    "each as the text of JSON in the text of JSON": record(
        json.dumps(json.dumps({"url": address})) for address in addresses(2000)
    ),
    "in fields that nobody knows": {
        "taskId": "t",
        "state": "success",
        **{f"resultUrl{n}{'x' * 200}": address for n, address in enumerate(addresses(4000))},
    },
    "as many values as are read": record([], more=[0.5] * (MAX_VALUES - 100)),
    "more values in a text than are read": record([1] * 1_000_000),
}


@pytest.mark.parametrize("what", RECORDS)
async def test_n7_the_loop_turns_while_a_large_record_is_read(rig: Rig, what: str) -> None:
    """1,000 results in one record."""
    async with answering(b"", RECORDS[what]) as kie, rig.instance(KIE_MARKET_BASE_URL=kie.url) as built:

        async def visit() -> None:
            await rig.visit(built, await rig.insert("t"))

        await assert_loop_turns(visit, what)
