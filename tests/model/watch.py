"""What must hold after every step, told from outside: by the tables, by a witness on them, by KIE and by storage.

Nothing here knows how the daemon decides. `Watch` remembers what it saw last and what the application and the operator
did in between; the machine tells it.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any
from urllib.parse import parse_qs, urlsplit

from reconciler.domain.model import OPEN
from reconciler.simulator.tasks import SimulatedTask
from tests.model.answers import LIMIT, WORDS, Answer, Told
from tests.model.stage import Provider, Stage

TERMINAL = ("success", "completed", "failed", "cancelled")
WRITTEN = {"status", "result_urls", "asset_url", "asset_urls", "error", "updated_at", "task_id"}
DAY = 86_400.0
EMPTY_WAITS, EMPTY_LOOKS = 2400.0, 4
"""Seconds and looks after which a success without output is believed."""

HOLE_WAITS, HOLE_WAITS_AFTER_END = 600.0, 1200.0
"""Seconds after which a success is written without an announced result: since it was announced, and since the end."""

Thing = dict[str, Any]


@dataclass
class Watch:
    """One example's memory.

    `asked` are the orders that users gave us, `booked` their rows, `ordered` what KIE heard of them; `refused` the
    tasks that it has called failed, if only for a while; `forged` the tasks about which somebody lied with addresses
    that work; `reopened` the rows that an operator wants asked about again.
    """

    stage: Stage
    asked: int = 0
    booked: int = 0
    ordered: int = 0
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
        self._kept(seen)
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
            unshown = not before["asset_url"] or before["asset_url"].startswith(self.kie.origin)
            return unshown or self._extends(before, after)
        if before["status"] != "failed":
            return False
        told = self.ends[before["id"]]
        return bool(told and told[-1] == "gave_up") or before["id"] in self.reopened

    def _extends(self, before: Thing, after: Thing) -> bool:
        """Whether results were only added: what was shown is still shown, and the first address stays the first."""
        same = (before["asset_url"], before["task_id"]) == (after["asset_url"], after["task_id"])
        return same and set(before["asset_urls"]) < set(after["asset_urls"])

    def _was_overwritten(self, before: Thing) -> bool:
        """Whether we had delivered this task, and the application has put the provider's address in place of ours."""
        work = self.last.get("work", {}).get(before["id"], {})
        ours = work.get("shown") is not None and work["seen_task"] == before["task_id"]
        return ours and (before["asset_url"] or "").startswith(self.kie.origin)

    def _succeeded(self, before: Thing, after: Thing, seen: Mapping[str, Any]) -> None:
        row, task_id = after["id"], after["task_id"]
        kind = {"success": "healed", "failed": "recovered"}.get(before["status"], "succeeded")
        if before["status"] == "success" and self._extends(before, after):
            kind = "extended"
        elif before["status"] == "success" and self._was_overwritten(before):
            kind = "repaired"
        extended = kind == "extended"
        self.ends[row].append(kind)
        self.reopened.discard(row)
        addresses, sources = after["asset_urls"], after["result_urls"]
        assert len(addresses) >= max(len(sources), 1), f"an address without an object: {after}"
        assert extended or after["asset_url"] == addresses[0]
        receipts = {
            a["path"]: a["sha256"]
            for a in seen["assets"]
            if (a["generation_id"], a["task_id"]) == (row, task_id) and a["verified_by"]
        }
        for path in map(path_of, addresses):
            assert path in receipts, f"a success without the receipt of {path}"
            assert self._stored(path) == receipts[path], f"{path} is not what its receipt says"
        if not self._believed_a_lie(row, task_id):
            files = [self._file(task_id, source) for source in sources]
            for address, n in zip(addresses, files, strict=False):
                assert receipts[path_of(address)] == self.kie.sha256(task_id, n), f"{address} is not what KIE made"
            words = [path_of(address) for address in addresses[len(sources) :]]
            assert [self._content(path) for path in words] in ([], [WORDS, WORDS["text"]]), "other words than KIE's"
            self._whole(row, set(files), words=bool(words), task_id=task_id, seen=seen)
        self.delivered[row] = (task_id, {path_of(a): receipts[path_of(a)] for a in addresses})

    def _believed_a_lie(self, row: str, task_id: str) -> bool:
        """Whether a lie may be believed, as KIE could not be asked."""
        return task_id in self.forged and (row, task_id) in self.excused

    def _file(self, task_id: str, source: str) -> int:
        """Which result of the task an address leads to."""
        found = self.kie._files.get(urlsplit(source).path)
        assert found is not None and found[0].id == task_id, f"not of this task: {source}"  # noqa: PT018
        return found[1]

    def _content(self, path: str) -> object:
        content = self.stage.storage.objects[f"generations/{path}"].read().decode()
        return json.loads(content) if path.endswith(".json") else content

    def _whole(self, row: str, files: set[int], *, words: bool, task_id: str, seen: Mapping[str, Any]) -> None:
        """All that KIE announced in one of its answers, or after the deadline all that it gave; it may be more."""
        said = self.kie.told[task_id]
        fitting = [one for one in said if not one.empty and one.readable and one.given <= files and one.words <= words]
        assert fitting, f"only {files} (words: {words}) of a task of which KIE told {said}"
        if any(one.announced <= files for one in fitting):
            return
        now = self.kie.time()
        waited = now - min(one.at for one in said if one.announced - files)
        assert waited >= HOLE_WAITS, f"without {fitting[-1].announced - files}, {waited} s after KIE announced it"
        # KIE's own clock goes on by itself.
        assert now - said[0].at >= HOLE_WAITS_AFTER_END - 10, "without a result too soon after the end of the task"
        payloads = [event["payload"] for event in seen["events"] if event["generation_id"] == row]
        assert any(payload.get("missing") for payload in payloads), "no event says that a result is missing"

    def _stored(self, path: str) -> str | None:
        thing = self.stage.storage.objects.get(f"generations/{path}")
        return thing.sha256 if thing else None

    def _answers(self, task_id: str) -> list[Told]:
        """The successes that KIE's own page has told of."""
        return [one for one in self.kie.told[task_id] if one.asked]

    def _failed(self, after: Thing, seen: Mapping[str, Any]) -> None:
        """By KIE's own word, or given up by us when it knows the task and answers about it, or never ordered."""
        row, why = after["id"], after["error"]
        gave_up, empty = why.startswith("gave up after"), why.startswith("KIE reports success without any output")
        self.ends[row].append("gave_up" if gave_up or empty else "failed")
        self.failures[row] += 1
        task = self.kie.tasks.get(after["task_id"])
        if gave_up:
            last = self._answers(after["task_id"])[-1:]
            assert all(one.readable and len(one.announced) <= LIMIT for one in last), "gave up output of KIE's"
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
        elif empty:
            asked = self._answers(after["task_id"])
            series = list(takewhile(lambda one: one.empty, reversed(asked)))
            assert series, f"KIE gave output: {asked[-1:]}"
            assert len(series) >= EMPTY_LOOKS, f"only {len(series)} answers were empty"
            assert self.kie.time() - series[-1].at >= EMPTY_WAITS, "an empty success was believed too soon"
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
        """What is proven stays proven while its row is in flight or delivered."""
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

    def _kept(self, seen: Mapping[str, Any]) -> None:
        """A result that was heard of is kept, with its number: by that its receipt is found."""
        for row, was in self.last.get("work", {}).items():
            work = seen["work"].get(row)
            if work is None or was["seen_task"] != work["seen_task"]:
                continue
            now = {one["n"]: one for one in work["results"] or ()}
            for one in was["results"] or ():
                # What only a callback has named may be dropped.
                if not one["confirmed"]:
                    continue
                assert one["n"] in now, f"a result was forgotten: {one}"
                before, after = one["addresses"], now[one["n"]]["addresses"]
                assert not (before and after) or before == after, f"a number got another result: {before} -> {after}"

    def nothing_missing(self, row: str, task: SimulatedTask) -> None:
        """At the end a delivered row lacks only what KIE never gives, and says so."""
        work = self.last["work"].get(row)
        if work is None or work["seen_task"] != task.id or self._believed_a_lie(row, task.id):
            return
        stored = {a["n"] for a in self.last["assets"] if (a["generation_id"], a["task_id"]) == (row, task.id)}
        missing = [one for one in work["results"] or () if one["n"] not in stored]
        never = task.wrap.blank | task.wrap.left_out if isinstance(task.wrap, Answer) else set()
        assert len(missing) <= len(never), f"{row} lacks {missing}, of which KIE gives all but {never}"
        if missing:
            assert (work["finding"], work["due_at"] is None) == ("results_missing", False), f"nothing says: {missing}"

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
