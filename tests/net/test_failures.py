"""The words for a connection that failed, whichever client tried."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import aiohttp
import httpx
import pytest

from reconciler.demo.embedded_postgres import free_port
from reconciler.net.failures import failure_words, server_name
from reconciler.net.http_clients import json_client, kie_session
from tests.net.test_http_clients_tls import self_signed

__all__ = ["self_signed"]

NOT_HTTP = b"\x00\x01\x02 nobody speaks like this\r\n\r\n"


async def words(address: str, client: str, silence: float = 5.0) -> str:
    """The words for the error that this client raises at this address."""
    ask = _by_httpx if client == "httpx" else _by_aiohttp
    with pytest.raises((aiohttp.ClientError, httpx.HTTPError, OSError)) as caught:
        await ask(address, silence)
    return failure_words(caught.value)


async def _by_httpx(address: str, silence: float) -> None:
    async with json_client(timeout=silence) as client:
        await client.get(address)


async def _by_aiohttp(address: str, silence: float) -> None:
    async with kie_session(timeout=silence) as session, session.get(address) as answer:
        await answer.read()


@pytest.fixture
async def served(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """The address of a server that answers with these bytes, or with None says nothing, and then closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if request.param is None:
            await reader.read()
        else:
            writer.write(request.param)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


CLIENTS = pytest.mark.parametrize("client", ["aiohttp", "httpx"])


@CLIENTS
async def test_a_port_where_nobody_listens_refuses_the_connection(client: str) -> None:
    assert await words(f"http://127.0.0.1:{free_port()}/", client) == "refuses the connection"


@CLIENTS
async def test_a_name_that_is_not_resolved_is_said_with_the_resolvers_words(
    client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    said = await words("http://kie.example/", client)
    assert said == "cannot be found, its name is not resolved: Name or service not known"


@CLIENTS
@pytest.mark.parametrize("served", [b""], indirect=True)
async def test_a_server_that_closes_without_an_answer_is_said_to_close(served: str, client: str) -> None:
    assert await words(served, client) == "closed the connection"


@CLIENTS
@pytest.mark.parametrize("served", [None], indirect=True)
async def test_a_server_that_says_nothing_did_not_answer_in_time(served: str, client: str) -> None:
    assert await words(served, client, silence=0.2) == "did not answer in time"


@CLIENTS
async def test_a_certificate_that_is_not_trusted_is_said_with_the_reason(self_signed: str, client: str) -> None:
    assert await words(self_signed, client) == "has a certificate that is not trusted: self-signed certificate"


@pytest.mark.parametrize("served", [NOT_HTTP], indirect=True)
async def test_of_an_answer_that_is_not_http_only_the_kind_of_error_is_said(served: str) -> None:
    said = await words(served, "aiohttp")
    assert said.startswith("broke the connection (")
    assert "nobody speaks" not in said


def test_an_unknown_error_is_named_by_its_class_and_its_text_is_left_out() -> None:
    assert failure_words(ValueError("Bearer sesame")) == "broke the connection (ValueError)"


@pytest.mark.parametrize(
    ("number", "said"),
    [(104, "cut the connection"), (113, "cannot be reached: No route to host"), (110, "did not answer in time")],
)
def test_an_error_of_the_system_is_said_by_its_number(number: int, said: str) -> None:
    assert failure_words(OSError(number, "text of the library")) == said


def test_a_server_is_named_by_host_and_port_without_its_login() -> None:
    assert server_name("https://me:sesame@kie.example:8443/v1?token=sesame") == "kie.example:8443"
    assert server_name("https://kie.example") == "kie.example"
