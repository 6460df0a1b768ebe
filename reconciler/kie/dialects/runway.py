"""The dialect of Runway video and its extensions.

Source: docs.kie.ai, runway-api/get-ai-video-details. In the page's example of a waiting
task `failCode` and `failMsg` are set: only `state` says that a task failed. `imageUrl` is a poster.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.domain.model import Observation, Working
from reconciler.kie.dialects import outcome
from reconciler.kie.dialects.parsing import get_path, lower_text


class RunwayDialect:
    """`state` is the state of the task; the result is in `videoInfo.videoUrl`."""

    name = "runway"
    path = "/api/v1/runway/record-detail"

    def read(self, record: Mapping[str, object]) -> Observation:
        """Return the observation in the record."""
        match state := lower_text(record.get("state")):
            case "wait" | "waiting" | "queueing" | "queuing":
                return Working(state)
            case "generating":
                return Working(state, generating=True)
            case "success":
                return outcome.ready(record, get_path(record, "videoInfo", "videoUrl"))
            case "fail":
                return outcome.failed(record.get("failMsg"), record.get("failCode"))
            case _:
                return outcome.unknown_state(record.get("state"))
