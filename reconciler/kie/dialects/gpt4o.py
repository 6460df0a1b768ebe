"""The dialect of 4o image.

Source: docs.kie.ai, 4o-image-api/get-4-o-image-details (`resultUrls`) and its quickstart
(`result_urls`, and `status` beside the flag).
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.domain.model import Observation, Working
from reconciler.kie.dialects import outcome
from reconciler.kie.dialects.parsing import get_path, integer, lower_text


class Gpt4oDialect:
    """successFlag 0 to 2 and `status`; results in `response.resultUrls` or `result_urls`."""

    name = "gpt4o"
    path = "/api/v1/gpt4o-image/record-info"

    def read(self, record: Mapping[str, object]) -> Observation:
        """Return the observation in the record; `status` decides if the flag is absent or 0."""
        found = get_path(record, "response", "resultUrls") or get_path(record, "response", "result_urls")
        if integer(record.get("successFlag")) not in {None, 0}:
            return outcome.from_success_flag(record, found)
        match lower_text(record.get("status")):
            case "generating":
                return Working("generating", generating=True)
            case "success":
                return outcome.ready(record, found)
            case "create_task_failed" | "generate_failed":
                return outcome.failed(record.get("errorMessage"), record.get("errorCode"))
            case "":
                return outcome.from_success_flag(record, found)
            case _:
                return outcome.unknown_state(record.get("status"))
