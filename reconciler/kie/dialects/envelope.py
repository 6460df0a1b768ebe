"""What is around every record: HTTP status, `code`, `msg`, `data`.

The law judged here is "not heard is not failed": of all that can come back instead of a record,
nothing fails a task, and only a record can say that it failed. Called by the visit with what
kie/client.py brought.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.domain.model import Failed, Observation, TaskUnknown, Unreachable
from reconciler.kie.dialects.dialect import Dialect
from reconciler.kie.dialects.parsing import SUCCESS_CODES, TASK_ID_KEYS, printable_line, whole_number

_GENERATION_FAILED = 501

_REASONS = {
    400: "bad_request",
    401: "unauthorized",
    402: "no_credits",
    403: "blocked",
    408: "upstream_silent",
    429: "rate_limited",
    430: "rate_limited",
    433: "key_capped",
    455: "maintenance",
    505: "disabled",
    550: "busy",
}


def judge(family: Dialect, status: int, body: object | None, retry_after: float | None = None) -> Observation:
    """Everything an answer can mean, from HTTP status and body (None where it was not JSON)."""
    if not isinstance(body, Mapping):
        word = "not_json" if body is None else "bad_envelope"
        return Unreachable(_reason(status, word), f"HTTP {status}", retry_after)
    code, record = _code(status, body), body.get("data")
    said = printable_line(body.get("msg") or body.get("message"))
    if not isinstance(record, Mapping) and is_rate_limit_message(said):
        return Unreachable("rate_limited", said, retry_after)
    if code in SUCCESS_CODES and isinstance(record, Mapping):
        return family.read(record)
    if code in SUCCESS_CODES and record is None:
        return TaskUnknown("no_data")
    if code == 404:
        return TaskUnknown("not_found")
    if code == 422:
        return TaskUnknown("record_null")
    if code == _GENERATION_FAILED:
        seen = family.read(record) if isinstance(record, Mapping) else None
        return seen if isinstance(seen, Failed) else Unreachable("failed_without_record", said)
    return Unreachable(_reason(code, "bad_envelope"), said or f"code {code}", retry_after)


def is_rate_limit_message(said: str) -> bool:
    """Whether KIE says that it is asked too often, which comes under codes of its own."""
    return "frequency is too high" in said.lower()


def other_task(body: object | None, asked: str) -> Unreachable | None:
    """What an answer is whose record names another task than the one asked about; None where it names that or none."""
    record = body.get("data") if isinstance(body, Mapping) else None
    if not isinstance(record, Mapping):
        return None
    for named in map(record.get, TASK_ID_KEYS):
        # A database that finds an id by other capitals, or by blanks around it, tells it as it was made.
        if isinstance(named, str) and named.strip() and named.strip().casefold() != asked.strip().casefold():
            return Unreachable("other_task", printable_line(f"the record is of {named}"))
    return None


def _code(status: int, body: Mapping[str, object]) -> int | None:
    """The body's code; the HTTP status where the body has none or contradicts a failed request."""
    code = whole_number(body.get("code"))
    failed = status >= 400
    if code is None:
        return status if failed else None
    return status if failed and code in SUCCESS_CODES else code


def _reason(code: int | None, otherwise: str) -> str:
    """A stable word for the code; metrics count by it."""
    if code is None or code in SUCCESS_CODES:
        return otherwise
    if code in _REASONS:
        return _REASONS[code]
    if 500 <= code < 600:
        return "server_error"
    return "unexpected_code" if otherwise == "bad_envelope" else otherwise
