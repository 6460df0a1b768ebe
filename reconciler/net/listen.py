"""Binds the address of the HTTP API: `serving` of `http/app.py` listens there, and `doctor` tries it."""

import socket

from reconciler.errors import Config


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to this address; Config where it cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Without an explicit protocol asyncio leaves Nagle's algorithm on, which delays the body by 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Config(
            f"cannot listen on {host} port {port}: {error.strerror}",
            hint="set RECONCILER_HTTP_HOST and RECONCILER_HTTP_PORT to a free address",
        ) from error
    return listener
