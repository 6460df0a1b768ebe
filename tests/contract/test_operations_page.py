"""docs/OPERATIONS.md describes every metric, finding, reason, SQL file and setting, and none that does not exist."""

from __future__ import annotations

import ast
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from reconciler.cli import application
from reconciler.domain.failures.series import SIDES
from reconciler.domain.findings.findings import NAMES, FindingThresholds, findings
from reconciler.domain.findings.snapshot import FailingSide, Snapshot
from reconciler.errors import Permanent
from reconciler.kie.dialects.envelope import _REASONS
from reconciler.metrics import Metrics
from reconciler.postgres.pool import Database
from reconciler.postgres.refusals import REFUSALS
from reconciler.postgres.schema import introspect
from reconciler.settings import Settings, variable
from testkit.tables import member
from tests.contract.life import Life, queued

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "OPERATIONS.md").read_text()
CODED = ("media/fetch", "media/sniff", "media/spool", "storage/errors", "storage/tus")
SERVER_WIDE = re.compile(r"DROP ROLE|GRANT reconciler TO")
"""Statements that change more than the one database of a test."""


def section(title: str) -> str:
    """Return the text under a heading of the second level."""
    return re.split(r"\n## ", PAGE.partition(f"\n## {title}\n")[2])[0]


def code_blocks(text: str, language: str) -> Iterator[str]:
    """Return the code blocks of one language, without the indent of a list."""
    for indent, block in re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE):
        yield re.sub(rf"^{indent}", "", block, flags=re.MULTILINE)


def statements(text: str) -> list[str]:
    """Return the SQL statements of a section, one by one as an operator pastes them."""
    found = [one.strip() for block in code_blocks(text, "sql") for one in re.split(r";\n", block)]
    return [one for one in found if one and not SERVER_WIDE.search(one)]


def rows(text: str) -> list[tuple[str, ...]]:
    """Return the cells of a section's tables, without headings."""
    lines = [line for line in text.splitlines() if line.strip().startswith("| `")]
    return [tuple(cell.strip() for cell in line.strip().strip("|").split("|")) for line in lines]


def words(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell))


def test_every_metric_is_listed_with_its_type_and_labels_and_no_other_is() -> None:
    registered = {
        (one._name.removeprefix("kie_reconciler_") + ("_total" if one._type == "counter" else ""), one._type,
         tuple(one._labelnames))
        for one in Metrics().registry._collector_to_names
    }  # fmt: skip
    assert {(words(row[0])[0], row[1], words(row[2])) for row in rows(section("Metrics"))} == registered


def test_every_metric_that_the_page_names_anywhere_exists() -> None:
    known = {name for names in Metrics().registry._collector_to_names.values() for name in names}
    assert set(re.findall(r"kie_reconciler_[a-z_]*[a-z]", PAGE)) <= known


def test_the_metrics_of_the_leader_are_those_that_other_replicas_forget() -> None:
    metrics = Metrics()
    # Each replica learns this by itself, so that it does not forget it.
    metrics.database_up.set(1)
    metrics.forget()
    forgotten = {
        family.name.removeprefix("kie_reconciler_")
        for family in metrics.registry.collect()
        if family.samples and all(sample.value != sample.value for sample in family.samples)
    }
    leaders = {words(row[0])[0] for row in rows(section("Metrics")) if row[3] == "leader"}
    assert forgotten == leaders


def test_every_finding_is_listed_in_order_with_its_severity_and_no_other_is() -> None:
    everything = {"in_flight": {"queued": 5}, "canary_age": 1e6, "sweep_age": 1e6, "listening": False, "stuck": 1}
    everything |= {
        "failing": dict.fromkeys(SIDES.values(), FailingSide(5)),
        "expiring": 1,
        "lost": 1,
        "waiting": dict.fromkeys(NAMES, 1),
        "schema_behind": 1,
    }
    everything |= {"replicas_lost": ("shop (pid 7)",), "clock_ahead": 3600.0}
    everything |= {"unannounced": 1, "unannounced_age": 1e6, "events_dead": 1, "queue_usage": 1.0}
    severities: dict[str, str] = {}
    for pooled, trouble, instances in ((False, None, 0), (True, "the table is away", 1)):
        snapshot = Snapshot(**everything, transaction_pooler=pooled, table_trouble=trouble, instances=instances)
        found = findings(snapshot, FindingThresholds())
        severities |= {one.name: one.severity for one in found}
    headings = re.findall(r"^### (\w+) \((\w+)\)$", section("Findings"), re.MULTILINE)
    assert headings == [(name, severities[name]) for name in NAMES]


def test_every_finding_says_where_to_look_and_what_to_do() -> None:
    for text in re.split(r"^### ", section("Findings"), flags=re.MULTILINE)[1:]:
        assert re.search(r"^Look\b.*?(`|```)", text, re.MULTILINE | re.DOTALL), text
        assert re.search(r"^Do: ", text, re.MULTILINE), text


def coded_reasons() -> set[str]:
    """Return the codes of failed attempts that stand in the source."""
    coded = {
        node.value.value
        for file in CODED
        for node in ast.walk(ast.parse((ROOT / "reconciler" / f"{file}.py").read_text()))
        if isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.Constant)
    }
    return {*coded, *_REASONS.values()}


def test_every_reason_that_explain_can_show_is_listed() -> None:
    listed = set(words(" ".join(row[0] for row in rows(section("Reasons that `explain` and `stuck` show")))))
    plain = {word.partition(": ")[2] or word for word in listed}
    assert not coded_reasons() - plain


def test_every_refusal_of_the_database_is_listed_with_its_advice_and_no_other_is() -> None:
    table = section("What happens when…").partition("| sentence | do | at the start |\n|---|---|---|\n")[2]
    listed = table.partition("\n\n")[0].splitlines()
    ends = {True: "exit 2", False: "waits"}
    assert listed == list(dict.fromkeys(f"| {one.says} | {one.do} | {ends[one.stops]} |" for one in REFUSALS))


def test_every_sql_file_is_listed_and_no_other_is() -> None:
    files = {path.relative_to(ROOT / "sql").as_posix() for path in (ROOT / "sql").rglob("*.sql")}
    assert {word for row in rows(section("Install and upgrade")) for word in words(row[0])} == files


def test_only_commands_and_settings_that_exist_are_named() -> None:
    commands = {one.name or one.callback.__name__ for one in application().registered_commands if one.callback}
    assert set(re.findall(r"kie-reconciler ([a-z]+)", PAGE)) <= commands
    known = {variable(name) for name in Settings.model_fields}
    assert set(re.findall(r"\b(?:RECONCILER|KIE|SUPABASE|DATABASE|LOG)_[A-Z_]+\b", PAGE)) <= known


def test_every_setting_is_on_the_page_or_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", readme + PAGE))
    assert not {variable(name) for name in Settings.model_fields} - named


def test_the_defaults_on_the_page_are_right() -> None:
    for row in rows(section("Settings that matter at night")):
        (name,) = words(row[0])
        (default,) = (field.default for key, field in Settings.model_fields.items() if variable(key) == name)
        if isinstance(default, bool):
            assert row[1] == str(default).lower(), name
        elif "GiB" in row[1]:
            assert int(row[1].split()[0]) << 30 == default, name
        elif isinstance(default, int | float):
            assert float(row[1]) == float(default), name
        elif isinstance(default, str):
            assert row[1] == default, name


@pytest.fixture
async def owner(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.mark.parametrize("title", ["First ten minutes", "Several replicas", "Findings", "Ordering tasks", "Hooks"])
async def test_every_statement_that_reads_runs_as_the_daemons_login(dsn: str, title: str) -> None:
    found = statements(section(title))
    assert found
    async with member(dsn, "reconciler") as address:
        connection = await asyncpg.connect(address)
        for statement in found:
            await connection.fetch(statement)
        await connection.close()


async def test_the_credits_on_the_page_are_charged_once_and_refunded_once(dsn: str, owner: Any) -> None:
    """For a login without rights of its own in the shop's tables."""
    example, doubled = code_blocks(section("Credits"), "sql")
    await owner.execute(example)
    user, balance = str(uuid4()), "SELECT credits FROM public.wallets"
    await owner.execute(
        f"INSERT INTO public.wallets VALUES ('{user}', 10); INSERT INTO public.prices VALUES ('flux', 4)"
    )
    async with member(dsn, "reconciler") as address:
        database = Database(address)
        async with database.transaction() as connection:
            life = Life(database, await introspect(connection))
        failing, good = await life.order("one", user), await life.order("two", user)
        assert failing is not None
        assert good is not None
        assert await owner.fetchval(balance) == 2
        assert await life.order("one", user) is None
        with pytest.raises(Permanent, match="this costs 4 credits, and you have fewer"):
            await life.order("three", user)
        with pytest.raises(Permanent, match="this costs 4 credits"):
            await life.order("four")
        assert await owner.fetchval(balance) == 2
        for _ in range(2):
            await life.fail(failing)
            assert await owner.fetchval(balance) == 6
            await owner.execute("UPDATE public.generations SET status = 'queued' WHERE id::text = $1", failing)
        assert await life.deliver(good) == "succeeded"
        assert await life.tell() == 1
        await database.close()
    assert await owner.fetchval(balance) == 6
    charges = await owner.fetch(
        "SELECT generation_id::text, credits, delivered_at IS NOT NULL, why FROM public.charges ORDER BY id"
    )
    assert [tuple(row) for row in charges] == [(failing, 4, False, "refused (500)"), (good, 4, True, None)]
    for statement in filter(str.strip, doubled.split(";")):
        assert await owner.fetch(statement) == []


async def test_announcements_that_were_given_up_are_sent_again_or_forgotten_as_the_page_says(owner: Any) -> None:
    from_now, again, forget = statements(section("Announcements"))
    made = """INSERT INTO reconciler.events (key, generation_id, kind, payload, tries, next_at, dead_at)
              VALUES ('waits', 'a', 'failed', '{}', 3, now() + interval '1 hour', NULL),
                     ('dead', 'b', 'failed', '{}', 400, now() + interval '1 hour', now())"""
    await owner.execute(made)
    await owner.execute(again)
    state = "SELECT key, tries, next_at IS NULL AS due, dead_at, announced_at FROM reconciler.events ORDER BY key"
    assert [tuple(row) for row in await owner.fetch(state)] == [
        ("dead", 0, True, None, None),
        ("waits", 3, False, None, None),
    ]
    await owner.execute("UPDATE reconciler.events SET dead_at = now() WHERE key = 'dead'")
    await owner.execute(forget)
    assert [row["key"] for row in await owner.fetch(state)] == ["waits"]
    await owner.execute(from_now)
    assert [row["announced_at"] is None for row in await owner.fetch(state)] == [False]


async def test_backing_out_leaves_the_application_as_it_was(owner: Any) -> None:
    ids = await queued(owner, 2)
    found = statements(section("Backing out"))
    assert sum("DISABLE TRIGGER" in one for one in found) == 2
    for statement in found:
        await owner.execute(statement)
        await queued(owner, 1)
        await owner.execute("UPDATE public.generations SET status = 'cancelled' WHERE id::text = $1", ids[0])
        await owner.execute("UPDATE public.generations SET status = 'queued' WHERE id::text = $1", ids[0])
    ours = (
        "SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'reconciler' OR c.relname LIKE '%reconciler%'"
    )
    assert await owner.fetchval(ours) == 0
    assert await owner.fetchval("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'reconciler%'") == 0
    assert await owner.fetchval("SELECT count(*) FROM pg_policy WHERE polname LIKE 'reconciler%'") == 0
    assert await owner.fetchval("SELECT count(*) FROM public.generations") == 2 + len(found)
