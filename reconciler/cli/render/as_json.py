"""Answers as JSON, for programs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, is_dataclass
from datetime import datetime, timedelta
from uuid import UUID


def show_json(value: object) -> None:
    """Print dataclasses, lists and mappings of them as one JSON document; times as ISO 8601, durations as seconds."""
    sys.stdout.write(json.dumps(value, default=as_plain, indent=2) + "\n")


def as_plain(value: object) -> object:
    """Convert a value that JSON has no form for; the `default` of `json.dumps`."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
