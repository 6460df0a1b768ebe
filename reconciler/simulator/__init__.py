"""A local KIE that speaks real HTTP: the fake behind `kie-reconciler simulate`, the demo, the tests and the benchmarks.

`Simulator` is the whole of it; `MediaSpec`, `Failure` and `never` describe what a task brings. Nothing of the daemon is
imported here.
"""

from reconciler.simulator.faults import Fault
from reconciler.simulator.media.files import MediaSpec
from reconciler.simulator.simulator import Simulator
from reconciler.simulator.tasks import Failure, SimulatedTask, TaskSpec, never

__all__ = ["Failure", "Fault", "MediaSpec", "SimulatedTask", "Simulator", "TaskSpec", "never"]
