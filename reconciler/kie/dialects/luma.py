"""The dialect of Luma Modify.

Source: docs.kie.ai, luma-api/get-luma-modify-details. `originUrls` is the input video.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.domain.model import Observation
from reconciler.kie.dialects import outcome
from reconciler.kie.dialects.parsing import get_path, integer


class LumaDialect:
    """successFlag 0 to 4; results in `response.resultUrls`."""

    name = "luma"
    path = "/api/v1/modify/record-info"

    def read(self, record: Mapping[str, object]) -> Observation:
        """Return the observation in the record; flag 4 means that only KIE's callback failed."""
        found = get_path(record, "response", "resultUrls")
        if integer(record.get("successFlag")) == 4:
            return outcome.ready(record, found)
        return outcome.from_success_flag(record, found)
