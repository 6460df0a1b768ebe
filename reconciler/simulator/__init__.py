"""A local KIE over real HTTP, for `kie-reconciler simulate`, the demo, the tests and the benchmarks.

`Simulator` is the server; `MediaSpec`, `Failure`, `Fault`, `LiteralAnswer` and `never` describe tasks
(`task_plans.py` says how). `api/` answers requests, `records/` writes the records of every dialect, `media/`
generates result files. Nothing of the daemon is imported here.
"""

from reconciler.simulator.answers import LiteralAnswer
from reconciler.simulator.faults import Fault
from reconciler.simulator.media.files import MediaSpec
from reconciler.simulator.simulator import Simulator
from reconciler.simulator.tasks import Failure, SimulatedTask, TaskSpec, never

__all__ = ["Failure", "Fault", "LiteralAnswer", "MediaSpec", "SimulatedTask", "Simulator", "TaskSpec", "never"]
