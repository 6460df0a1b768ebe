"""The dialects of KIE's records: a record in, an observation out.

Each model family has its own record format: a `Dialect`. There is one file for each way to say how a task ended:
`success_flag.py`, `market.py` (in `state`), `suno.py` and `veo_1080p.py`. `envelope.py` reads what surrounds a record,
`named_generation.py` the order that a record repeats, `callback.py` what KIE posts; `catalogue.py` knows in which
dialects a task may be written. Pure and total: no I/O, no clock, no randomness, and no answer makes them raise. The
visit calls `candidates`, `other_task` and `judge`.
"""

from reconciler.kie.dialects.catalogue import by_name, candidates
from reconciler.kie.dialects.dialect import Dialect
from reconciler.kie.dialects.envelope import judge, other_task

__all__ = ["Dialect", "by_name", "candidates", "judge", "other_task"]
