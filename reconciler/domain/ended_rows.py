"""Which rows may still move: those in flight, and ended ones that are repaired, extended or corrected. Pure."""

from reconciler.domain.model import OPEN, SUCCEEDED, Row
from reconciler.domain.object_keys import is_object_of, points_at_provider


def may_move(row: Row, provider_hosts: tuple[str, ...]) -> bool:
    """Return whether the row is in flight, a success without every stored asset, or a failure that may be corrected."""
    if row.status in OPEN or is_repair(row) or is_extension(row):
        return True
    if row.status in SUCCEEDED:
        at_provider = points_at_provider(row.asset_url, provider_hosts) and not _has_receipt(row)
        return not row.asset_url or at_provider or (row.made_again and is_object_of(row.id, row.asset_url))
    return row.status == "failed" and (row.gave_up or row.reopened)


def is_repair(row: Row) -> bool:
    """Return whether the row shows an object of ours that is missing or changed: it is delivered once more."""
    return row.status in SUCCEEDED and row.reopened and is_object_of(row.id, row.asset_url)


def is_extension(row: Row) -> bool:
    """Return whether the row shows fewer results than KIE announced: those that come later are added."""
    lacking = row.shown is not None and row.shown < len(row.results)
    return row.status in SUCCEEDED and lacking and _has_receipt(row)


def _has_receipt(row: Row) -> bool:
    """Return whether asset_url is the address of a stored asset; its host alone may serve both the provider and us."""
    return any(asset.stored and (row.asset_url or "").endswith(asset.path) for asset in row.assets)
