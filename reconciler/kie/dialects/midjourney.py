"""The dialect of Midjourney.

Source: docs.kie.ai, mj-api/get-mj-task-details. Its results are objects with one
address each; its callbacks have plain strings in the same place.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.domain.model import Observation
from reconciler.kie.dialects import outcome
from reconciler.kie.dialects.parsing import get_path


class MidjourneyDialect:
    """successFlag 0 to 3; results in `resultInfoJson.resultUrls[].resultUrl`."""

    name = "midjourney"
    path = "/api/v1/mj/record-info"

    def read(self, record: Mapping[str, object]) -> Observation:
        """Return the observation in the record."""
        return outcome.from_success_flag(record, get_path(record, "resultInfoJson", "resultUrls"))
