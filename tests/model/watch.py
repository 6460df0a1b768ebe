"""What must hold after every step, told from outside: by the tables, by a witness on them, by KIE and by storage.

Nothing here knows how the daemon decides. `Watch` remembers what it saw last and what the application and the operator
did in between; the machine tells it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from reconciler.domain.model import OPEN
from tests.model.stage import Provider, Stage

TERMINAL = ("success", "completed", "failed", "cancelled")
WRITTEN = {"status", "result_urls", "asset_url", "asset_urls", "error", "updated_at", "task_id"}
DAY = 86_400.0

Thing = dict[str, Any]


@dataclass
class Watch:
    """One example's memory.

    `asked` are the orders that users gave us, `booked` their rows, `ordered` what KIE heard of them; `counts` the
    numbers of results that KIE has told of a task; `refused` the tasks that it has called failed, if only for a while;
    `forged` the tasks about which somebody lied with addresses that work; `reopened` the rows that an operator wants
    asked about again.
    """

    stage: Stage
    asked: int = 0
    booked: int = 0
    ordered: int = 0
    counts: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    refused: set[str] = field(default_factory=set)
    forged: set[str] = field(default_factory=set)
    reopened: set[str] = field(default_factory=set)
    last: Mapping[str, Any] = field(default_factory=dict)
    changes: int = 0
    ends: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    failures: Counter[str] = field(default_factory=Counter)
    excused: set[tuple[str, str]] = field(default_factory=set)
    delivered: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)

    @property
    def kie(self) -> Provider:
        return self.stage.kie

    async def look(self) -> None:
        """Hold everything to everything."""
        # Before the books are read: who goes on beside us writes a path down before its bytes come.
        there = {name.removeprefix("generations/") for name in self.stage.storage.objects}
        seen = {name: found or {} for name, found in (await self.stage.seen(self.changes)).items()}
        self._excuse(seen)
        for change in seen["changes"]:
            self.changes = change["id"]
            self._changed(change["op"], change["before"] or {}, change["after"] or {}, seen)
        self._events(seen)
        self._orders()
        self._receipts(seen)
        self._delivered(seen)
        self._objects(there, seen)
        assert self.stage.broken() == 0, "a visit broke"
        self.last = seen

    def touched(self, row: str) -> None:
        """The application has moved the row itself: what we said of it before does not count any more."""
        if self.ends[row]:
            self.ends[row].append("")

    def _excuse(self, seen: Mapping[str, Any]) -> None:
        """Rows with callbacks that may be believed: three looks in a row did not reach KIE, or it rejects the key."""
        rejected = any(self.kie.counts.faults[name] for name in ("record.http_401", "record.body_401"))
        for source in (self.last, seen):
            for row, work in source.get("work", {}).items():
                if work["misses"] - work["unknowns"] >= 2 or rejected:
                    self.excused.add((row, work["seen_task"]))

    def _changed(self, op: str, before: Thing, after: Thing, seen: Mapping[str, Any]) -> None:
        """One write of the daemon to the application's table."""
        if op == "INSERT":
            self.booked += 1
            assert self.booked <= self.asked, "a row that was not asked for"
            assert after["task_id"] is None
            return
        assert op == "UPDATE", f"{op} of {before}"
        names = {name for name in after if after[name] != before[name]}
        assert names - {"updated_at"}, f"nothing changed, but {after['id']} was written"
        assert names <= WRITTEN, f"not ours to write: {names}"
        if "task_id" in names:
            self._adopted(before, after)
        if before["status"] not in OPEN:
            assert self._may_move(before, after), f"an end was moved: {before} -> {after}"
        if after["status"] == "generating" and "status" in names:
            assert before["status"] == "queued"
        elif after["status"] == "success":
            self._succeeded(before, after, seen)
        elif after["status"] == "failed":
            self._failed(after, seen)
        else:
            assert after["status"] in OPEN, f"to {after['status']}"
            assert after["asset_url"] == before["asset_url"]

    def _adopted(self, before: Thing, after: Thing) -> None:
        """Only a task that was made for this row, by KIE's own word, may become its task."""
        assert before["task_id"] is None
        assert before["status"] in OPEN
        task = self.kie.tasks.get(after["task_id"])
        assert task is not None and named_by(task.callback_url) == after["id"], f"adopted a stranger: {after}"  # noqa: PT018

    def _may_move(self, before: Thing, after: Thing) -> bool:
        if after["status"] != "success" or not after["asset_url"]:
            return False
        if before["status"] == "success":
            return not before["asset_url"] or before["asset_url"].startswith(self.kie.origin)
        if before["status"] != "failed":
            return False
        told = self.ends[before["id"]]
        return bool(told and told[-1] == "gave_up") or before["id"] in self.reopened

    def _succeeded(self, before: Thing, after: Thing, seen: Mapping[str, Any]) -> None:
        row, task_id = after["id"], after["task_id"]
        kind = {"success": "healed", "failed": "recovered"}.get(before["status"], "succeeded")
        self.ends[row].append(kind)
        self.reopened.discard(row)
        addresses, sources = after["asset_urls"], after["result_urls"]
        assert addresses
        assert (after["asset_url"], len(sources)) == (addresses[0], len(addresses))
        receipts = {
            a["path"]: a["sha256"]
            for a in seen["assets"]
            if (a["generation_id"], a["task_id"]) == (row, task_id) and a["verified_by"]
        }
        made = list(self._made(row, task_id, sources))
        for n, address in enumerate(addresses):
            path = path_of(address)
            assert path in receipts, f"a success without the receipt of {path}"
            assert made[n] is None or receipts[path] == made[n], f"{path} is not what KIE made"
            assert self._stored(path) == receipts[path], f"{path} is not what its receipt says"
        self.delivered[row] = (task_id, {path_of(a): receipts[path_of(a)] for a in addresses})

    def _made(self, row: str, task_id: str, sources: list[str]) -> Iterator[str | None]:
        """What each result must hash to; None where a lie may be believed, as KIE could not be asked."""
        if task_id in self.forged and (row, task_id) in self.excused:
            yield from (None for _ in sources)
            return
        assert len(sources) in self.counts[task_id], f"{len(sources)} results, KIE told of {self.counts[task_id]}"
        for n, source in enumerate(sources):
            found = self.kie._files.get(urlsplit(source).path)
            assert found is not None and (found[0].id, found[1]) == (task_id, n), f"not of this task: {source}"  # noqa: PT018
            yield self.kie.sha256(task_id, n)

    def _stored(self, path: str) -> str | None:
        thing = self.stage.storage.objects.get(f"generations/{path}")
        return thing.sha256 if thing else None

    def _failed(self, after: Thing, seen: Mapping[str, Any]) -> None:
        """By KIE's own word, or given up by us when it knows the task and answers about it, or never ordered."""
        row, why = after["id"], after["error"]
        gave_up = why.startswith("gave up after")
        self.ends[row].append("gave_up" if gave_up else "failed")
        self.failures[row] += 1
        task = self.kie.tasks.get(after["task_id"])
        if gave_up:
            now, work = seen["generations"].get(row), seen["work"].get(row)
            assert task is not None and task.polls, f"gave up a task that KIE never heard of: {after}"  # noqa: PT018
            assert now is None or now["age"] > DAY, "gave up before its time"
            if work is not None and work["seen_task"] == after["task_id"]:
                answered = work["answered_ago"] if work["acknowledged_at"] else None
                assert answered is not None, "gave up unanswered"
                assert answered < 3700, "gave up long after the last answer"
        elif after["task_id"] is None:
            made = [t for t in self.kie.tasks.values() if named_by(t.callback_url) == row]
            assert self.booked
            assert not made, f"failed, but KIE made {made}"
        elif why.startswith("KIE reports success without any output"):
            assert self.kie.counts.faults["result.empty"] >= 5
        else:
            assert after["task_id"] in self.refused, f"KIE never said so: {why}"

    def _events(self, seen: Mapping[str, Any]) -> None:
        """One for each end, in their order; the application's hook once for each generation that ever failed."""
        told = defaultdict(list)
        for event in seen["events"]:
            told[event["generation_id"]].append(event["kind"])
        assert told == {row: list(filter(None, ends)) for row, ends in self.ends.items() if any(ends)}
        # A row that the application deleted and we forgot cannot be told from one that was never refunded; ids are new.
        assert Counter(seen["refunds"] or ()) == Counter(list(self.failures))

    def _orders(self) -> None:
        assert self.kie.orders_heard == self.ordered, "an order that was not given"
        assert self.kie.counts.creates <= self.ordered

    def _receipts(self, seen: Mapping[str, Any]) -> None:
        """What is proven stays proven while its row is in flight or delivered; and with it the count of results."""
        now = {key(a) for a in seen["assets"] if a["verified_by"]}
        for asset in self.last.get("assets", ()):
            row = asset["generation_id"]
            before, after = self.last["generations"].get(row), seen["generations"].get(row)
            if not asset["verified_by"] or before is None or after is None:
                continue
            kept = all(r["task_id"] == asset["task_id"] and r["status"] in (*OPEN, "success") for r in (before, after))
            if not kept:
                continue
            assert key(asset) in now, f"a receipt was lost: {asset}"
            was, work = self.last["work"].get(row), seen["work"].get(row)
            if was and work and was["seen_task"] == work["seen_task"] == asset["task_id"]:
                assert len(was["sources"] or ()) == len(work["sources"] or ()), "the count of results was not frozen"

    def _delivered(self, seen: Mapping[str, Any]) -> None:
        """What was delivered is still there, unchanged, and is not listed for removal."""
        for row, (task_id, things) in self.delivered.items():
            now = seen["generations"].get(row)
            if now is None or (now["status"], now["task_id"]) != ("success", task_id):
                continue
            for path, digest in things.items():
                assert self._stored(path) == digest, f"{path} of a delivered row has changed"
                assert path not in seen["orphans"], f"{path} of a delivered row is marked as nobody's"

    def _objects(self, there: set[str], seen: Mapping[str, Any]) -> None:
        """Nothing lies in storage of which the books know nothing."""
        lost = there - {a["path"] for a in seen["assets"]} - set(seen["orphans"])
        assert not lost, f"objects that nobody knows of: {lost}"


def named_by(address: str | None) -> str | None:
    """The generation that a callback address names."""
    return parse_qs(urlsplit(address or "").query).get("generation", [None])[0]


def path_of(address: str) -> str:
    """Where in the bucket one of our addresses leads."""
    _, _, path = address.partition("/object/public/generations/")
    assert path, f"{address} is not ours"
    return path


def key(asset: Thing) -> tuple[str, str, int, str, str]:
    return asset["generation_id"], asset["task_id"], asset["n"], asset["path"], asset["sha256"]
