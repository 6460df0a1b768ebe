"""The sentence for a wrong value of a setting, as a person would say it.

It shows a short value and hides a long one, an address and a secret: a key may stand in the wrong variable. pydantic's
own words never appear.
"""

import re
from collections.abc import Mapping
from typing import Any

_SHOWN = re.compile(r"(?!.*://)[^@]{1,20}")
"""What is short enough to be no key, and is no address."""

_PHRASES: Mapping[str, str] = {
    "int_parsing": "is not a whole number",
    "int_parsing_size": "is too large",
    "float_parsing": "is not a number",
    "finite_number": "is not a finite number",
    "bool_parsing": "is neither true nor false",
    "greater_than": "is too small: it must be above {gt:g}",
    "greater_than_equal": "is too small: the least is {ge:g}",
    "less_than_equal": "is too large: the most is {le:g}",
    "byte_size": "is not a size such as 1048576, 512MiB or 5 GiB",
    "byte_size_unit": "is not a size such as 1048576, 512MiB or 5 GiB",
}


def sentence(problem: Mapping[str, Any], value: str, *, secret: bool) -> str:
    """Return the setting's name and what is wrong with its value; `problem` is one of pydantic's errors."""
    if not problem["loc"]:
        # A rule about several settings, which names them itself.
        return str(problem["ctx"]["error"])
    shown = repr(value) if _SHOWN.fullmatch(value) and value.isprintable() and not secret else "this value"
    return f"{problem['loc'][0]}: {shown} {_phrase(problem['type'], problem.get('ctx', {}))}"


def _phrase(kind: str, context: Mapping[str, Any]) -> str:
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        return f"is none of these words: {', '.join(allowed)}"
    return _PHRASES.get(kind, "is not what this setting takes").format_map(context)
