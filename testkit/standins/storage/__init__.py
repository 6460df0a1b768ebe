"""A Supabase Storage on loopback that answers as the real server was seen to answer.

    async with SupabaseStorage(buckets={"generations": Bucket()}) as storage:
        storage.url, storage.key, storage.objects["generations/a/b.png"].sha256

It keeps every version ever written (`history`, `twice()`), counts requests by operation (`requests`)
and fails on demand (`faults`). As a process of its own:
`python -m testkit.standins.storage --port 0 --bucket generations`.
"""

from testkit.standins.storage.faults import Fault, Faults
from testkit.standins.storage.server import SupabaseStorage
from testkit.standins.storage.shelf import Bucket, Shelf, Thing, Written

__all__ = ["Bucket", "Fault", "Faults", "Shelf", "SupabaseStorage", "Thing", "Written"]
