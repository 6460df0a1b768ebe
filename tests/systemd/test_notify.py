"""How something is said to a supervisor: the datagrams, the two kinds of socket, and nobody listening."""

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
async def test_each_word_is_a_line_of_one_datagram_from_our_own_process(kind: str, tmp_path: Path) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"@kr-{secrets.token_hex(8)}"
    with NotifySocket(address).open() as systemd:
        supervisor = SupervisorSocket(address)
        assert supervisor.tell(READY=1, STATUS="3 in hand")
        await until(lambda: systemd.messages, what="a message")
        supervisor.close()
    assert systemd.messages == [Message(os.getpid(), {"READY": "1", "STATUS": "3 in hand"})]


async def test_a_status_cannot_bring_lines_of_its_own(tmp_path: Path) -> None:
    with NotifySocket(str(tmp_path / "notify")).open() as systemd:
        assert SupervisorSocket(systemd.address).tell(STATUS="away\nREADY=1\n\udcff")
        await until(lambda: systemd.messages, what="a message")
    assert systemd.messages[0].lines == {"STATUS": "away READY=1 ?"}


async def test_what_the_supervisor_told_us_is_taken_out_of_the_environment(tmp_path: Path) -> None:
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
async def test_a_watchdog_that_is_not_ours_is_none(environ: dict[str, str]) -> None:
    assert SupervisorSocket.from_environment(environ).watchdog is None


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative"])
async def test_without_an_address_that_we_know_nobody_listens(address: str) -> None:
    supervisor = SupervisorSocket(address)
    assert not supervisor.listens
    assert not supervisor.tell(READY=1)


async def test_a_supervisor_that_is_away_costs_one_line_and_is_told_again_when_it_is_back(tmp_path: Path) -> None:
    supervisor = SupervisorSocket(str(tmp_path / "notify"))
    with capture_logs() as lines:
        assert not supervisor.tell(READY=1)
        assert not supervisor.tell(READY=1)
    assert [line["event"] for line in lines] == ["supervisor.unheard"]
    with NotifySocket(str(tmp_path / "notify")).open():
        assert supervisor.tell(READY=1)
    supervisor.close()


async def test_a_supervisor_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    systemd = NotifySocket(str(tmp_path / "notify"))
    with systemd.open(), capture_logs():
        supervisor = SupervisorSocket(systemd.address)
        assert not all(supervisor.tell(WATCHDOG=1) for _ in range(10_000))
        supervisor.close()
