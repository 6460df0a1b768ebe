"""The route of the status: what `status --json` says, to the operator alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from reconciler.domain.findings.findings import Finding
from reconciler.postgres.heartbeat import Heartbeat
from reconciler.postgres.leader_findings import publish_findings
from testkit.rows import HOUR, add
from tests.http.api import ServedApi

OLDER = "UPDATE reconciler.leader SET findings = jsonb_set(findings, '{at}', to_jsonb(extract(epoch FROM now()) - 121))"
CLOSED = Finding("storage_refuses", 1, "page", "Browsers cannot read the bucket.", "Make it public.")


async def test_the_operator_gets_what_the_command_says(pool: Any, api: ServedApi) -> None:
    await add(pool, "generating", HOUR, task_id="t-1")

    answer = await api.operator.get("/api/status")

    body = answer.json()
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert (body["in_flight"], body["stuck"], body["replicas"]) == (1, 1, 0)
    assert [finding["name"] for finding in body["findings"]] == ["no_replica", "stuck"]
    report = asdict(await api.parts.reports.status())
    assert body == {**report, "findings": list(report["findings"])}


async def test_what_only_the_leader_knows_is_shown_while_it_leads(pool: Any, api: ServedApi) -> None:
    heartbeat = Heartbeat(api.parts.database, api.parts.instance, term=30)
    await publish_findings(api.parts.database, api.parts.instance, [CLOSED])
    assert (await api.operator.get("/api/status")).json()["findings"] == []

    assert await heartbeat.lead()
    await publish_findings(api.parts.database, api.parts.instance, [CLOSED])
    assert (await api.operator.get("/api/status")).json()["findings"] == [asdict(CLOSED)]

    await pool.execute("UPDATE reconciler.leader SET instance = gen_random_uuid()")
    assert (await api.operator.get("/api/status")).json()["findings"] == [], "another leader has published none"
    await pool.execute("UPDATE reconciler.leader SET instance = $1", api.parts.instance)
    await pool.execute(OLDER)
    assert (await api.operator.get("/api/status")).json()["findings"] == [], "they are too old"
    await publish_findings(api.parts.database, api.parts.instance, [CLOSED])
    assert len((await api.operator.get("/api/status")).json()["findings"]) == 1

    await heartbeat.leave()
    assert (await api.operator.get("/api/status")).json()["findings"] == []


async def test_nobody_else_gets_it(api: ServedApi) -> None:
    answer = await api.ann.get("/api/status")
    assert (answer.status_code, answer.json()["error"]) == (403, "operator_only")
    assert (await api.nobody.get("/api/status")).status_code == 401
