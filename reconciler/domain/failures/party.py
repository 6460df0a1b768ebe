"""Attributes each failure to the party that failed. Pure; the only place that does it.

`absorb` counts by it, and the findings follow from those counts.
"""

from enum import StrEnum

FETCH, STORE, PROVE = "fetch", "store", "prove"
KIE = "KIE"
"""The stage of a poll, as reasons name it."""


class Party(StrEnum):
    """Who can fail a generation."""

    DATABASE = "database"
    KIE_API = "kie_api"
    KIE_FILES = "kie_files"
    RESULT_HOST = "result_host"
    STORAGE = "storage"
    APPLICATION = "application"
    OURSELVES = "ourselves"


_AT_ANY_STAGE = {
    "config": Party.DATABASE,
    "database_away": Party.DATABASE,
    "database_busy": Party.DATABASE,
    "database_pooled": Party.DATABASE,
    "hook_failed": Party.APPLICATION,
    "no_task": Party.APPLICATION,
    "row_locked": Party.APPLICATION,
    "row_refused": Party.APPLICATION,
    "bad_path": Party.OURSELVES,
    "no_room": Party.OURSELVES,
    "spool_error": Party.OURSELVES,
    "spool_full": Party.OURSELVES,
}
"""Codes that mean the same at every stage: a transfer writes to the database and to the spool in between."""

_OUR_KEY_OR_REQUEST = frozenset({"unauthorized", "key_missing", "no_credits", "key_capped", "unaskable"})
_OUR_BOUNDS = frozenset({"host_unlisted", "too_large", "type_refused"})
_USELESS_FILES = frozenset(
    {
        "http_403", "http_404", "http_410", "http_4xx", "empty", "not_media", "encoding_refused", "redirects",
        "address_malformed", "address_refused", "scheme", "credentials",
    }
)  # fmt: skip


def failed_party(stage: str, code: str) -> Party:
    """Return the party that a failure at this stage belongs to.

    `stage` is KIE, `fetch`, `store` or `prove`, `code` the stable word of the error. What KIE says about our key, our
    account or our request is our own failure, because KIE has answered. A host that does not serve has failed; a dead
    address, or bytes that are no result, are a failure of KIE's files. An unknown stage is our own.
    """
    if code in _AT_ANY_STAGE:
        return _AT_ANY_STAGE[code]
    match stage:
        case "KIE":
            return Party.OURSELVES if code in _OUR_KEY_OR_REQUEST else Party.KIE_API
        case "fetch" if code in _OUR_BOUNDS:
            return Party.OURSELVES
        case "fetch":
            return Party.KIE_FILES if code in _USELESS_FILES else Party.RESULT_HOST
        case "store" | "prove":
            return Party.STORAGE
    return Party.OURSELVES
