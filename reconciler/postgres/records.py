"""From a record of the database to a dataclass, and from a name that anybody may send to the key of a row.

Every reader of rows in this folder calls it.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar
from uuid import UUID

T = TypeVar("T")

_ABOVE_LARGEST = {"bigint": 1 << 63, "integer": 1 << 31, "smallint": 1 << 15}


def as_key(name: str, id_type: str) -> str | None:
    """Return the name as the key of a row, None where it cannot be one: a task's id is no uuid and no number."""
    if id_type == "uuid":
        try:
            return str(UUID(name))
        except ValueError:
            return None
    if id_type in _ABOVE_LARGEST:
        digits = name.isascii() and name.isdigit() and len(name) < 20
        return str(int(name)) if digits and int(name) < _ABOVE_LARGEST[id_type] else None
    return name if name.isprintable() else None


def build(kind: type[T], record: Mapping[str, Any]) -> T:
    """Build a dataclass from the record's columns of the same names."""
    return kind(**{field.name: record[field.name] for field in fields(kind)})  # type: ignore[arg-type]
