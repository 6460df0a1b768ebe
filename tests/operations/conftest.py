"""The parts on which operations are tested: the same as behind the HTTP routes."""

from __future__ import annotations

from tests.http.conftest import built, kie, operator, pool

__all__ = ["built", "kie", "operator", "pool"]
