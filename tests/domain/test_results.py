"""Which announced result is which over several answers, and in which order they stand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.domain.model import Result
from reconciler.domain.results import from_addresses, from_json, merge, to_json
from tests.domain.worlds import RESULTS

U, V, W = (f"https://tempfile.aiquickdraw.com/r/{name}.png" for name in "uvw")


def listed(*addresses: str | None) -> tuple[Result, ...]:
    return tuple(Result(f"#{n}", n, () if one is None else (one,)) for n, one in enumerate(addresses))


def named(*names: str) -> tuple[Result, ...]:
    return tuple(Result(name, n, (f"https://tempfile.aiquickdraw.com/r/{name}.mp3",)) for n, name in enumerate(names))


def order(results: tuple[Result, ...]) -> list[tuple[int, tuple[str, ...]]]:
    return [(result.n, result.addresses) for result in results]


def test_a_hole_is_filled_at_its_position() -> None:
    assert merge(listed(U, None, W), listed(U, V, W)) == listed(U, V, W)


def test_an_address_that_an_answer_leaves_out_is_kept_and_no_longer_current() -> None:
    kept = merge(listed(U, V), listed(U, None))

    assert [(result.addresses, result.current) for result in kept] == [((U,), True), ((V,), False)]
    assert merge(listed(U, V), ())[0] == replace(listed(U)[0], current=False)


def test_a_list_that_loses_its_middle_moves_no_result_to_another_number() -> None:
    shorter = merge(listed(U, V, W), listed(U, W))

    assert order(shorter) == [(0, (U,)), (1, (V,)), (2, (W,))]
    assert [result.current for result in shorter] == [True, False, True]
    assert merge(shorter, listed(U, V, W)) == listed(U, V, W)


def test_a_result_with_an_id_is_known_wherever_it_stands() -> None:
    first = merge((), named("a"))
    both = merge(first, (named("b")[0], named("a")[0]))

    assert [(result.key, result.n) for result in both] == [("b", 1), ("a", 0)]


def test_a_hole_that_comes_with_an_id_is_filled_and_known_by_it_from_then_on() -> None:
    filled = merge((named("a")[0], Result("#1", 1)), named("a", "b"))

    assert filled == named("a", "b")
    assert merge(filled, (named("b")[0], named("a")[0])) == (named("a", "b")[1], named("a", "b")[0])


def test_a_result_whose_id_an_answer_leaves_out_keeps_its_id_and_is_no_further_result() -> None:
    emptied = merge(named("a", "b"), (named("a")[0], Result("#1", 1)))
    moved = merge(named("a", "b"), (named("a")[0], listed(U, V)[1]))

    assert emptied == (named("a")[0], replace(named("a", "b")[1], current=False))
    assert moved == (named("a")[0], replace(named("a", "b")[1], addresses=(V,)))


def test_words_at_the_position_of_media_are_another_result() -> None:
    words = Result("json", 0, text="{}", mime="application/json")

    assert [result.n for result in merge((words,), listed(U))] == [0, 1]
    assert [result.n for result in merge(listed(U), (words,))] == [0, 1]


def test_a_new_address_of_a_known_result_replaces_the_old_one() -> None:
    assert merge(listed(U), listed(V)) == listed(V)


def test_a_result_that_is_added_gets_a_number_that_no_other_has() -> None:
    swapped = merge(listed(U), listed(V, U))

    assert order(swapped) == [(1, (V,)), (0, (U,))]


@pytest.mark.parametrize("holes", range(1, 5))
def test_from_any_announced_count_with_holes_that_fill_the_end_is_that_count(holes: int) -> None:
    addresses = [f"{U}?{n}" for n in range(4)]
    known = merge((), listed(*[None] * holes, *addresses[holes:]))

    for n in range(holes):
        known = merge(known, listed(*addresses[: n + 1], *[None] * (holes - n - 1), *addresses[holes:]))

    assert known == listed(*addresses)


@given(RESULTS, st.lists(RESULTS, max_size=4))
def test_no_answer_takes_a_number_from_a_result_or_gives_one_twice(
    known: tuple[Result, ...], answers: list[tuple[Result, ...]]
) -> None:
    for answer in answers:
        after = merge(known, answer)
        assert {result.n for result in after} >= {result.n for result in known}
        assert len({result.n for result in after}) == len(after) <= len(known) + len(answer)
        assert [result.addresses for result in after if result.current] == [
            result.addresses for result in answer if result.available
        ]
        known = after


@given(RESULTS)
def test_the_same_answer_again_changes_nothing(answer: tuple[Result, ...]) -> None:
    once = merge((), answer)

    assert merge(once, answer) == once


@given(RESULTS)
def test_what_the_ledger_keeps_is_read_back(results: tuple[Result, ...]) -> None:
    assert from_json(to_json(results)) == results


def test_a_further_field_of_another_version_is_ignored() -> None:
    (kept,) = to_json(from_addresses([U]))

    assert from_json([{**kept, "later": 1}]) == from_addresses([U])


def test_a_callback_changes_no_result_that_kies_own_record_has_given() -> None:
    claimed = tuple(replace(result, confirmed=False) for result in listed(V, W))
    merged = merge(listed(U, None), claimed)

    assert [(result.addresses, result.confirmed) for result in merged] == [((U,), True), ((W,), False)]
