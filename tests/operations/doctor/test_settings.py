"""What `doctor` says about the settings, about names that only look like settings, and about the port of `run`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from reconciler import settings
from tests.operations.doctor.installation import Installation, not_ok


async def test_names_that_are_no_settings_are_listed_with_the_nearest_setting(
    shared: Installation, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("RECONCILER_POL_RATE=3\n")
    environment = shared.environment(KIE_APIKEY="x", RECONCILER_ENV_FILE=".env", KIE_API_KEY_PHOTO="y")
    assert settings.strangers(environment, tmp_path) == ("KIE_APIKEY", "RECONCILER_POL_RATE")
    checks = await shared.examine(unknown_names=("KIE_APIKEY", "RECONCILER_POL_RATE", "RECONCILER_"))
    assert not_ok(checks) == {"spelling": "warn"}
    assert "KIE_APIKEY (did you mean KIE_API_KEY?)" in checks["spelling"].says
    assert "RECONCILER_POL_RATE (did you mean RECONCILER_POLL_RATE?)" in checks["spelling"].says


async def test_a_task_pattern_that_only_python_can_read_fails(shared: Installation) -> None:
    checks = await shared.examine(RECONCILER_TASK_PATTERN="(?P<id>[0-9a-f]+)")
    unread = dict.fromkeys(("ignored_rows", "deliveries", "findings"), "warn")
    assert not_ok(checks) == {"settings": "FAIL", "preflight": "FAIL", **unread}
    assert "RECONCILER_TASK_PATTERN" in checks["settings"].says
    assert "PostgreSQL" in checks["settings"].do


async def test_settings_that_defeat_each_other_are_a_warning(shared: Installation) -> None:
    checks = await shared.examine(RECONCILER_GIVE_UP_AFTER="5m", RECONCILER_API_TOKEN="short")
    assert checks["settings"].word == "warn"
    assert "RECONCILER_GIVE_UP_AFTER" in checks["settings"].says
    assert "RECONCILER_API_TOKEN" in checks["settings"].says
    assert "short" not in checks["settings"].says.replace("shorter", "")


async def test_results_from_every_private_host_are_a_warning(shared: Installation) -> None:
    checks = await shared.examine(RECONCILER_ALLOW_PRIVATE_HOSTS="true", RECONCILER_RESULT_HOSTS="*")
    assert not_ok(checks) == {"settings": "warn"}
    assert "RECONCILER_RESULT_HOSTS" in checks["settings"].says


@asynccontextmanager
async def listening(answer: str) -> AsyncIterator[str]:
    """A program that listens on a port of its own, and answers every request with this text; yields the port."""

    async def respond(_: web.BaseRequest) -> web.Response:
        return web.Response(text=answer)

    runner = web.ServerRunner(web.Server(respond))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield str(runner.addresses[0][1])
    await runner.cleanup()


@pytest.mark.parametrize(("answer", "word"), [("ok\n", "ok"), ("another program", "FAIL"), ("ok\nand more", "FAIL")])
async def test_a_port_is_free_or_a_daemons_or_taken(shared: Installation, answer: str, word: str) -> None:
    async with listening(answer) as port:
        taken = (await shared.examine(RECONCILER_HTTP_PORT=port))["http_port"]
    assert taken.word == word
    assert (f"cannot listen on 127.0.0.1 port {port}" in taken.says) == (word == "FAIL")
    free = (await shared.examine(RECONCILER_HTTP_PORT=port))["http_port"]
    assert (free.word, f"can listen on 127.0.0.1 port {port}" in free.says) == ("ok", True)


async def test_an_address_that_this_machine_does_not_have_fails(shared: Installation) -> None:
    check = (await shared.examine(RECONCILER_HTTP_HOST="192.0.2.1"))["http_port"]
    assert (check.word, "RECONCILER_HTTP_HOST" in check.do) == ("FAIL", True)


async def test_a_port_on_which_another_program_speaks_no_http_fails(shared: Installation) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = str(server.sockets[0].getsockname()[1])
        check = (await shared.examine(RECONCILER_HTTP_PORT=port))["http_port"]
    assert (check.word, f"port {port}" in check.says) == ("FAIL", True)
