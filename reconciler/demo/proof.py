"""Verifies the demo: compares each stored object with its source, reading it as a browser does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
import httpx

from reconciler.demo.shop import OrderedGeneration
from reconciler.simulator import Simulator

_ROW = "SELECT status, error, asset_url, asset_urls, result_urls FROM public.generations WHERE id = $1::uuid"


@dataclass(frozen=True, slots=True)
class DemoProof:
    """The objects and bytes that arrived, and a sentence for every fault."""

    objects: int
    size: int
    faults: tuple[str, ...]


async def prove_all(
    orders: Sequence[OrderedGeneration], kie: Simulator, client: httpx.AsyncClient, pool: asyncpg.Pool
) -> DemoProof:
    """Compare every generation with what was ordered, and every object with its source by SHA-256."""
    objects = size = 0
    faults: list[str] = []
    for ordered in orders:
        row = await pool.fetchrow(_ROW, ordered.generation_id)
        fault = _row_fault(ordered, row)
        if fault is not None:
            faults.append(f"{ordered.generation_id}: {fault}")
            continue
        if ordered.wish.fails:
            continue
        for n, address in enumerate(json.loads(row["asset_urls"])):
            sha256, length = await _read(address, client)
            if sha256 != kie.sha256(ordered.task_id, n):
                faults.append(f"{ordered.generation_id}: result {n} at {address} is not what KIE made ({length} bytes)")
            objects, size = objects + 1, size + length
    return DemoProof(objects, size, tuple(faults))


def _row_fault(ordered: OrderedGeneration, row: asyncpg.Record | None) -> str | None:
    if row is None:
        return "the row is gone"
    if ordered.wish.fails:
        return (
            None if row["status"] == "failed" and row["error"] else f"expected failed with a reason, is {row['status']}"
        )
    if row["status"] != "success":
        return f"expected success, is {row['status']}"
    urls = json.loads(row["asset_urls"] or "[]")
    if len(urls) != len(ordered.wish.results):
        return f"expected {len(ordered.wish.results)} results, has {len(urls)}"
    return None if row["asset_url"] == urls[0] else "asset_url is not the first result"


async def _read(address: str, client: httpx.AsyncClient) -> tuple[str, int]:
    digest, length = hashlib.sha256(), 0
    async with client.stream("GET", address) as answer:
        if answer.status_code != 200:
            return f"HTTP {answer.status_code}", 0
        async for chunk in answer.aiter_bytes(1 << 18):
            digest.update(chunk)
            length += len(chunk)
    return digest.hexdigest(), length
