"""How many examples the model test runs: MODEL_EXAMPLES in all."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

SHARDS = 2
EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "200"))
PROFILE = settings(
    max_examples=max(EXAMPLES // SHARDS, 1),
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    print_blob=True,
    report_multiple_bugs=False,
    phases=(Phase.generate, Phase.shrink) if os.environ.get("MODEL_SHRINK", "1") == "1" else (Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
