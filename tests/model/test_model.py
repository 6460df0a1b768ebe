"""The model test; PLANTED.md lists the bugs that it was seen to catch."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import seed
from hypothesis.stateful import run_state_machine_as_test

from tests.model.conftest import PROFILE, SEED, SHARDS
from tests.model.machine import Model
from tests.model.stage import staged

pytestmark = [
    pytest.mark.timeout(0),
    pytest.mark.skipif("MODEL_EXAMPLES" not in os.environ, reason="`make soak` runs the model: minutes of two cores"),
]


@pytest.fixture
def model(dsn: str, tmp_path: Path) -> Iterator[type[Model]]:
    """The machine on a stage of its own, which every example finds empty."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with asyncio.Runner() as runner:
        context = staged(dsn, tmp_path)
        stage = runner.run(context.__aenter__())
        try:
            yield type("Staged", (Model,), {"stage": stage, "runner": runner})
        finally:
            runner.run(context.__aexit__(None, None, None))
            structlog.configure(**before)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_nothing_is_lost_doubled_or_untrue(model: type[Model], shard: int) -> None:
    run_state_machine_as_test(seed(SEED * SHARDS + shard)(model), settings=PROFILE)
