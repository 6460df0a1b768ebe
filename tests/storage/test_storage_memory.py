"""Storing and proving a large object does not load it into memory."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from reconciler.media.spool import SpoolDirectory
from reconciler.storage import prove
from tests.storage.storing import MIB, PATH, connected, noise, put

ROOT = Path(__file__).resolve().parents[2]
SIZE = 64 * MIB


@pytest.fixture
async def elsewhere():  # type: ignore[no-untyped-def]
    """Run a stand-in in its own process, so that only our memory is measured; yield its address and key."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "testkit.standins.storage", cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    yield [(await process.stdout.readline()).decode().strip() for _ in range(2)]
    process.terminate()
    await process.wait()


@pytest.mark.soak
async def test_memory_does_not_grow_with_the_object(tmp_path: Path, elsewhere: list[str]) -> None:
    url, key = elsewhere
    us, seen, piece = psutil.Process(), [], noise(MIB)
    store = connected(url, key)
    await store.check()
    async with SpoolDirectory(tmp_path, 1 << 30).spool() as warm:
        await warm.write(piece * 7)
        await warm.seal()
        await put(store, warm)
    before = us.memory_info().rss
    async with SpoolDirectory(tmp_path, 1 << 30).spool() as spool:
        for n in range(SIZE // MIB):
            await spool.write(n.to_bytes(4) + piece[4:])
        await spool.seal()
        await put(store, spool, progress=lambda done, total: seen.append(us.memory_info().rss))
        # The object's own ETag would do; the wrong MD5 makes it be read back.
        receipt = await prove(store, PATH, size=spool.size, sha256=spool.sha256, md5="")
        seen.append(us.memory_info().rss)
    await store.close()
    assert receipt.verified_by == "read-back-sha256"
    assert len(seen) > 10
    assert max(seen) - before < SIZE // 2
