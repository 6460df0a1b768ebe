"""Whom to ask: the key and the dialect that answered, else every pair in turn."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from reconciler.domain.model import Row
from reconciler.kie.dialects import candidates
from reconciler.worker.route import RingKey, route

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TASK = "a" * 32
ANY, IMAGES, FILMS = RingKey("any"), RingKey("images", "image"), RingKey("films", "video")
RING = (ANY, IMAGES, FILMS)


def row(**changes: object) -> Row:
    plain = Row("g", None, TASK, "queued", None, None, None, NOW)
    return replace(plain, **changes)  # type: ignore[arg-type]


def asked(wanted: Row, turns: int) -> list[tuple[str, str]]:
    """Key and dialect of so many questions that nobody could answer."""
    routes = [route(replace(wanted, unknowns=n), RING) for n in range(turns)]
    return [(one.key_hash, one.family.name) for one in routes]


def test_a_key_for_the_rows_kind_comes_first_and_one_for_another_kind_last() -> None:
    assert [key for key, _ in asked(row(kind="image"), 3)] == ["images", "any", "films"]
    assert [key for key, _ in asked(row(kind="video"), 3)] == ["films", "any", "images"]
    assert [key for key, _ in asked(row(kind="audio"), 3)] == ["any", "images", "films"]


def test_every_key_is_tried_before_another_dialect_and_the_likeliest_dialect_every_second_time() -> None:
    families = [family.name for family in candidates(None, TASK)]
    assert len(families) > 2
    rounds = [asked(row(), 18)[start : start + 3] for start in range(0, 18, 3)]
    assert all([key for key, _ in one] == ["any", "images", "films"] for one in rounds)
    tried = [{family for _, family in one} for one in rounds]
    likely, *others = families
    assert tried == [{name} for name in (likely, others[0], likely, others[1], likely, others[2])]


def test_every_pair_is_asked_sooner_or_later() -> None:
    families = candidates(None, TASK)
    pairs = {(key.key_hash, family.name) for key in RING for family in families}
    assert set(asked(row(), len(RING) * 2 * len(families))) == pairs


def test_the_pair_that_answered_is_asked_again() -> None:
    known = row(acknowledged_at=NOW, key_hash="films", family="suno", unknowns=4)
    assert set(asked(known, 5)) == {("films", "suno")}


def test_a_pair_that_was_tried_and_never_answered_binds_nobody() -> None:
    assert asked(row(key_hash="films", family="suno"), 1) == asked(row(), 1)


def test_a_key_that_left_the_ring_is_not_asked_for() -> None:
    assert asked(row(acknowledged_at=NOW, key_hash="revoked", family="market"), 1) == asked(row(), 1)


def test_a_dialect_that_is_not_known_any_more_is_looked_for_anew() -> None:
    assert asked(row(acknowledged_at=NOW, key_hash="films", family="of yore"), 1) == asked(row(), 1)
