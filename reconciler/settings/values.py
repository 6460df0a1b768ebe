"""The types of settings, and how each is parsed from text.

Every check raises ValueError with the end of a sentence that begins with the value; `wrong_values.py` writes its
beginning. It never repeats the value, which may be a secret.
"""

import base64
import re
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, SecretStr

from reconciler.domain.object_keys import TYPES

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 36500 * 86400
"""A hundred years: Python and PostgreSQL can still represent times that far away."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_TYPE = re.compile(r"([a-z0-9][a-z0-9.+-]*/[a-z0-9][a-z0-9.+-]*)=([a-z0-9]{1,10})")
_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_DATABASE = (
    "is not an address such as postgresql://USER:PASSWORD@HOST:5432/DATABASE "
    "(characters such as @ : / ? # in the password written as %40 %3A %2F %3F %23)"
)


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = _DURATION.fullmatch(value.strip().lower())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not seconds:
        raise ValueError("is not a duration above 0, such as 90, 90s, 10m, 24h or 30d")
    if seconds > _LONGEST:
        raise ValueError("is longer than a hundred years")
    return seconds


def duration(value: object) -> object:
    """Parse a text of seconds, or of a number and a unit, into a timedelta; return other types unchanged."""
    seconds = _seconds(value)
    return timedelta(seconds=seconds) if isinstance(seconds, float) else seconds


def words(text: str) -> tuple[str, ...]:
    """Return the parts of a list separated by commas or blanks, each once, in order."""
    return tuple(dict.fromkeys(part for part in re.split(r"[\s,]+", text) if part))


def _list(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not (parts := words(value)):
        raise ValueError("names nothing: give one at least")
    return parts


def _suffixes(value: tuple[str, ...]) -> tuple[str, ...]:
    if any("/" in part for part in value):
        raise ValueError("is not a list of host names: leave out https:// and paths")
    return tuple(part if part == "*" else part.lower().lstrip("*.") for part in value)


def _extra_types(value: tuple[str, ...]) -> tuple[str, ...]:
    pairs = [found.groups() for part in value if (found := _TYPE.fullmatch(part.lower()))]
    if len(pairs) < len(value):
        raise ValueError("is not a list of TYPE=EXTENSION, such as video/x-matroska=mkv")
    types, extensions = ({pair[at] for pair in pairs} for at in (0, 1))
    if types & _PAGES:
        raise ValueError("names HTML, and a page is never a result")
    if types & TYPES.keys() or extensions & {found.ext for found in TYPES.values()}:
        raise ValueError("names a type or an extension that is stored anyway")
    if min(len(types), len(extensions)) < len(pairs):
        raise ValueError("names a type or an extension twice")
    return tuple("=".join(pair) for pair in pairs)


def _exact_address(value: str) -> str:
    message = "is not an address such as https://example.com"
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError(message) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", value):
        raise ValueError(message)
    return value


def _database(value: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(value.get_secret_value())
        usable = parts.scheme in ("postgres", "postgresql") and _has_host(parts) and _has_parameters(parts)
    except ValueError:
        usable = False
    if not usable or parts.fragment:
        raise ValueError(_DATABASE)
    return value


def _has_host(parts: SplitResult) -> bool:
    # libpq and asyncpg accept several hosts, and a socket folder as ?host=.
    hosts = parts.netloc.rpartition("@")[2]
    addresses = [urlsplit(f"//{host}") for host in hosts.split(",")]
    with_ports = [(host.hostname, host.port) for host in addresses]
    parameter_hosts = ",".join(parse_qs(parts.query).get("host", ())).split(",")
    for name in (*(name for name, _ in with_ports if name), *parameter_hosts):
        # The resolver raises UnicodeError for an empty or too long label; here that is a ValueError.
        if not name.startswith("/"):
            name.encode("idna")
    return all(name for name, _ in with_ports) or parameter_hosts != [""]


def _has_parameters(parts: SplitResult) -> bool:
    parameters = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    return all(port.isdecimal() for ports in parameters.get("port", ()) for port in ports.split(","))


def _header(value: SecretStr) -> SecretStr:
    # An HTTP client prints such a value in its error.
    if not re.fullmatch(r"[\x21-\x7e]+", value.get_secret_value()):
        raise ValueError("contains a blank or a character that no header can carry")
    return value


def _signing(value: SecretStr) -> SecretStr:
    # Standard Webhooks requires keys of 24 bytes or more, as base64 after whsec_. Its libraries read invalid base64 in
    # different ways, so a receiver could not verify the signature.
    text = value.get_secret_value().removeprefix("whsec_").rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        key = b""
    if len(key) < 24:
        raise ValueError("is not whsec_ and 24 bytes or more as base64: printf whsec_; openssl rand -base64 32")
    return value


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error.msg}") from None
    return value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(allow_inf_nan=False)]
Duration = Annotated[timedelta, BeforeValidator(duration)]
Size = Annotated[ByteSize, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Words = Annotated[tuple[str, ...], BeforeValidator(_list)]
ExtraTypes = Annotated[Words, AfterValidator(_extra_types)]
Hosts = Annotated[Words, AfterValidator(_suffixes)]
ExactAddress = Annotated[str, AfterValidator(_exact_address)]
WebAddress = Annotated[ExactAddress, AfterValidator(lambda value: value.rstrip("/"))]
DatabaseAddress = Annotated[SecretStr, AfterValidator(_database)]
HeaderSecret = Annotated[SecretStr, AfterValidator(_header)]
SigningSecret = Annotated[SecretStr, AfterValidator(_signing)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Lower: Any = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
