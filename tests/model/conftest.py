"""How many examples the model test runs, and which.

MODEL_EXAMPLES in all, 200 unless it is set; MODEL_SEED chooses others; MODEL_SHRINK=0 tells of a failure as it was
found, which takes seconds where shrinking takes minutes.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

SHARDS = 2
SEED = int(os.environ.get("MODEL_SEED", "0"))
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
