"""The database and the instance on which webhooks are tried."""

from __future__ import annotations

from tests.postgres.conftest import books
from tests.worker.conftest import rig

__all__ = ["books", "rig"]
