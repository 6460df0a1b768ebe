"""Our SQL with `pg_catalog.` before every function, type and catalogue table that it names without a schema.

Where anybody may create in a schema of the search_path, a function or an operator there that fits its operands better
is called instead of PostgreSQL's own, with the rights of the caller. Every connection of ours sends its statements
through `qualified`. OPERATOR(pg_catalog.=) has another precedence than =, so operators stay as they are written, and
statements give them operands of exactly the types that PostgreSQL's own operator has: those are found first.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+ | --[^\n]*)
      | (?P<comment>/\*)
      | (?P<string>[eE]'(?:[^'\\]|''|\\.)*' | (?:[bBxXnN]|[uU]&)?'(?:[^']|'')*'
        | \$(?P<tag>[A-Za-z_]\w*|)\$.*?\$(?P=tag)\$)
      | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*")
      | (?P<word>[^\W\d][\w$]*)
      | (?P<cast>::)
      | (?P<field>->>?)
      | (?P<other>[$:]\w+ | [\d.]*\d[\w.]* | .)""",
    re.VERBOSE | re.DOTALL,
)


def _words(*texts: str) -> frozenset[str]:
    return frozenset(word for text in texts for word in text.split())


_NO_FUNCTIONS: Final = _words(
    # Clauses and operators that a parenthesis may follow.
    """all analyze and any array as between by case check conflict cross distinct do else end except exists explain
    filter first for from group groups having ilike in intersect into is join key last lateral like limit materialized
    not null nulls of offset on only or order ordinality over partition primary range recursive returning row rows
    select set similar some table then union unique update using values when where window with within""",
    # Expressions with a grammar of their own, which PostgreSQL looks up in pg_catalog alone, or nowhere.
    "cast coalesce collation extract greatest grouping least nullif overlay position treat trim",
    # Types with a length.
    "bit char character dec decimal float interval nchar numeric time timestamp varchar varying",
)
"""Words before a parenthesis that name no function."""

_OPENERS: Final = _words(
    """all and any as asc between by case conflict cross desc distinct else except filter first from having ilike in
    intersect is join last lateral like limit not of offset on only or order over partition recursive returning rows
    select set similar some then union using values when where with within"""
)
"""Words after which an expression or a table begins; after any other word a name is an alias."""

_GRAMMAR_TYPES: Final = _words(
    """bigint bit boolean char character dec decimal double float int integer interval national nchar numeric real
    setof smallint time timestamp varchar"""
)
"""Types that are words of the grammar: they are PostgreSQL's own, whatever the search_path is."""

_LITERAL_TYPES: Final = _words(
    """bool bytea cidr date float4 float8 inet int2 int4 int8 json jsonb name oid regclass regproc regprocedure regtype
    text timestamptz timetz uuid"""
)
"""Other types that may stand before a literal: `jsonb '{}'`."""

_WORDS: Final = frozenset({"status", "task_id", "asset_url", "provider"})
"""Columns of public.generations that hold words: text in one table, varchar in the next, which has no operators."""

_OF_GRAMMAR: Final = frozenset({"from", "for", "similar"})
"""Words between the arguments of substring() by which it has a grammar of its own."""


class _Token(NamedTuple):
    kind: str
    text: str

    @property
    def word(self) -> str:
        """The word in lower case, "" where this is none."""
        return self.text.lower() if self.kind == "word" else ""


_END: Final = _Token("other", "")


@lru_cache(maxsize=1024)
def qualified(sql: str) -> str:
    """Return the text with `pg_catalog.` before each function and each type that has no schema; twice changes nothing.

    Words of a row `g`, which is always one of public.generations, are read as text. The inside of strings, quoted names
    and comments stays as it is, and so do aliases and their lists of columns.
    """
    tokens = _tokens(sql)
    places = [n for n, token in enumerate(tokens) if token.kind != "space"]
    code = [tokens[n] for n in places]
    for n in range(len(code)):
        if _is_type(code, n) or _is_function(code, n) or _is_catalogue(code, n):
            tokens[places[n]] = _Token("word", f"pg_catalog.{code[n].text}")
        elif _is_word(code, n) or _is_field(code, n):
            tokens[places[n]] = _Token(code[n].kind, f"{code[n].text}::pg_catalog.text")
    return "".join(token.text for token in tokens)


def _tokens(sql: str) -> list[_Token]:
    tokens, at = list[_Token](), 0
    while at < len(sql):
        found = _TOKEN.match(sql, at)
        assert found is not None
        kind = next(
            name for name in ("space", "comment", "string", "quoted", "word", "cast", "field", "other") if found[name]
        )
        end = found.end()
        if kind == "comment":
            kind, end = "space", _end_of_comment(sql, end)
        tokens.append(_Token(kind, sql[at:end]))
        at = end
    return tokens


def _end_of_comment(sql: str, at: int) -> int:
    """Return where the comment ends that is open at this place: comments may stand in comments."""
    depth = 1
    for mark in re.compile(r"/\*|\*/").finditer(sql, at):
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return mark.end()
    return len(sql)


def _at(code: Sequence[_Token], n: int) -> _Token:
    return code[n] if 0 <= n < len(code) else _END


def _is_type(code: Sequence[_Token], n: int) -> bool:
    """Whether this names a type without its schema, after `::` or before a literal."""
    before, token, after = _at(code, n - 1), code[n], _at(code, n + 1)
    if not token.word or token.word in _GRAMMAR_TYPES or after.text == ".":
        return False
    if before.kind == "cast":
        return True
    return token.word in _LITERAL_TYPES and after.kind == "string" and before.text != "."


def _is_word(code: Sequence[_Token], n: int) -> bool:
    """Whether this is a column of words of a row `g`, neither cast to another type nor compared with NULL.

    IS NULL has no operator, and the conditions of the indexes have it without a cast.
    """
    if code[n].text not in _WORDS or _at(code, n + 1).kind == "cast":
        return False
    if _at(code, n + 1).word == "is" and "null" in {_at(code, n + 2).word, _at(code, n + 3).word}:
        return False
    return _at(code, n - 1).text == "." and _at(code, n - 2).text == "g" and _at(code, n - 3).text != "."


def _is_field(code: Sequence[_Token], n: int) -> bool:
    """Whether this names a field of JSON by a literal without a type, which would be taken for JSON, too."""
    return code[n].kind == "string" and _at(code, n - 1).kind == "field" and _at(code, n + 1).kind != "cast"


def _is_catalogue(code: Sequence[_Token], n: int) -> bool:
    """Whether this names a table of PostgreSQL's catalogue without its schema."""
    named = code[n].word.startswith("pg_") and _at(code, n + 1).text not in {".", "("}
    return named and _at(code, n - 1).word in {"from", "join"}


def _is_function(code: Sequence[_Token], n: int) -> bool:
    """Whether this names a function without its schema."""
    before, token = _at(code, n - 1), code[n]
    if not token.word or _at(code, n + 1).text != "(" or token.word in _NO_FUNCTIONS or before.text == ".":
        return False
    if before.kind in {"cast", "quoted"} or before.text == ")" or before.word == "as":
        return False
    if before.word and before.word not in _OPENERS:
        return False
    arguments, after = _arguments(code, n + 1)
    begun = _at(code, after + 1)
    if _at(code, after).word == "as" and (begun.text == "(" or begun.word in {"materialized", "not"}):
        # `name (columns) AS (` begins a query of a WITH clause.
        return False
    if token.word == "substring":
        return not arguments & _OF_GRAMMAR
    # `unnest(a, b)` is no function: PostgreSQL reads it as pg_catalog.unnest(a) beside pg_catalog.unnest(b).
    return not (token.word == "unnest" and "," in arguments)


def _arguments(code: Sequence[_Token], opening: int) -> tuple[frozenset[str], int]:
    """Return the words and commas between the arguments in this parenthesis, and the place behind it."""
    depth, between = 0, set[str]()
    for n in range(opening, len(code)):
        text = code[n].text
        depth += (text in "([") - (text in ")]") if len(text) == 1 else 0
        if not depth:
            return frozenset(between), n + 1
        if depth == 1:
            between.add("," if text == "," else code[n].word)
    return frozenset(between), len(code)
