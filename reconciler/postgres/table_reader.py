"""The present description of the application's table, and what is built from it.

One reader of a process holds the TableShape and swaps it whole. What needs the shape is given a PresentTable and asks
it each time. The daemon reads the table again (`worker/periodic/table_watch.py`); a command reads it once.
"""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import structlog

from reconciler.errors import Config, TableChanged
from reconciler.postgres.pool import Database
from reconciler.postgres.schema import UNUSABLE, TableShape, introspect

T = TypeVar("T")

log = structlog.get_logger()

KEPT_SHAPES = 4
"""For how many shapes the statements are kept: visits that began before a change still use those of their shape."""


class PresentTable(Protocol):
    """Whatever knows the present shape of the application's table."""

    @property
    def shape(self) -> TableShape:
        """Return the present shape; TableChanged where the table cannot be used."""
        ...


class PerShape(Generic[T]):
    """What `build` makes of a shape, made once for each shape; of the present one at once."""

    def __init__(self, table: PresentTable, build: Callable[[TableShape], T]) -> None:
        self._table = table
        self._build = build
        self._built: list[tuple[TableShape, T]] = []
        self.of(table.shape)

    @property
    def present(self) -> T:
        """Return what belongs to the present shape; TableChanged where the table cannot be used."""
        return self.of(self._table.shape)

    def of(self, shape: TableShape) -> T:
        """Return what belongs to this shape."""
        for known, built in self._built:
            if known is shape:
                return built
        made = self._build(shape)
        self._built = [(shape, made), *self._built[: KEPT_SHAPES - 1]]
        return made


class TableReader:
    """Holds the shape of the application's table, and reads it again when told to."""

    def __init__(self, database: Database, shape: TableShape) -> None:
        self._database = database
        self._shape = shape
        self.trouble: str | None = None

    @property
    def shape(self) -> TableShape:
        """Return the shape as it was last read; TableChanged, with the reason, where the table cannot be used."""
        if self.trouble is not None:
            raise TableChanged(f"the application's table cannot be used: {self.trouble}")
        return self._shape

    async def read(self) -> bool:
        """Read the table; return whether it can be used and is another one than it was at the last read.

        `trouble` says afterwards why it cannot be used, None where it can. Raises what the database raises.
        """
        try:
            shape = await self._database.run(self._introspect)
        except Config as error:
            if error.code != UNUSABLE:
                raise
            if self.trouble != str(error):
                log.warning("table.unusable", reason=str(error), do=error.hint)
            self.trouble = str(error)
            return False
        former, usable = self._shape, self.trouble is None
        if usable and shape.version == former.version:
            return False
        log.warning(
            "table.changed",
            added=sorted(shape.columns.items() - former.columns.items()),
            removed=sorted(former.columns.items() - shape.columns.items()),
        )
        self._shape, self.trouble = shape, None
        return True

    async def _introspect(self) -> TableShape:
        async with self._database.transaction() as connection:
            return await introspect(connection)
