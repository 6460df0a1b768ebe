"""Which daemons may run on a schema: the level of this version, what the database requires, and who is older.

A level is a small integer. It grows with the first file of phase `after` of a release, and each such file names the
level that a daemon needs from then on. `migrate` lets the file wait while a daemon with a lower level is alive; a
daemon reads what is required at its start and with every heartbeat.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import asyncpg

from reconciler.errors import Config

LEVEL: Final = 1
"""The level of this version. Version 0.1.0, which knows of no levels, counts as 0."""

REQUIRED_VERSION: Final = f"""
SELECT requires_version FROM reconciler.schema_version WHERE requires_level > {LEVEL}
 ORDER BY requires_level DESC LIMIT 1"""
"""Reads the first version that may run on this database, no row where this one may."""

ALIVE: Final = timedelta(minutes=2)
"""How long after its last heartbeat a daemon counts as alive: four leases of the default length."""

# A column that is not there yet reads as null: `--check` is asked before the first migration, too.
_OLDER: Final = """
SELECT host, pid, version FROM reconciler.instances AS i
 WHERE seen_at > now() - $1::interval AND coalesce((to_jsonb(i) ->> 'level')::int, 0) < $2
 ORDER BY host, pid
"""


@dataclass(frozen=True, slots=True)
class OlderDaemon:
    """A daemon that is alive and has a lower level than a file requires."""

    host: str
    pid: int
    version: str

    def __str__(self) -> str:
        return f"{self.version} on {self.host} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a daemon needs to run after a file: its level, and the first version with that level."""

    level: int
    version: str

    @classmethod
    def read(cls, mark: str) -> "Requirement":
        """Read the text of the mark `@after LEVEL VERSION`; ValueError where it says anything else."""
        level, version = mark.split()
        return cls(int(level), version)


def alive_within(lease_seconds: float) -> timedelta:
    """Return how long after its last heartbeat a daemon counts as alive, for leases of this length."""
    return timedelta(seconds=4 * lease_seconds)


async def older_daemons(connection: asyncpg.Connection, level: int, alive: timedelta) -> tuple[OlderDaemon, ...]:
    """Return the daemons that were seen within `alive` and have a lower level than this."""
    rows = await connection.fetch(_OLDER, alive, level)
    return tuple(OlderDaemon(row["host"], row["pid"], row["version"]) for row in rows)


def outdated(version: str) -> Config:
    """Return the error of a program that is older than the database allows; `version` is the first that may run."""
    return Config(f"this database needs kie-reconciler {version} or newer", code="outdated", hint="install it")
