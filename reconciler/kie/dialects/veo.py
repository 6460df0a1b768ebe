"""The dialect of Veo 3.1, its extensions and its 4K upgrades.

Source: docs.kie.ai, veo3-api/get-veo-3-video-details. `originUrls` are the same videos before
cropping, `imageUrls` their posters: neither is a result.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.domain.model import Observation
from reconciler.kie.dialects import outcome
from reconciler.kie.dialects.parsing import get_path


class VeoDialect:
    """successFlag 0 to 3; results in `response.resultUrls`."""

    name = "veo"
    path = "/api/v1/veo/record-info"

    def read(self, record: Mapping[str, object]) -> Observation:
        """Return the observation in the record."""
        return outcome.from_success_flag(record, get_path(record, "response", "resultUrls"))
