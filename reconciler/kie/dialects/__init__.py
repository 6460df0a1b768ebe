"""KIE's dialects: a record in, an observation out.

One file per dialect, each a `Dialect`; envelope.py judges what is around a record, catalogue.py
knows which dialect a task is probably written in. Pure and total: no I/O, no clock, no
randomness, and no answer that makes them raise. The visit calls `candidates`, then `other_task` and `judge`.
"""

from reconciler.kie.dialects.catalogue import by_name, candidates
from reconciler.kie.dialects.dialect import Dialect
from reconciler.kie.dialects.envelope import judge, other_task

__all__ = ["Dialect", "by_name", "candidates", "judge", "other_task"]
