"""The notification socket: its datagrams, both kinds of address, and a supervisor that is away."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from reconciler.systemd.notify import SupervisorSocket
from testkit.standins.notify_socket import Message, NotifySocket
from testkit.waiting import until


@pytest.mark.parametrize("kind", ["path", "abstract"])
async def test_each_value_is_a_line_of_one_datagram_from_our_own_process(kind: str, tmp_path: Path) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"@kr-{secrets.token_hex(8)}"
    with NotifySocket(address).open() as systemd:
        supervisor = SupervisorSocket(address)
        assert supervisor.send(READY=1, STATUS="3 in hand")
        await until(lambda: systemd.messages, what="a message")
        supervisor.close()
    assert systemd.messages == [Message(os.getpid(), {"READY": "1", "STATUS": "3 in hand"})]


async def test_a_status_cannot_add_lines(tmp_path: Path) -> None:
    with NotifySocket(str(tmp_path / "notify")).open() as systemd:
        assert SupervisorSocket(systemd.address).send(STATUS="away\nREADY=1\n\udcff")
        await until(lambda: systemd.messages, what="a message")
    assert systemd.messages[0].lines == {"STATUS": "away READY=1 ?"}


async def test_the_variables_of_the_supervisor_are_removed_from_the_environment(tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid())}
    supervisor = SupervisorSocket.from_environment(environ)
    assert supervisor.watchdog == 2.5
    assert environ == {}
    supervisor.close()


@pytest.mark.parametrize(
    "environ",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "-1"}, {"WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}],
    ids=["unset", "none", "malformed", "of another process"],
)
async def test_a_watchdog_that_is_unset_malformed_or_of_another_process_is_none(environ: dict[str, str]) -> None:
    assert SupervisorSocket.from_environment(environ).watchdog is None


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative"])
async def test_without_a_supported_address_nothing_is_sent(address: str) -> None:
    supervisor = SupervisorSocket(address)
    assert not supervisor.listens
    assert not supervisor.send(READY=1)


async def test_a_supervisor_that_is_away_costs_one_log_line_and_is_reached_when_it_is_back(
    tmp_path: Path,
) -> None:
    supervisor = SupervisorSocket(str(tmp_path / "notify"))
    with capture_logs() as lines:
        assert not supervisor.send(READY=1)
        assert not supervisor.send(READY=1)
    assert [line["event"] for line in lines] == ["supervisor.unheard"]
    with NotifySocket(str(tmp_path / "notify")).open():
        assert supervisor.send(READY=1)
    supervisor.close()


async def test_a_supervisor_that_does_not_read_does_not_block_us(tmp_path: Path) -> None:
    systemd = NotifySocket(str(tmp_path / "notify"))
    with systemd.open(), capture_logs():
        supervisor = SupervisorSocket(systemd.address)
        assert not all(supervisor.send(WATCHDOG=1) for _ in range(10_000))
        supervisor.close()
