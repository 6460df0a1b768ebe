"""The database and the instance that the webhook tests use."""

from __future__ import annotations

from tests.postgres.conftest import books
from tests.worker.conftest import rig

__all__ = ["books", "rig"]
