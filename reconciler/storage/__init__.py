"""Storage for results: one file for each backend behind one protocol, and the proof that an object is stored.

`store.py` holds the protocol `Store`, `proof.py` the proof. The backends are `supabase.py` (`tus.py` for large objects,
`errors.py` for its refusals) and `local.py`. When and what to store is decided in `worker/`, not here.
"""

from reconciler.storage.store import (
    MISSING,
    PIECE,
    READ_BACK,
    UNPROVEN,
    ObjectStat,
    PutRequest,
    Receipt,
    Store,
    plain_md5,
    proper,
    prove,
    reread,
)

__all__ = [
    "MISSING",
    "PIECE",
    "READ_BACK",
    "UNPROVEN",
    "ObjectStat",
    "PutRequest",
    "Receipt",
    "Store",
    "plain_md5",
    "proper",
    "prove",
    "reread",
]
