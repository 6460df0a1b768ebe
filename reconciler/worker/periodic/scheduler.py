"""Runs each periodic task at its interval; APScheduler keeps the times.

A task that fails is logged and runs again at its next time. What the tasks do is in the other files of this folder.
The daemon starts and stops it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from reconciler.errors import ReconcilerError

log = structlog.get_logger()

CLOCK_SET = 2.0
"""Seconds of difference between the wall clock and the monotonic one, within a second, that mean the clock was set."""


@dataclass(slots=True)
class PeriodicTask:
    """What the scheduler runs; `name` is the word in the log, `interval` and `first_after` are seconds.

    An error of `run_once` is logged and changes nothing about the next run.
    """

    name: str
    interval: float
    run_once: Callable[[], Awaitable[None]]
    first_after: float = 0.0


class Scheduler:
    """Runs the periodic tasks of one instance; `tasks` has them by their names."""

    def __init__(self, tasks: Iterable[PeriodicTask]) -> None:
        self.tasks = {task.name: task for task in tasks}
        # The library's default drops a run that is a second late; a late sweep is better than none.
        late = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        self._jobs = AsyncIOScheduler(job_defaults=late)
        self._clock_offset = _clock_offset()
        self._clock_check: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Run each task for the first time `first_after` seconds from now, and then at its interval."""
        now = datetime.now(UTC)
        for task in self.tasks.values():
            self._jobs.add_job(
                partial(self._run, task),
                "interval",
                seconds=task.interval,
                id=task.name,
                next_run_time=now + timedelta(seconds=task.first_after),
            )
        self._jobs.start()
        self._check_clock()

    def stop(self) -> None:
        """Start no further run, and cancel the runs that are under way."""
        if self._clock_check is not None:
            self._clock_check.cancel()
        if self._jobs.running:
            self._jobs.shutdown(wait=False)

    @property
    def running(self) -> bool:
        """Whether runs are still started."""
        return bool(self._jobs.running)

    def run_beside(self, name: str) -> None:
        """Run the task with this name now, next to a run of it that may be under way."""
        self._jobs.add_job(partial(self._run, self.tasks[name]), id=f"{name} now", replace_existing=True)

    def _check_clock(self) -> None:
        """Run all tasks now if the wall clock was set: the library would wait for a time of the old clock."""
        offset = _clock_offset()
        if abs(offset - self._clock_offset) > CLOCK_SET:
            log.warning("clock.set", seconds=round(offset - self._clock_offset))
            for job in self._jobs.get_jobs():
                job.modify(next_run_time=datetime.now(UTC))
        self._clock_offset = offset
        self._clock_check = asyncio.get_running_loop().call_later(1.0, self._check_clock)

    async def _run(self, task: PeriodicTask) -> None:
        """Run a task once; a failure of one task never reaches another."""
        try:
            await task.run_once()
        except asyncio.CancelledError:
            # The library logs an error for a run that `stop` cancels.
            if self.running:
                raise
        except ReconcilerError as error:
            log.warning("round.failed", round=task.name, code=error.code, reason=str(error))
        except Exception:
            log.exception("round.broke", round=task.name)


def _clock_offset() -> float:
    return time.time() - time.monotonic()
