"""Storage for results: one file for each backend behind one protocol, and the proof that an object is stored.

`store.py` holds the protocol `Store`, `proof.py` the proof. The backends are `supabase.py` (`tus.py` for large objects,
`errors.py` for its refusals) and `local.py`. When and what to store is decided in `worker/`, not here.
"""

from reconciler.storage.proof import READ_BACK, UNPROVEN, prove, reread
from reconciler.storage.store import PutRequest, Store

__all__ = ["READ_BACK", "UNPROVEN", "PutRequest", "Store", "prove", "reread"]
