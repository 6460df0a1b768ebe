"""KIE is asked with the key and in the dialect that answered, else with every pair in turn."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from reconciler.domain.model import Row
from reconciler.kie.dialects import candidates
from reconciler.worker.route import RingKey, route

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TASK = "a" * 32
ANY, IMAGES, VIDEOS = RingKey("any"), RingKey("images", "image"), RingKey("videos", "video")
RING = (ANY, IMAGES, VIDEOS)


def a_row(**changes: object) -> Row:
    plain = Row("g", None, TASK, "queued", None, None, None, NOW)
    return replace(plain, **changes)  # type: ignore[arg-type]


def asked(row: Row, turns: int) -> list[tuple[str, str]]:
    """Key and dialect of so many requests that bring no answer."""
    routes = [route(replace(row, unknowns=n), RING) for n in range(turns)]
    return [(chosen.key_hash, chosen.dialect.name) for chosen in routes]


def test_a_key_for_the_rows_kind_comes_first_and_one_for_another_kind_last() -> None:
    assert [key for key, _ in asked(a_row(kind="image"), 3)] == ["images", "any", "videos"]
    assert [key for key, _ in asked(a_row(kind="video"), 3)] == ["videos", "any", "images"]
    assert [key for key, _ in asked(a_row(kind="audio"), 3)] == ["any", "images", "videos"]


def test_every_key_is_tried_before_another_dialect_and_the_likeliest_dialect_every_second_time() -> None:
    dialects = [dialect.name for dialect in candidates(None, TASK)]
    assert len(dialects) > 2
    rounds = [asked(a_row(), 18)[start : start + 3] for start in range(0, 18, 3)]
    assert all([key for key, _ in pairs] == ["any", "images", "videos"] for pairs in rounds)
    tried = [{dialect for _, dialect in pairs} for pairs in rounds]
    likely, *others = dialects
    assert tried == [{name} for name in (likely, others[0], likely, others[1], likely, others[2])]


def test_every_pair_of_key_and_dialect_is_tried() -> None:
    dialects = candidates(None, TASK)
    pairs = {(key.key_hash, dialect.name) for key in RING for dialect in dialects}
    assert set(asked(a_row(), len(RING) * 2 * len(dialects))) == pairs


def test_the_pair_that_answered_is_asked_again() -> None:
    known = a_row(acknowledged_at=NOW, key_hash="videos", family="suno", unknowns=4)
    assert set(asked(known, 5)) == {("videos", "suno")}


def test_a_pair_that_never_answered_is_not_preferred() -> None:
    assert asked(a_row(key_hash="videos", family="suno"), 1) == asked(a_row(), 1)


def test_a_key_that_was_removed_is_not_used() -> None:
    assert asked(a_row(acknowledged_at=NOW, key_hash="revoked", family="market"), 1) == asked(a_row(), 1)


def test_a_dialect_that_no_longer_exists_is_searched_again() -> None:
    assert asked(a_row(acknowledged_at=NOW, key_hash="videos", family="removed"), 1) == asked(a_row(), 1)
