"""Storage for results: one file for each backend behind one protocol, and the proof that an object is stored.

`store.py` holds the protocol `Store`, `proof.py` the proof. The backends are `supabase.py` (`tus.py` for large objects,
`errors.py` for its refusals) and `local.py`. When and what to store is decided in `worker/`, not here.
"""

from reconciler.storage.proof import READ_BACK, UNPROVEN, plain_md5, prove, reread
from reconciler.storage.store import MISSING, PIECE, ObjectStat, PutRequest, Receipt, Store

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
    "prove",
    "reread",
]
