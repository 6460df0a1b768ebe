"""Which rows may still move: those in flight, and ended ones that are repaired, extended or corrected. Pure."""

from dataclasses import replace
from datetime import datetime, timedelta

from reconciler.domain.model import OPEN, SUCCEEDED, Row
from reconciler.domain.object_keys import AddressRules, is_object_of

HEALS = 3
"""How often within HEALED_WITHIN the address of one task is written again after the application has replaced it."""

HEALED_WITHIN = timedelta(days=1)


def may_move(row: Row, rules: AddressRules) -> bool:
    """Return whether the row is in flight, a success without every stored asset, or a failure that may be corrected."""
    if row.status in OPEN or is_repair(row) or is_extension(row):
        return True
    if row.status in SUCCEEDED:
        made_again = row.made_again and is_object_of(row.id, row.asset_url)
        return not row.asset_url or _shows_provider(row, rules) or made_again
    return row.status == "failed" and (row.gave_up or row.reopened)


def is_repair(row: Row) -> bool:
    """Return whether the row shows an object of ours that is missing or changed: it is delivered once more."""
    return row.status in SUCCEEDED and row.reopened and is_object_of(row.id, row.asset_url)


def is_extension(row: Row) -> bool:
    """Return whether the row shows fewer results than KIE announced: those that come later are added."""
    lacking = row.shown is not None and row.shown < len(row.results)
    return row.status in SUCCEEDED and lacking and _has_receipt(row)


def is_overwritten(row: Row, rules: AddressRules) -> bool:
    """Return whether we delivered the row, and the application shows an address at the provider instead since."""
    return row.status in SUCCEEDED and row.shown is not None and _shows_provider(row, rules)


def mended_preview(row: Row, rules: AddressRules) -> str | None:
    """Return the row's preview_url where it is an address at the provider, which expires; else None."""
    is_result = row.preview_url in row.sources
    return row.preview_url if rules.at_provider(row.id, row.preview_url, is_result=is_result) else None


def next_heal(row: Row, now: datetime) -> datetime:
    """Return when an overwritten row may be healed again; the limit keeps us from a war of writes."""
    recent = _recent_heals(row, now)
    return now if len(recent) < HEALS else recent[-HEALS] + HEALED_WITHIN


def with_heal(row: Row, now: datetime) -> Row:
    """Return the row with a heal at this time, and without those that no longer count."""
    return replace(row, healed_at=(*_recent_heals(row, now), now))


def _recent_heals(row: Row, now: datetime) -> tuple[datetime, ...]:
    return tuple(at for at in sorted(row.healed_at) if now - at < HEALED_WITHIN)


def _shows_provider(row: Row, rules: AddressRules) -> bool:
    # With a receipt the host proves nothing: on one machine storage and provider can share it.
    return not _has_receipt(row) and rules.at_provider(row.id, row.asset_url, is_result=row.asset_is_result)


def _has_receipt(row: Row) -> bool:
    """Return whether asset_url is the address of a stored asset; its host alone may serve both the provider and us."""
    return any(asset.stored and (row.asset_url or "").endswith(asset.path) for asset in row.assets)
