"""Who stands behind the wire in the machine: a KIE without limits, and a storage that speaks as Supabase's does.

Run by machine.sh; what an operator would be given is written into the folder that is named.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from reconciler.simulator import Simulator
from testkit.standins.storage import SupabaseStorage

KEY = "key-of-the-shop"
DATABASE = "postgresql://postgres:a-password@127.0.0.1:5432/postgres"
SETTINGS = """
KIE_MARKET_BASE_URL={kie}
RECONCILER_RESULT_HOSTS=127.0.0.1
RECONCILER_ALLOW_PRIVATE_HOSTS=true
RECONCILER_POLL_RATE=50
"""


async def serve(values: Path) -> None:
    """Stand in until killed."""
    async with Simulator(port=8788, speed=20, keys=(KEY,), limits=False) as kie, SupabaseStorage(port=8789) as storage:
        given = {"DATABASE_URL": DATABASE, "KIE_API_KEY": KEY, "SUPABASE_SERVICE_ROLE_KEY": storage.key}
        for name, value in given.items():
            (values / name).write_text(value + "\n")
        (values / "settings").write_text(SETTINGS.format(kie=kie.url))
        (values / "ready").touch()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
