"""Named parameters become numbers in the order of their first use, and nothing else in the text changes."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.postgres.statement import Statement


def test_names_are_numbered_by_first_use_and_bound_in_that_order() -> None:
    statement = Statement("SELECT :later, :earlier WHERE :later > 0")
    assert statement.text == "SELECT $1, $2 WHERE $1 > 0"
    assert statement.names == ("later", "earlier")
    assert statement(earlier=1, later=2) == (statement.text, 2, 1)


def test_a_statement_with_one_name_and_with_none() -> None:
    assert Statement("SELECT :only")(only=[1, 2]) == ("SELECT $1", [1, 2])
    assert Statement("SELECT 1")() == ("SELECT 1",)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT a::text, b::text[]",
        "SELECT 'a :name in a literal', 'a '':quoted'' one', E'x'",
        'SELECT "a :name" FROM "table"":name"',
        "SELECT 1 -- a :name in a comment, and an unclosed '",
        "SELECT /* a :name\nover two lines */ 1",
        "DO $$ BEGIN PERFORM ':name', :name; END $$",
        "SELECT $tag$ :name $$ $tag$",
        "SELECT a[cardinality(a) - 1:] || a[:2]",
        "SELECT to_char(now(), 'HH24:MI:SS')",
    ],
)
def test_casts_literals_comments_and_slices_stay_as_they_are(text: str) -> None:
    assert Statement(text).text == text
    assert Statement(text).names == ()


def test_a_cast_may_follow_a_name() -> None:
    assert Statement("SELECT :a::text::uuid, (:b::text[])[1]").text == "SELECT $1::text::uuid, ($2::text[])[1]"


@pytest.mark.parametrize("values", [{}, {"a": 1}, {"a": 1, "b": 2, "c": 3}, {"a": 1, "c": 3}])
def test_missing_and_unknown_names_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"takes \['a', 'b'\]"):
        Statement("SELECT :a, :b")(**values)


def test_a_number_beside_names_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\$1"):
        Statement("SELECT $1, :a")
