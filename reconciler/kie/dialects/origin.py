"""Finds the generation that a task was made for: a record repeats the callback address of its createTask request.

Source: docs.kie.ai, market/common/get-task-detail: `param` is the request as JSON text. Only its top-level
`callBackUrl` is read, because deeper fields hold users' input. The visit calls this for tasks that a callback offers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit


def generation_named(record: object) -> str | None:
    """Return the generation id in the task's callback address; None if there is none, or more than one."""
    param = record.get("param") if isinstance(record, Mapping) else None
    if not isinstance(param, str):
        return None
    try:
        request = json.loads(param)
        address = request.get("callBackUrl") if isinstance(request, dict) else None
        query = urlsplit(address).query if isinstance(address, str) else ""
        named = [value for name, value in parse_qsl(query, keep_blank_values=True) if name == "generation"]
    except (ValueError, RecursionError):
        return None
    return named[0] if len(named) == 1 and named[0] else None
