"""SQL with named parameters: `:name` in the text becomes `$n`, once, where the statement is built.

Nothing here runs a statement. The modules that hold long statements build them here and hand the result of a call to
`Database`: `await database.row(*FORGET(generation_id=…, lease=…))`.
"""

import re
from collections.abc import Callable, Mapping
from operator import itemgetter

# What is passed over unread stands before what is read: literals, quoted names, comments, casts.
_TOKEN = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ | --[^\n]* | /\*.*?\*/ | ::
      | :(?P<name>[a-z_][a-z0-9_]*) | (?P<number>\$[0-9]+)""",
    re.VERBOSE | re.DOTALL,
)


class Statement:
    """One statement; `text` is its SQL with `$n`, `names` are its parameters in that order.

    The parameters are numbered by their first use. A slice of an array whose upper bound is a bare name needs
    parentheses: `[1:(n)]`.
    """

    __slots__ = ("_known", "_values", "names", "text")

    def __init__(self, sql: str) -> None:
        """Number the parameters; ValueError where the text holds a `$n` of its own."""
        places: dict[str, int] = {}

        def numbered(token: re.Match[str]) -> str:
            if token["number"]:
                raise ValueError(f"{token['number']} stands in a statement with named parameters")
            name = token["name"]
            return token[0] if name is None else f"${places.setdefault(name, len(places) + 1)}"

        self.text = _TOKEN.sub(numbered, sql)
        self.names = tuple(places)
        self._known = places.keys()
        self._values: Callable[[Mapping[str, object]], tuple[object, ...]] = (
            itemgetter(*places) if len(places) > 1 else lambda values: tuple(values.values())
        )

    def __call__(self, **values: object) -> tuple[str, *tuple[object, ...]]:
        """Return the text and its values in order; TypeError where a name is missing or unknown."""
        if values.keys() != self._known:
            raise TypeError(f"a statement takes {sorted(self._known)} and got {sorted(values)}")
        return (self.text, *self._values(values))
