"""What the reason of a generation that waits means, and what a person does about it.

Pure. The reason is what a visit wrote down: a stage and a code, such as `fetch: timeout, …`, or a sentence. The words
are those of `absorb`, `decide`, `locked_write` and the ledger; docs/OPERATIONS.md lists them. `diagnosis.py` calls it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reconciler.domain.findings.findings import FindingThresholds, findings
from reconciler.domain.findings.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Meaning:
    """Why a generation waits, and what a person does about it, in one sentence each."""

    cause: str
    remedy: str


def meaning(reason: str | None, finding: str | None) -> Meaning:
    """Return what the reason and the finding of a waiting generation mean; every combination has a meaning.

    The reason says more than the finding, except where the finding says that no answer can end the wait.
    """
    if finding in _PRECEDING:
        return _BY_FINDING[finding]
    return _of_reason(reason or "", finding) or _of_finding(finding) or _OTHER


def _of_reason(reason: str, finding: str | None) -> Meaning | None:
    if reason.endswith("; a callback of the task says success"):
        return _BY_CALLBACK
    if coded := re.match(r"(KIE|fetch|store|prove): (\w+)", reason):
        stage, code = coded.groups()
        return _BY_CODE.get((stage, code)) or _BY_STAGE[stage]
    if reason.startswith("KIE does not know the task"):
        return _BY_FINDING["task_unknown"] if finding == "task_unknown" else _NOT_KNOWN_YET
    return next((meant for pattern, meant in _BY_SENTENCE if re.match(pattern, reason)), None)


def _of_finding(finding: str | None) -> Meaning | None:
    if finding is None or finding in _BY_FINDING:
        return _BY_FINDING.get(finding or "")
    # The advice is made from the figures of the whole table: here, from those of this one row.
    alone = Snapshot(in_flight={}, canary_age=0, sweep_age=0, listening=True, waiting={finding: 1})
    found = findings(alone, FindingThresholds())
    return Meaning(re.sub(r" \(1 \w+\)", "", found[0].says), found[0].do) if found else None


_WAIT = "Wait: it is tried again by itself."
_FETCHED_AGAIN = "Wait: it is fetched again, and after every third failure KIE is asked where the result is now."
_KIE_AGAIN = "Wait: KIE is asked again by itself, and nothing fails meanwhile."
_FIX_BUCKET = "Correct the bucket or what stands in front of it, then run `kie-reconciler retry ID`."

_OTHER = Meaning("The last attempt did not end it.", f"{_WAIT} The log has each attempt.")
_NOT_KNOWN_YET = Meaning(
    "KIE does not know the task yet; it can be slow to know a new one.",
    "Wait: it is asked about again at once, with every key.",
)
_BY_CALLBACK = Meaning(
    "KIE cannot be asked, so what the task's callbacks said is being delivered.",
    "Wait: the delivery is tried; what stands before the semicolon is why KIE cannot be asked.",
)
_BY_STAGE: Mapping[str, Meaning] = {
    "KIE": Meaning("KIE gives no usable answer about the task.", _KIE_AGAIN),
    "fetch": Meaning("The result could not be fetched.", _FETCHED_AGAIN),
    "store": Meaning("Storage did not take the result.", _WAIT),
    "prove": Meaning("What lies in storage could not be verified.", _WAIT),
}

_KEYS = Meaning(
    "KIE rejects the API key, or requests from this address.",
    "Correct KIE_API_KEY and its siblings, or the key's list of allowed addresses at kie.ai, and restart.",
)
_UNPAID = Meaning(
    "KIE's account has no credits, or the key's cap is reached.",
    "Top up at kie.ai or raise the key's cap; everything goes on by itself.",
)
_ASKING: Iterable[tuple[str, Meaning]] = (
    (
        "timeout network server_error busy maintenance upstream_silent disabled",
        Meaning("KIE is away, or says so itself.", _KIE_AGAIN),
    ),
    ("unauthorized blocked", _KEYS),
    (
        "key_missing",
        Meaning(
            "The key that made the task is no longer set.",
            "Set it again beside the new one (KIE_API_KEY, KIE_API_KEY_PHOTO, KIE_API_KEY_VIDEO), and restart.",
        ),
    ),
    ("no_credits key_capped", _UNPAID),
    (
        "rate_limited",
        Meaning(
            "The key is used too fast, so KIE is not asked with it for a moment.",
            "Wait; if it stays, lower RECONCILER_POLL_RATE, and look who else uses the key.",
        ),
    ),
    (
        "path_silent",
        Meaning(
            "This page of KIE has answered none of several rows, so only one row at a time is asked about there.",
            "Wait: the row is asked about when the page answers again.",
        ),
    ),
    ("no_room", Meaning("Other requests to KIE have every place.", "Wait: the row comes again within seconds.")),
    (
        "not_json bad_envelope unknown_state unexpected_code bad_request failed_without_record too_large unaskable",
        Meaning(
            "KIE gives an answer that this version does not understand.",
            "Wait, and report the answer: KIE is asked again, and a newer version may read it.",
        ),
    ),
    (
        "other_task",
        Meaning(
            "The record that came is another task's, so nothing of it is believed.",
            "Wait: KIE is asked again over new connections; if it stays, report it with both ids.",
        ),
    ),
)
_FETCHING: Iterable[tuple[str, Meaning]] = (
    (
        "timeout network short empty tls bad_answer http_5xx http_3xx http_4xx http_1xx http_408 http_425 http_429",
        Meaning("The host of the result is away, or broke off.", _FETCHED_AGAIN),
    ),
    (
        "host_silent",
        Meaning(
            "The host of the result has sent no byte to several rows, so only one row at a time is fetched from it.",
            "Wait; if `curl` from this machine gets an answer there, look at the way out and at DNS.",
        ),
    ),
    (
        "no_room",
        Meaning(
            "Other deliveries have every place.",
            "Wait; `kie-reconciler top` shows what takes long, RECONCILER_CONCURRENCY is the number of places.",
        ),
    ),
    ("http_403 http_404 http_410", Meaning("The address of the result is dead.", "Wait: KIE is asked for a new one.")),
    ("not_media", Meaning("A page or an error came instead of the file.", _FETCHED_AGAIN)),
    (
        "host_unlisted",
        Meaning(
            "The result is on a host that is not listed.",
            "If the host is KIE's, add it to RECONCILER_RESULT_HOSTS and restart.",
        ),
    ),
    (
        "address_refused address_malformed scheme credentials redirects encoding_refused",
        Meaning(
            "The address or the form of the result is not acceptable.",
            "Report it with the words above; the row is tried again by itself.",
        ),
    ),
    (
        "type_refused",
        Meaning(
            "The file is of a type that is not stored.",
            "If it is a result, add its type and an extension to RECONCILER_EXTRA_TYPES, and restart.",
        ),
    ),
    (
        "too_large",
        Meaning("The file is larger than this installation allows.", "Raise RECONCILER_MAX_ASSET_BYTES and restart."),
    ),
    (
        "spool_full spool_error",
        Meaning(
            "The spool on this machine is full, or cannot be used.",
            "Free space at RECONCILER_SPOOL_DIR, correct its rights, or raise RECONCILER_SPOOL_MAX_BYTES.",
        ),
    ),
)
_STORING: Iterable[tuple[str, Meaning]] = (
    (
        "storage_key_rejected storage_denied",
        Meaning(
            "Storage rejects the key, or a policy forbids the object.",
            "Correct SUPABASE_SERVICE_ROLE_KEY or the bucket's policies, and restart.",
        ),
    ),
    ("bucket_missing", Meaning("The bucket is not there.", _FIX_BUCKET)),
    ("bucket_refuses_type", Meaning("The bucket does not take files of this type.", _FIX_BUCKET)),
    ("bucket_refuses_size", Meaning("The bucket does not take files of this size.", _FIX_BUCKET)),
    ("bad_path bucket_private", Meaning("The bucket refuses the object or hides it from browsers.", _FIX_BUCKET)),
    (
        "storage_busy storage_5xx storage_refused not_json timeout network upload_lost upload_stalled",
        Meaning("Storage is away or busy.", "Wait: the result is sent again, a large one from where it stopped."),
    ),
    (
        "storage_full storage_disk storage_folder",
        Meaning(
            "The storage folder is full, or cannot be written.",
            "Free space in RECONCILER_STORAGE_LOCAL_DIR, or correct its rights.",
        ),
    ),
    (
        "proof_failed",
        Meaning(
            "What lies in storage is not what was sent, so it is sent again.",
            "Wait; if it stays, something rewrites objects in the bucket.",
        ),
    ),
)


def _by_code() -> Mapping[tuple[str, str], Meaning]:
    stages = {"KIE": _ASKING, "fetch": _FETCHING, "store": _STORING, "prove": _STORING}
    return {
        (stage, code): meant for stage, groups in stages.items() for codes, meant in groups for code in codes.split()
    }


_BY_CODE = _by_code()

_BY_FINDING: Mapping[str, Meaning] = {
    "key_rejected": _KEYS,
    "unpaid_account": _UNPAID,
    "storage_refuses": Meaning("Storage refuses the result.", _FIX_BUCKET),
    "host_unlisted": _BY_CODE["fetch", "host_unlisted"],
    "hook_failed": Meaning(
        "The application's hook throws, so the row is not written.",
        "Correct the function reconciler.on_failed; the write is tried again by itself.",
    ),
    "row_refused": Meaning(
        "The application's table rejects our write.",
        "Correct the trigger, constraint or column that is named; the write is tried again by itself.",
    ),
    "row_locked": Meaning(
        "Another session holds a lock that our write needs.",
        "Wait; if it stays, end that session: pg_stat_activity, oldest xact_start.",
    ),
    "parked": Meaning(
        "RECONCILER_GIVE_UP_AFTER has passed, but KIE gives no answer that allows failing it.",
        "Add the API key of the account that made the task; if there is none, set the row to `cancelled`.",
    ),
    "empty_success": Meaning(
        "KIE reports success without any output.",
        "Wait: it fails if KIE keeps answering so for 40 minutes; later output is delivered.",
    ),
    "unreadable_output": Meaning(
        "KIE reports success with output that this version cannot read.",
        "Upgrade, or report model and fields; the row waits, and KIE keeps the result for 14 days.",
    ),
    "over_limit": Meaning(
        "The result exceeds a limit of this installation.",
        "Raise RECONCILER_MAX_RESULTS or RECONCILER_MAX_ASSET_BYTES, or add the type, and restart.",
    ),
    "task_unknown": Meaning(
        "KIE knows the task on none of its pages and with none of the keys that are set.",
        "Add the key of the account that made the task (KIE_API_KEY, KIE_API_KEY_PHOTO, KIE_API_KEY_VIDEO), and"
        " restart; if nobody made it, set the row to `cancelled`.",
    ),
    "results_missing": Meaning(
        "It is delivered without every result: KIE announced more than it has given.",
        "Nothing, if KIE gives them later: they are added. Else ask KIE's support with the task's id.",
    ),
    "asset_overwritten": Meaning(
        "The application keeps replacing our address by the provider's, which expires.",
        "Let it write asset_url only where it is NULL; our address is written again when a repair is a day old.",
    ),
    "no_task": Meaning(
        "The row has no task id, so KIE cannot be asked.",
        "Write the task id into the row, or `failed` where the application created no task.",
    ),
    "row_waits": Meaning(
        "It can continue only after a problem is fixed.", "Fix what is named, then run `kie-reconciler retry ID`."
    ),
}
"""Of the findings that a row can have; what another finding means is made from its advice."""

_PRECEDING = frozenset({"parked"})
"""Findings that say more than the last reason: the row waits for them, whatever the last attempt met."""

_BY_SENTENCE: Iterable[tuple[str, Meaning]] = (
    ("KIE says success, without any output", _BY_FINDING["empty_success"]),
    ("KIE says success, with output that cannot be read", _BY_FINDING["unreadable_output"]),
    ("KIE says success", Meaning("KIE has finished; its results are to be fetched.", "Wait: they are delivered next.")),
    ("KIE says ", Meaning("KIE has accepted the task and has not finished it.", "Wait: KIE is asked again by itself.")),
    ("KIE gives ", _BY_FINDING["over_limit"]),
    (
        "a statement does not fit the table",
        Meaning(
            "The application's table has changed since this attempt began.",
            "Wait: the table is read again. If it stays, `kie-reconciler doctor` says what the table lacks.",
        ),
    ),
    (
        r"\d+ of \d+ results are stored",
        Meaning(
            "KIE announced more results than it has given.",
            "Wait: 20 minutes after KIE's completion it is delivered with what there is.",
        ),
    ),
    (r"\d+ of \d+ results are delivered", _BY_FINDING["results_missing"]),
    ("asset_url was replaced by an address at the provider", _BY_FINDING["asset_overwritten"]),
    (
        "no task id yet; a callback offers one",
        Meaning(
            "A callback names a task for this row, and KIE has not confirmed it.",
            "Wait: KIE is asked again; if you know the task, write its id into the row.",
        ),
    ),
    ("no task id yet", _BY_FINDING["no_task"]),
    ("a callback named the task", Meaning("KIE has just confirmed the task.", "Wait: it is asked about next.")),
    (
        "waiting for its first poll",
        Meaning(
            "It waits for its first look, because other rows need the requests to KIE.",
            "Wait, or raise RECONCILER_POLL_RATE up to 10.",
        ),
    ),
    (
        "createTask was refused",
        Meaning(
            "KIE refused the order, and the application's table or hook rejects that failure.",
            "Correct what is named behind the semicolon; the failure is written then.",
        ),
    ),
    ("reconciler.on_failed threw", _BY_FINDING["hook_failed"]),
    ("the table refuses the row", _BY_FINDING["row_refused"]),
    (
        "the table refuses the task id",
        Meaning(
            "The application's table rejects the task id that belongs to this row.",
            "Correct the trigger or constraint that is named, or remove the task id from the other row.",
        ),
    ),
    (".* waits for a lock ", _BY_FINDING["row_locked"]),
    ("observing: ", Meaning("The daemon only observes: it stores nothing.", "Run it without --observe.")),
    (
        "gave up after",
        Meaning(
            "The time was up (RECONCILER_GIVE_UP_AFTER), and KIE had no result.",
            "Nothing: a late result is still delivered.",
        ),
    ),
    (
        "nothing left to fetch after",
        Meaning("KIE has deleted the media.", "Set the row to `failed` or `cancelled`: nothing can be fetched."),
    ),
    ("KIE refused the task", Meaning("KIE refused the task.", "Nothing; `kie-reconciler retry ID` asks once more.")),
)
