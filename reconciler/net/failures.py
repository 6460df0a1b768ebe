"""Says in words why a connection failed: the name, a refusal, silence, a certificate.

Pure. It reads the errors of sockets, TLS, aiohttp and httpx; `postgres`, `kie` and `storage` put the words into theirs.
"""

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import aiohttp
import httpx

_NUMBER = re.compile(r"\[Errno (\d+)\]")
_CUT = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})
_CLOSED = (aiohttp.ServerDisconnectedError, httpx.RemoteProtocolError, ConnectionResetError)


def server_name(address: str) -> str:
    """Return host and port of an address, without its login."""
    return urlsplit(address).netloc.rpartition("@")[2]


def failure_words(error: BaseException) -> str:
    """Return the end of a sentence that begins with the server, such as "refuses the connection"."""
    for cause in _causes(error):
        if words := _words(cause):
            return words
    return f"broke the connection ({type(error).__name__})"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what it was raised for."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        # aiohttp's own errors repeat what lies beneath in words of theirs.
        inner = getattr(cause, "certificate_error", None) or getattr(cause, "os_error", None)
        if isinstance(inner, BaseException):
            cause = inner
            continue
        yield cause
        cause = cause.__cause__


def _words(error: BaseException) -> str:
    """Return the words for one error, none where its cause may say more."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"has a certificate that is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"does not speak TLS as expected: {error.reason or 'no reason given'}"
    if isinstance(error, socket.gaierror):
        return f"cannot be found, its name is not resolved: {error.strerror}"
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return "did not answer in time"
    if isinstance(error, OSError) and (number := _errno(error)):
        return _of_number(number)
    return "closed the connection" if isinstance(error, _CLOSED) else ""


def _errno(error: OSError) -> int:
    """Return the number of the error, 0 where it has none; several addresses that fail alike are one."""
    if error.errno is not None:
        return error.errno
    numbers = set(_NUMBER.findall(str(error)))
    return int(numbers.pop()) if len(numbers) == 1 else 0


def _of_number(number: int) -> str:
    if number == errno.ECONNREFUSED:
        return "refuses the connection"
    if number in _CUT:
        return "cut the connection"
    return f"cannot be reached: {os.strerror(number)}"
