"""Recognises words by their first characters: error pages, drawings, subtitles, JSON, plain text.

A text is a result only where somebody announces text: every server answers its errors as text. Pure: `sniff.py` calls
it with the head of a body.
"""

import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")

# What may stand before the root of an XML document, or before the first element of a page.
_PROLOG = re.compile(r"(?:\s+|<\?.*?\?>|<!--.*?-->|<!doctype\b[^\[>]*(?:\[.*?\]\s*)?>)*", re.DOTALL | re.IGNORECASE)
_ROOT = re.compile(r"<(?:[\w.-]+(?P<colon>:))?(?P<name>[a-z][\w.-]*)(?=[\s/>]|$)", re.IGNORECASE)
_HTML_DOCTYPE = re.compile(r"<!doctype\s+html\b", re.IGNORECASE)
# The tags by which the MIME Sniffing Standard of the WHATWG (mimesniff.spec.whatwg.org, 7.1) recognises HTML.
_HTML_TAGS = frozenset(
    {"html", "head", "script", "iframe", "h1", "div", "font", "table", "a", "style", "title", "b", "body", "br", "p"}
)
# Object stores answer errors with the root `Error`.
_PAGE_ROOTS = _HTML_TAGS | {"error"}
_NAMESPACED = frozenset({"html", "svg"})

_GATEWAY_ERROR = re.compile(r"\s*error code: \d+\s*", re.IGNORECASE)
_JSON_BEGINS = re.compile(r"""\s*+(?:\{\s*+"|\[\s*+(?:["{\[\d-]|true|false|null))""")
_JSON_REFUSAL = re.compile(
    r"""\s*+\{\s*+"(?:errors?"\s*+:\s*+(?!null|false|""|\[\s*\]|\{\s*\})|(?:code|status|statusCode)"\s*+:\s*+"?[45]\d\d\b)"""
)
_VTT = re.compile(r"WEBVTT(?:[ \t\r\n]|$)")
_SRT = re.compile(r"\s*+\d{1,9}[ \t]*+\r?\n\s*+\d{1,3}:\d\d:\d\d[,.]\d{1,3}[ \t]*+-->")


def decoded(head: bytes) -> str | None:
    """Return the text of a head, None if its bytes are no text.

    Bytes that are not UTF-8 are left out, among them a character that is cut at the end.
    """
    text = head.decode("utf-8-sig", "ignore")
    return None if not text or _UNPRINTABLE.search(text) else text


def is_page(text: str, *, whole: bool) -> bool:
    """Return whether a text is HTML or the error of a server instead of a file; `whole`: it is not only a beginning."""
    before, root = _opening(text)
    if _HTML_DOCTYPE.search(before) or root.lower() in _PAGE_ROOTS or ("<!--" in before and not root):
        return True
    return not text.strip() or _GATEWAY_ERROR.fullmatch(text) is not None or _is_refusal(text, whole)


def is_drawing(text: str) -> bool:
    """Return whether a text that is no page is an SVG document."""
    return _opening(text)[1] == "svg"


def announced_text(text: str, announced: str | None, *, whole: bool) -> str | None:
    """Return the type of a text that is no page, None where no type of text is announced or it is of none of them."""
    if announced is None or announced not in _CHECKS:
        return None
    candidates = (announced, "text/vtt", "application/x-subrip")
    return next((mime for mime in candidates if _CHECKS[mime](text, whole)), None)


def is_text_type(mime: str) -> bool:
    """Return whether files of this type are text, and no pages."""
    return (mime.startswith("text/") or mime.endswith("xml")) and mime not in {"text/html", "application/xhtml+xml"}


def _opening(text: str) -> tuple[str, str]:
    """Return what stands before the first element, and that element's name, "" if there is none."""
    before = match.group() if (match := _PROLOG.match(text)) else ""
    root = _ROOT.match(text, len(before))
    if root is None:
        return before, ""
    name = root["name"]
    return before, name if root["colon"] is None or name in _NAMESPACED else "other"


def _is_refusal(text: str, whole: bool) -> bool:
    """Return whether a JSON object states an error, as KIE's envelope and most APIs do."""
    if not whole:
        return _JSON_REFUSAL.match(text) is not None
    document = _parsed(text)
    if not isinstance(document, dict):
        return False
    code = str(document.get("code", document.get("status", document.get("statusCode"))))
    failed = code.isdecimal() and int(code) >= 400
    without_data = "code" in document and document.get("data", "") is None
    says_error = document.get("success") is False or bool(document.get("error") or document.get("errors"))
    return failed or without_data or says_error


def _is_json(text: str, whole: bool) -> bool:
    return isinstance(_parsed(text), dict | list) if whole else _JSON_BEGINS.match(text) is not None


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


_CHECKS: Mapping[str, Callable[[str, bool], bool]] = MappingProxyType(
    {
        "text/plain": lambda _text, _whole: True,
        "application/json": _is_json,
        "text/vtt": lambda text, _whole: _VTT.match(text) is not None,
        "application/x-subrip": lambda text, _whole: _SRT.match(text) is not None,
    }
)
"""The types of text, each with whether a text is of it."""
