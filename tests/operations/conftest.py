"""The instance on which operations are tried: the same as behind the HTTP routes."""

from __future__ import annotations

from tests.http.conftest import built, desk, kie, pool

__all__ = ["built", "desk", "kie", "pool"]
