"""The API does what openapi.json says: requests generated from it get only the answers that it describes."""

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
from tests.http.api import ANN, OPERATOR, ServedApi, opened, token

SECRET = "what-callbacks-must-prove"


@pytest.fixture
async def kie() -> AsyncIterator[Simulator]:
    async with Simulator(limits=False, compress=False) as simulator:
        yield simulator


@pytest.fixture
async def api(
    rows_dsn: str, kie: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ServedApi]:
    # A stream must end for the fuzzer to go on.
    monkeypatch.setattr(
        streams, "StreamTimes", functools.partial(streams.StreamTimes, keep_alive=0.02, life=0.05, grace=0.05)
    )
    (tmp_path / "files").mkdir()
    async with opened(rows_dsn, kie, tmp_path, KIE_CALLBACK_SECRET=SECRET, RECONCILER_CREATE_RATE="1000") as served:
        yield served


# Statuses that a request valid by its schema may still get: a cursor must exist, KIE must accept an order.
REFUSED = {
    "/api/generations": ["400"],
    "/api/kie/callback": ["400"],
    "/api/kie/createTask": ["400", "402", "413", "422"],
    "/api/kie/downloadUrl": ["400"],
}


def configured(bearer: str, task_id: str, generation_id: str, examples: int) -> SchemathesisConfig:
    """Return a configuration with every check; some parameters name existing rows, so that not everything is a 404."""
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


def violations(url: str, config: SchemathesisConfig) -> dict[str, str]:
    """Return the violations, with one example of each."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)
    found: dict[str, str] = {}
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            found[repr(event)] = ""
        if isinstance(event, events.ScenarioFinished):
            for case_id, checks in event.recorder.checks.items():
                case = event.recorder.cases[case_id].value
                for check in checks:
                    if (broken := check.failure_info) is not None:
                        example = f"{broken.failure.message}\n{broken.code_sample}"
                        found.setdefault(f"{case.method} {case.path}: {check.name}: {broken.failure.title}", example)
    return found


@pytest.mark.parametrize(
    ("bearer", "examples"),
    [
        pytest.param(token(ANN), 2, id="user-few"),
        pytest.param(OPERATOR, 2, id="operator-few", marks=pytest.mark.soak),
        pytest.param(token(ANN), 8, id="user-many", marks=pytest.mark.soak),
        pytest.param(OPERATOR, 8, id="operator-many", marks=pytest.mark.soak),
    ],
)
async def test_every_answer_matches_the_description(
    bearer: str, examples: int, api: ServedApi, kie: Simulator, rows_dsn: str
) -> None:
    task_id = kie.add_task()
    async with asyncpg.create_pool(rows_dsn, min_size=1, max_size=1) as pool:
        generation_id = await add(pool, "queued", task_id=task_id, user_id=ANN)
    with capture_logs() as lines:
        config = configured(bearer, task_id, generation_id, examples)
        found = await asyncio.to_thread(violations, str(api.operator.base_url), config)
    assert not found, "\n\n".join(f"{name}\n{example}" for name, example in found.items())
    assert not [line for line in lines if line["event"] == "request.broke"]
