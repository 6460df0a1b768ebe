"""The routes that need no token: health, readiness, metrics, stored files; and the server's socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from reconciler.domain.object_keys import TYPES, MediaType, extra_type
from reconciler.errors import Config
from reconciler.health import Health
from reconciler.http.app import application, serving
from reconciler.metrics import Metrics
from reconciler.net.listen import bound


@asynccontextmanager
async def client_of(
    health: Health, files: Path | None = None, types: Mapping[str, MediaType] = TYPES
) -> AsyncIterator[httpx.AsyncClient]:
    app = application(health, Metrics(), files, types=types)
    async with (
        serving(app, "127.0.0.1", 0) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False) as client,
    ):
        yield client


def healthy(**more: object) -> Health:
    health = Health(patience=45.0, reason=None)
    for name, value in more.items():
        setattr(health, name, value)
    return health


async def test_a_running_loop_is_healthy_and_a_stopped_one_is_not() -> None:
    async with client_of(healthy()) as client:
        assert (await client.get("/healthz")).status_code == 200
    async with client_of(healthy(pulse=lambda: float("-inf"))) as client:
        answer = await client.get("/healthz")
        assert (answer.status_code, "loop" in answer.text) == (503, True)


async def test_readyz_states_the_reason_while_not_ready() -> None:
    async with client_of(Health(patience=45.0)) as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"ready": False, "reason": "starting"})
    async with client_of(healthy(trouble=lambda: "the database is away")) as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["reason"]) == (503, "the database is away")
    async with client_of(healthy()) as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()) == (200, {"ready": True, "reason": None})


async def test_metrics_come_as_text_or_openmetrics_as_the_accept_header_asks() -> None:
    async with client_of(healthy()) as client:
        plain = await client.get("/metrics")
        openmetrics = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert plain.headers["content-type"].startswith("text/plain")
    assert 'kie_reconciler_deliveries_total{outcome="delivered",trigger="notify"} 0.0' in plain.text
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")


@pytest.mark.parametrize("kind", ["application/openmetrics-text", "text/plain"])
@pytest.mark.parametrize(
    "parameter", ["version=x", "version=\xff", "version=", "version=1.2.3.4.5.x", "escaping=\xff", "q=x"]
)
async def test_an_unknown_accept_parameter_gives_text(kind: str, parameter: str) -> None:
    async with client_of(healthy()) as client:
        answer = await client.get("/metrics", headers={"Accept": f"{kind};{parameter}".encode("latin-1")})
    assert answer.status_code == 200
    assert "kie_reconciler_deliveries_total" in answer.text


async def test_a_stored_file_is_served_with_its_type_and_in_ranges(tmp_path: Path) -> None:
    (tmp_path / "u/image").mkdir(parents=True)
    (tmp_path / "u/image/g_0.png").write_bytes(b"0123456789")
    async with client_of(healthy(), tmp_path) as client:
        whole = await client.get("/files/u/image/g_0.png")
        part = await client.get("/files/u/image/g_0.png", headers={"Range": "bytes=2-4"})
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, b"0123456789", "image/png")
    assert "content-disposition" not in whole.headers
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert (part.status_code, part.content) == (206, b"234")


@pytest.mark.parametrize(
    ("key", "content_type"),
    [
        ("u/text/g_0.txt", "text/plain; charset=utf-8"),
        ("u/text/g_0.json", "application/json"),
        ("u/text/g_0.vtt", "text/vtt; charset=utf-8"),
        ("u/image/g_0.svg", "application/octet-stream"),
        ("u/image/g_0.tiff", "image/tiff"),
        ("u/file/g_0.pdf", "application/octet-stream"),
        ("u/file/g_0.glb", "model/gltf-binary"),
        ("u/file/g_0.mkv", "application/octet-stream"),
    ],
)
async def test_a_stored_document_is_saved_and_never_run(key: str, content_type: str, tmp_path: Path) -> None:
    (tmp_path / key).parent.mkdir(parents=True)
    (tmp_path / key).write_bytes(b"<svg><script>alert(1)</script></svg>")
    async with client_of(healthy(), tmp_path, {**TYPES, "video/x-matroska": extra_type("mkv")}) as client:
        answer = await client.get(f"/files/{key}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, content_type)
    assert answer.headers["content-disposition"] == f'attachment; filename="{key.rpartition("/")[2]}"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].split("; ")[:2] == ["sandbox", "default-src 'none'"]


async def test_an_invalid_range_is_answered_as_a_problem(tmp_path: Path) -> None:
    (tmp_path / "g_0.png").write_bytes(b"0123456789")
    async with client_of(healthy(), tmp_path) as client:
        beyond = await client.get("/files/g_0.png", headers={"Range": "bytes=99-"})
        garbled = await client.get("/files/g_0.png", headers={"Range": "bytes"})
        head = await client.head("/files/g_0.png", headers={"Range": "bytes=99-"})
    errors = [(one.status_code, one.headers["content-type"], one.json()["error"]) for one in (beyond, garbled)]
    assert errors == [
        (416, "application/problem+json", "range_not_satisfiable"),
        (400, "application/problem+json", "invalid_request"),
    ]
    assert beyond.headers["content-range"] == "bytes */10"
    assert head.status_code == 416


@pytest.mark.parametrize(
    "key",
    [
        "u/image/none.png",
        "../secret.png",
        "%2e%2e/secret.png",
        "page.html",
        "film.mkv",
        "u",
        "link.png",
        ".parts/x.png",
    ],
)
async def test_only_stored_media_are_served(key: str, tmp_path: Path) -> None:
    root = tmp_path / "files"
    (root / "u").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "page.html").write_text("<script>")
    (root / "film.mkv").write_text("of a type that no setting names")
    (root / ".parts").mkdir()
    (root / ".parts/x.png").write_bytes(b"half a picture")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    async with client_of(healthy(), root) as client:
        assert (await client.get(f"/files/{key}")).status_code == 404


async def test_nagles_algorithm_is_off_on_accepted_connections() -> None:
    without_delay: list[int] = []

    class SocketOptionReader(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted = transport.get_extra_info("socket")
            without_delay.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    listener = bound("127.0.0.1", 0)
    async with await asyncio.get_running_loop().create_server(SocketOptionReader, sock=listener):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        assert await reader.read() == b""
        writer.close()
    assert without_delay[0]


async def test_a_port_in_use_is_a_configuration_error() -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        port = occupied.getsockname()[1]
        with pytest.raises(Config) as refused:
            async with serving(application(healthy(), Metrics()), "127.0.0.1", port):
                pass
    assert str(port) in str(refused.value)
    assert "RECONCILER_HTTP_PORT" in refused.value.hint
