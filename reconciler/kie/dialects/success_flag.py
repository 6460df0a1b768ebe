"""The dialects whose records say how a task ended in `successFlag`: each differs in its path and its results.

Source: docs.kie.ai, veo3-api/get-veo-3-video-details (also extensions and 4K upgrades),
flux-kontext-api/get-image-details, mj-api/get-mj-task-details, luma-api/get-luma-modify-details,
runway-api/get-aleph-video-details, 4o-image-api/get-4-o-image-details and 4o's quickstart.

Neighbours of the results that are none: Veo's `originUrls` (the videos before cropping) and `imageUrls` (posters), Flux
Kontext's `originImageUrl` (the uploaded image, which expires after ten minutes), Luma's `originUrls` (the input video),
Aleph's `resultImageUrl` (a poster). Midjourney's results are objects with one address each; its callbacks have plain
strings in the same place. An extended Veo video has the new segment in `resultUrls` and the whole film in
`fullResultUrls`, which counts only without the first.
"""

from collections.abc import Mapping

from reconciler.domain.observations import Failed, Observation, Working
from reconciler.kie.dialects import outcome
from reconciler.kie.dialects.parsing import integer, lower_text
from reconciler.kie.dialects.places import Place, listed


class SuccessFlagDialect:
    """successFlag 0 to 3; `places` are those in which a record may have its results.

    `documents` reads results that are words. `posters` is true where the results are films: an image beside them is a
    poster.
    """

    def __init__(
        self, name: str, path: str, *places: Place, documents: Place | None = None, posters: bool = True
    ) -> None:
        self.name = name
        self.path = path
        self._places = places
        self._documents = documents
        self._posters = posters

    def read(self, record: Mapping[str, object]) -> Observation:
        """Return the observation in the record; the pages call flag 0 "generating" and name no queue."""
        match integer(record.get("successFlag")):
            case 0:
                return Working("generating", generating=True)
            case 1:
                return self._ready(record)
            case 2 | 3:
                return self._failed(record)
            case _:
                return outcome.unknown_state(record.get("successFlag"))

    def _ready(self, record: Mapping[str, object]) -> Observation:
        return outcome.ready(record, self._places, documents=self._documents, posters=self._posters)

    def _failed(self, record: Mapping[str, object]) -> Observation:
        failure: Failed = outcome.failed(record.get("errorMessage"), record.get("errorCode"))
        return outcome.failed_beside(record, self._places, failure)


class _Luma(SuccessFlagDialect):
    def read(self, record: Mapping[str, object]) -> Observation:
        """Return the observation in the record; flag 4 means that only KIE's callback failed."""
        return self._ready(record) if integer(record.get("successFlag")) == 4 else super().read(record)


class _Aleph(SuccessFlagDialect):
    def read(self, record: Mapping[str, object]) -> Observation:
        """Return the observation in the record; flag 0 is running unless the record names an error."""
        message, code = record.get("errorMessage"), record.get("errorCode")
        if integer(record.get("successFlag")) == 0 and (lower_text(message) or outcome.error_code(code)):
            return self._failed(record)
        return super().read(record)


class _Gpt4o(SuccessFlagDialect):
    def read(self, record: Mapping[str, object]) -> Observation:
        """Return the observation in the record; `status` decides if the flag is absent or 0."""
        if integer(record.get("successFlag")) not in {None, 0}:
            return super().read(record)
        match lower_text(record.get("status")):
            case "generating" | "processing" as state:
                return Working(state, generating=True)
            case "success":
                return self._ready(record)
            case "create_task_failed" | "generate_failed":
                return self._failed(record)
            case "":
                return super().read(record)
            case _:
                return outcome.unknown_state(record.get("status"))


_RESULT_URLS = listed("response", "resultUrls")

VEO = SuccessFlagDialect(
    "veo", "/api/v1/veo/record-info", _RESULT_URLS, listed("info", "resultUrls"), listed("response", "fullResultUrls")
)
FLUX_KONTEXT = SuccessFlagDialect(
    "flux_kontext", "/api/v1/flux/kontext/record-info", listed("response", "resultImageUrl"), posters=False
)
MIDJOURNEY = SuccessFlagDialect(
    "midjourney", "/api/v1/mj/record-info", listed("resultInfoJson", "resultUrls"), posters=False
)
LUMA = _Luma("luma", "/api/v1/modify/record-info", _RESULT_URLS)
ALEPH = _Aleph("aleph", "/api/v1/aleph/record-info", listed("response", "resultVideoUrl"))
GPT4O = _Gpt4o(
    "gpt4o", "/api/v1/gpt4o-image/record-info", _RESULT_URLS, listed("response", "result_urls"), posters=False
)
