"""Which rows the daemon may change, by the application's columns and our bookkeeping.

Pure. `decide` asks first whether a row may move; the visit asks whether a delivery is a repair.
"""

from __future__ import annotations

from reconciler.domain.model import OPEN, SUCCEEDED, Row
from reconciler.domain.object_keys import path_segment, points_at_provider


def may_move(row: Row, provider_hosts: tuple[str, ...]) -> bool:
    """Return whether the row is in flight, a success without a stored asset, or a failure that may be corrected."""
    if row.status in OPEN or is_repair(row):
        return True
    if row.status in SUCCEEDED:
        at_provider = points_at_provider(row.asset_url, provider_hosts) and not _has_receipt(row)
        return not row.asset_url or at_provider or (row.made_again and _shows_stored_object(row))
    return row.status == "failed" and (row.gave_up or row.reopened)


def is_repair(row: Row) -> bool:
    """Return whether the row shows an object of ours that is missing or changed: it is delivered once more."""
    return row.status in SUCCEEDED and row.reopened and _shows_stored_object(row)


def _shows_stored_object(row: Row) -> bool:
    """Whether asset_url is the address of the first object of any task of this row."""
    return f"/{path_segment(row.id)}_0." in (row.asset_url or "")


def _has_receipt(row: Row) -> bool:
    """Whether asset_url is the address of a stored asset; its host alone may serve both the provider and us."""
    return any(asset.stored and (row.asset_url or "").endswith(asset.path) for asset in row.assets)
