"""Words as results: output of text models, lyrics, notes and ids, kept as a JSON document and as plain text.

Source: docs.kie.ai, market/common/get-task-detail (`resultObject`), suno-api/get-lyrics-details, get-midi-details. Only
the dialects call this.
"""

import json
from collections.abc import Iterable, Mapping

from reconciler.domain.model import Result
from reconciler.kie.dialects.places import NOTHING, Found

MAX_NODES = 10_000

_JSON, _PLAIN = "application/json", "text/plain"


def document(value: object, texts: Iterable[object] = ()) -> Found:
    """Return the value as a JSON document, and the texts, where there are any, as a plain one; nothing for no value.

    A value that is nested too deeply to be written is named as unreadable.
    """
    if value in (None, "", [], {}):
        return NOTHING
    plain = "\n\n".join(text for text in texts if isinstance(text, str) and text.strip())
    try:
        results = [Result("json", 0, text=_json(value), mime=_JSON)]
    except RecursionError:
        return Found(unreadable=("document",))
    if plain:
        results.append(Result("text", 1, text=_writable(plain), mime=_PLAIN))
    return Found(tuple(results))


def has_words(value: object) -> bool:
    """Return whether the first MAX_NODES parts of a value hold any text or number that is not an address."""
    nodes = [value]
    for _ in range(MAX_NODES):
        if not nodes:
            return False
        match node := nodes.pop():
            case Mapping():
                nodes.extend(node.values())
            case list():
                nodes.extend(node)
            case None | "":
                continue
            case str() if is_address(node):
                continue
            case _:
                return True
    return False


def is_address(text: str) -> bool:
    """Return whether a text is an address, whatever its use."""
    return text.strip().lower().startswith(("http://", "https://"))


def _json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if text == _writable(text) else json.dumps(value)


def _writable(text: str) -> str:
    """Return the text without NUL and half surrogate pairs, which neither UTF-8 nor the database can hold."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
