"""Real daemons send traces to a real collector: one trace for each generation over all replicas, and no secret."""

from __future__ import annotations

import re
import signal

import httpx
import pytest

from testkit.stage import KEY, Rig
from testkit.standins.collector import Collector
from testkit.waiting import until

CALLED = "secret-of-the-callbacks"
OPERATOR = "token-of-the-operator"
OURS = {"generation", "visit", "poll", "download", "upload", "verify"}


@pytest.mark.soak
async def test_a_replica_that_takes_over_continues_the_trace_and_sends_no_secret(rig: Rig) -> None:
    assert rig.storage is not None
    settings = {"KIE_CALLBACK_SECRET": CALLED, "RECONCILER_API_TOKEN": OPERATOR}
    async with Collector() as collector:
        first = await rig.run(**collector.environment())
        rig.kie.strike("file.hang")
        generation_id = await rig.order()
        await rig.struck("file.hang", 1)
        await until(lambda: collector.named("poll"), within=20, what="the first replica's look")
        await first.kill()
        second = await rig.run(**collector.environment(), **settings)
        address = f"http://127.0.0.1:{await second.port()}/api/kie/callback?secret={CALLED}"
        async with httpx.AsyncClient(trust_env=False) as client:
            task_id = await rig.pool.fetchval("SELECT task_id FROM public.generations")
            assert (await client.post(address, json={"code": 200, "data": {"taskId": task_id}})).status_code == 200
        await rig.delivered([generation_id])
        second.signal(signal.SIGTERM)
        assert (await second.ended(within=20)).code == 0
        await until(lambda: collector.named("generation"), within=20, what="the whole trace")
    (whole,), (verify,) = collector.named("generation"), collector.named("verify")
    assert {span.trace for span in collector.of(generation_id)} == {whole.trace}
    assert collector.named("poll")[0].replica != verify.replica
    assert {span.name for span in collector.spans} == OURS
    assert collector.paths == {"/v1/traces"}
    told = b"".join(collector.raw)
    assert not [secret for secret in (KEY, CALLED, OPERATOR, rig.storage.key) if secret.encode() in told]
    assert not re.search(rb"https?://[^\s\x00-\x1f]*\?(?!\[redacted\])", told)
