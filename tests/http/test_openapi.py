"""The API is what its description says: strangers' requests made from it find no answer that it does not tell."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from structlog.testing import capture_logs

from reconciler.http.routes import events as streams
from reconciler.simulator import Simulator
from testkit.rows import add
from tests.http.api import ANN, OPERATOR, Face, opened, token

SECRET = "what-callbacks-must-prove"


@pytest.fixture
async def kie() -> AsyncIterator[Simulator]:
    async with Simulator(limits=False, compress=False) as simulator:
        yield simulator


@pytest.fixture
async def face(rows_dsn: str, kie: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Face]:
    # A stream that stays open for an hour tells a fuzzer nothing more.
    monkeypatch.setattr(streams, "Times", functools.partial(streams.StreamTimes, beat=0.02, life=0.05, grace=0.05))
    (tmp_path / "files").mkdir()
    async with opened(rows_dsn, kie, tmp_path, KIE_CALLBACK_SECRET=SECRET, RECONCILER_CREATE_RATE="1000") as made:
        yield made


# What no schema can say: a cursor is one that was given out, an order is one that KIE takes.
REFUSED = {
    "/api/generations": ["400"],
    "/api/kie/callback": ["400"],
    "/api/kie/createTask": ["400", "402", "413", "422"],
    "/api/kie/downloadUrl": ["400"],
}


def configured(bearer: str, task_id: str, generation_id: str, examples: int) -> SchemathesisConfig:
    """Every check; some parameters are of rows that are there, so that not everything is a 404."""
    accepted = ["2xx", "401", "403", "404", "409", "429", "5xx"]
    return SchemathesisConfig.from_dict(
        {
            "seed": 20261122,
            "headers": {"Authorization": f"Bearer {bearer}"},
            "generation": {"max-examples": examples, "deterministic": True},
            "request-timeout": 10,
            "max-stream-events": 3,
            "continue-on-failure": True,
            "parameters": {
                "query.secret": [SECRET],
                "query.taskId": [task_id],
                "path.id": [generation_id],
                "query.wait": [0, 0.1],
            },
            "operations": [
                {"include-path": path, "checks": {"positive_data_acceptance": {"expected-statuses": accepted + more}}}
                for path, more in REFUSED.items()
            ],
        }
    )


def found(url: str, config: SchemathesisConfig) -> dict[str, str]:
    """Whatever does not hold: one example of each."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)
    told: dict[str, str] = {}
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            told[repr(event)] = ""
        if isinstance(event, events.ScenarioFinished):
            for case_id, checks in event.recorder.checks.items():
                case = event.recorder.cases[case_id].value
                for check in checks:
                    if (broken := check.failure_info) is not None:
                        said = f"{broken.failure.message}\n{broken.code_sample}"
                        told.setdefault(f"{case.method} {case.path}: {check.name}: {broken.failure.title}", said)
    return told


@pytest.mark.parametrize("examples", [2, pytest.param(8, marks=pytest.mark.soak)], ids=["few", "many"])
@pytest.mark.parametrize("bearer", [OPERATOR, token(ANN)], ids=["operator", "user"])
async def test_nothing_is_found_that_the_description_does_not_tell(
    bearer: str, examples: int, face: Face, kie: Simulator, rows_dsn: str
) -> None:
    task_id = kie.add_task()
    async with asyncpg.create_pool(rows_dsn, min_size=1, max_size=1) as pool:
        generation_id = await add(pool, "queued", task_id=task_id, user_id=ANN)
    with capture_logs() as lines:
        config = configured(bearer, task_id, generation_id, examples)
        told = await asyncio.to_thread(found, str(face.operator.base_url), config)
    assert not told, "\n\n".join(f"{name}\n{said}" for name, said in told.items())
    assert not [line for line in lines if line["event"] == "request.broke"]
