"""The 1080p version of a Veo film: KIE makes no task for it, so its row follows the film's task at another page.

Source: docs.kie.ai, veo3-api/get-veo-3-1080-p-video. The page answers with `resultUrl`, and with code 400 or 422 and
"1080P is processing" until the film is ready. To ask again is the documented use and orders nothing.

The row's task id is the film's own id with a suffix, `<id>~1080p-<index>`, because a shop's table may hold each task
id only once. KIE never sees the suffix. `~` stands unescaped in an address; what follows a `#` would not be sent.
"""

import re
from collections.abc import Mapping

from reconciler.domain.observations import Observation, Working
from reconciler.kie.dialects import outcome
from reconciler.kie.dialects.dialect import Dialect
from reconciler.kie.dialects.parsing import integer, printable_line
from reconciler.kie.dialects.places import listed

MAX_INDEX = 99

_TASK_ID = re.compile(r"(?P<film>.+)~1080p-(?P<index>[0-9]{1,2})")
_PROCESSING_CODES = frozenset({400, 422})


class _Veo1080p:
    name = "veo_1080p"
    path = "/api/v1/veo/get-1080p-video"

    def read(self, record: Mapping[str, object]) -> Observation:
        """Return the observation in the record; a record without an address is one of a film that is not ready."""
        return outcome.ready(record, _PLACES) if record.get("resultUrl") else _WORKING


_WORKING = Working("processing", generating=True)
_PLACES = (listed("resultUrl"),)

VEO_1080P: Dialect = _Veo1080p()


def task_id(film: str, index: int) -> str:
    """Return the row's task id for the 1080p version of result `index` of a Veo task."""
    return f"{film}~1080p-{index}"


def is_task_id(value: str) -> bool:
    """Return whether a row's task id stands for a 1080p version."""
    return _TASK_ID.fullmatch(value) is not None


def asked(dialect: Dialect, value: str) -> tuple[str, str]:
    """Return the path and the task id with which KIE is asked about a row's task in this dialect."""
    found = _TASK_ID.fullmatch(value) if dialect is VEO_1080P else None
    if found is None:
        return dialect.path, value
    return f"{dialect.path}?index={int(found['index'])}", found["film"]


def processing(dialect: Dialect, body: object) -> Observation | None:
    """Return Working if the answer says that the 1080p version is being made, None if it says anything else."""
    if dialect is not VEO_1080P or not isinstance(body, Mapping):
        return None
    message = printable_line(body.get("msg") or body.get("message")).lower()
    return _WORKING if integer(body.get("code")) in _PROCESSING_CODES and "processing" in message else None
