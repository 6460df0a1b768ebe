"""The connections of one process, in pools by what may keep their statements waiting."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from reconciler.postgres.pool import Database, Trouble


@dataclass(frozen=True, slots=True)
class Pools:
    """The connections of one process by what may keep them waiting: 14 at most, and the listener's one.

    Triggers and hooks of the application run in `application` and nowhere else: only its statements can wait for rows
    that the application locks. Those of `leases` do not even name the application's table.

    `main`: reads, and all other writes of our own tables. `leases`: renewals, heartbeats and the lead. `claims`: claims
    and the sweep's discovery. `callbacks`: the inbox; one connection stores thousands of callbacks a second.
    `application`: every statement that writes public.generations. Only `leases` has an empty search_path: policies of
    public.generations run where it is read, and may call functions that name no schema.
    """

    main: Database
    leases: Database
    claims: Database
    callbacks: Database
    application: Database

    SIZES: ClassVar[Mapping[str, int]] = MappingProxyType(
        {"main": 5, "leases": 1, "claims": 2, "callbacks": 2, "application": 4}
    )

    @classmethod
    def of(cls, dsn: str, stack: contextlib.AsyncExitStack) -> "Pools":
        """Return the pools; each opens with its first statement, and closes with the stack."""
        trouble = Trouble()
        return cls(
            **{name: pool(dsn, size, stack, trouble, pinned=name == "leases") for name, size in cls.SIZES.items()}
        )


def pool(
    dsn: str,
    size: int,
    stack: contextlib.AsyncExitStack,
    trouble: Trouble | None = None,
    *,
    pinned: bool = False,
) -> Database:
    """Return a pool that opens with its first statement, and closes with the stack; `pinned` as in `Database`."""
    database = Database(dsn, size=size, trouble=trouble, pinned=pinned)
    stack.push_async_callback(database.close)
    return database
