"""Which rows the daemon may move, by what the application wrote and what we know of it.

Pure. Called by `decide` before it has any opinion, and by the visit to tell a repair from a delivery.
"""

from __future__ import annotations

from reconciler.domain.model import OPEN, SUCCEEDED, Row
from reconciler.domain.object_keys import points_at_provider, segment


def ours(row: Row, their_hosts: tuple[str, ...]) -> bool:
    """Whether the daemon may move this row: in flight, a success without its asset, or a failure that may be mended."""
    if row.status in OPEN or repairing(row):
        return True
    if row.status in SUCCEEDED:
        theirs = points_at_provider(row.asset_url, their_hosts) and not _is_stored(row)
        return not row.asset_url or theirs or (row.made_again and _shows_ours(row))
    return row.status == "failed" and (row.gave_up or row.reopened)


def repairing(row: Row) -> bool:
    """Whether the row shows an object of ours that was found missing or changed: it is delivered once more."""
    return row.status in SUCCEEDED and row.reopened and _shows_ours(row)


def _shows_ours(row: Row) -> bool:
    """Whether asset_url is the address of the first object that any task of this row brings."""
    return f"/{segment(row.id)}_0." in (row.asset_url or "")


def _is_stored(row: Row) -> bool:
    """Whether asset_url leads to an object of ours, which a host that serves both could hide."""
    return any(asset.stored and (row.asset_url or "").endswith(asset.path) for asset in row.assets)
