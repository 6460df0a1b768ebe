"""Which generation a task was made for: the address that KIE was told to call back is echoed in the task's record.

Source: docs.kie.ai, market/common/get-task-detail: `param` is the request as JSON text. What a user gave in lies deeper
in it, so only the text's own `callBackUrl` is read. Called by the visit for tasks that a callback offers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit


def generation_named(record: object) -> str | None:
    """Return the generation that the task's callback address names; None where it names none, or more than one."""
    param = record.get("param") if isinstance(record, Mapping) else None
    if not isinstance(param, str):
        return None
    try:
        asked = json.loads(param)
        address = asked.get("callBackUrl") if isinstance(asked, dict) else None
        query = urlsplit(address).query if isinstance(address, str) else ""
        named = [value for name, value in parse_qsl(query, keep_blank_values=True) if name == "generation"]
    except (ValueError, RecursionError):
        return None
    return named[0] if len(named) == 1 and named[0] else None
