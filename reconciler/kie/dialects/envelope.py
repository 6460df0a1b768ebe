"""Reads the envelope around every record: HTTP status, `code`, `msg`, `data`.

Law four, "not heard is not failed": no answer without a record fails a task, only a record can say that it failed. Such
a record is KIE's word whatever surrounds it: KIE documents failed records in envelopes of 400, 422, 500 and 501. The
visit calls this with the answers of `kie/client.py`.
"""

from collections.abc import Mapping

from reconciler.domain.observations import Failed, Observation, Ready, TaskUnknown, Unreachable
from reconciler.kie.dialects.dialect import Dialect
from reconciler.kie.dialects.parsing import SUCCESS_CODES, TASK_ID_KEYS, integer, printable_line

_GENERATION_FAILED = 501
_ENVELOPES_OF_RECORDS = frozenset({400, 422, 500, _GENERATION_FAILED})
"""The codes under which KIE is known to send the record of a task that ended."""

_REASONS = {
    400: "bad_request", 401: "unauthorized", 402: "no_credits", 403: "blocked", 408: "upstream_silent",
    429: "rate_limited", 430: "rate_limited", 433: "key_capped", 455: "maintenance", 505: "disabled", 550: "busy",
}  # fmt: skip


def judge(dialect: Dialect, status: int, body: object | None, retry_after: float | None = None) -> Observation:
    """Return the observation in an answer, from its HTTP status and body (None if it was not JSON)."""
    if not isinstance(body, Mapping):
        reason = "not_json" if body is None else "bad_envelope"
        return Unreachable(_reason(status, reason), f"HTTP {status}", retry_after)
    code, record = answer_code(status, body), body.get("data")
    message = printable_line(body.get("msg") or body.get("message"))
    if not isinstance(record, Mapping) and is_rate_limit_message(message):
        return Unreachable("rate_limited", message, retry_after)
    if code in SUCCESS_CODES and isinstance(record, Mapping):
        return dialect.read(record)
    if code in _ENVELOPES_OF_RECORDS and isinstance(record, Mapping):
        ended = _ended(dialect, record)
        if ended is not None and (code == _GENERATION_FAILED or _names_task(record)):
            return ended
    if code in SUCCESS_CODES and record is None:
        return TaskUnknown("no_data")
    if code == 404:
        return TaskUnknown("not_found")
    if code == 422:
        return TaskUnknown("record_null")
    if code == _GENERATION_FAILED:
        return Unreachable("failed_without_record", message)
    return Unreachable(_reason(code, "bad_envelope"), message or f"code {code}", retry_after)


def _ended(dialect: Dialect, record: Mapping[str, object]) -> Observation | None:
    """Return how the task ended by a record in an envelope of an error; None if the record does not say."""
    observation = dialect.read(record)
    if isinstance(observation, Failed) or (isinstance(observation, Ready) and observation.available):
        return observation
    return None


def _names_task(record: Mapping[str, object]) -> bool:
    return any(isinstance(named := record.get(key), str) and named.strip() for key in TASK_ID_KEYS)


def is_rate_limit_message(message: str) -> bool:
    """Return whether KIE reports a rate limit, which it does with various codes."""
    return "frequency is too high" in message.lower()


def other_task(body: object | None, task_id: str) -> Unreachable | None:
    """Return an observation if the record is of another task than the requested one, else None."""
    record = body.get("data") if isinstance(body, Mapping) else None
    if not isinstance(record, Mapping):
        return None
    for named in map(record.get, TASK_ID_KEYS):
        # A database that ignores case and blanks in ids returns the id as it was created.
        if isinstance(named, str) and named.strip() and named.strip().casefold() != task_id.strip().casefold():
            return Unreachable("other_task", printable_line(f"the record is of {named}"))
    return None


def answer_code(status: int, body: Mapping[str, object]) -> int | None:
    """Return the body's code; the HTTP status if the body has none, or says success of a failed request."""
    code = integer(body.get("code"))
    failed = status >= 400
    if code is None:
        return status if failed else None
    return status if failed and code in SUCCESS_CODES else code


def _reason(code: int | None, otherwise: str) -> str:
    """Return the stable word for the code; metrics count by it."""
    if code is None or code in SUCCESS_CODES:
        return otherwise
    if code in _REASONS:
        return _REASONS[code]
    if 500 <= code < 600:
        return "server_error"
    return "unexpected_code" if otherwise == "bad_envelope" else otherwise
