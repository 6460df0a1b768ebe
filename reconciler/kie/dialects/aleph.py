"""The dialect of Runway Aleph.

Source: docs.kie.ai, runway-api/get-aleph-video-details. successFlag 0 stands for failed and for
running; only the error fields tell them apart. `resultImageUrl` is the video's poster.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.domain.model import Observation
from reconciler.kie.dialects import outcome
from reconciler.kie.dialects.parsing import get_path, integer, lower_text


class AlephDialect:
    """successFlag 0 or 1; the result in `response.resultVideoUrl`."""

    name = "aleph"
    path = "/api/v1/aleph/record-info"

    def read(self, record: Mapping[str, object]) -> Observation:
        """Return the observation in the record; flag 0 is running unless the record names an error."""
        message, code = record.get("errorMessage"), record.get("errorCode")
        has_error = lower_text(message) or outcome.error_code(code)
        if integer(record.get("successFlag")) == 0 and has_error:
            return outcome.failed(message, code)
        return outcome.from_success_flag(record, get_path(record, "response", "resultVideoUrl"))
