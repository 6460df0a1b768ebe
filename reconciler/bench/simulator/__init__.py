"""A local KIE that speaks real HTTP: the fake behind `kie-reconciler simulate`, the demo, the tests and the benchmarks.

`Simulator` is the whole of it; `Media`, `Failure` and `never` describe what a task brings. Nothing of the daemon is
imported here.
"""

from reconciler.bench.simulator.faults import Fault
from reconciler.bench.simulator.media import Media
from reconciler.bench.simulator.simulator import Simulator
from reconciler.bench.simulator.tasks import Failure, Order, Task, never

__all__ = ["Failure", "Fault", "Media", "Order", "Simulator", "Task", "never"]
