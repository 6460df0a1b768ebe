"""The dialect of Flux Kontext.

Source: docs.kie.ai, flux-kontext-api/get-image-details. `originImageUrl` is the uploaded image, which expires after ten
minutes: it is no result.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.domain.model import Observation
from reconciler.kie.dialects import outcome
from reconciler.kie.dialects.parsing import get_path


class FluxKontextDialect:
    """successFlag 0 to 3; the result in `response.resultImageUrl`."""

    name = "flux_kontext"
    path = "/api/v1/flux/kontext/record-info"

    def read(self, record: Mapping[str, object]) -> Observation:
        """Return the observation in the record."""
        return outcome.from_success_flag(record, get_path(record, "response", "resultImageUrl"))
