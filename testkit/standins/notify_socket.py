"""The supervisor's end of systemd's notification socket; it records each message and the process that sent it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from testkit.waiting import until


@dataclass(frozen=True)
class Message:
    """One message: its lines by name, and the sender as the kernel tells it."""

    pid: int
    lines: dict[str, str]


class NotifySocket:
    """A socket such as systemd has; `messages` holds what came so far, in order."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: list[Message] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.setblocking(False)

    @contextlib.contextmanager
    def open(self) -> Iterator[NotifySocket]:
        """Listen while the context lasts."""
        loop = asyncio.get_running_loop()
        self._socket.bind(f"\0{self.address[1:]}" if self.address.startswith("@") else self.address)
        loop.add_reader(self._socket, self._receive)
        try:
            yield self
        finally:
            loop.remove_reader(self._socket)
            self._socket.close()

    def _receive(self) -> None:
        text, credentials, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(12))
        ((_, _, sender),) = credentials
        lines = dict(line.split("=", 1) for line in text.decode().split("\n"))
        self.messages.append(Message(struct.unpack("3i", sender)[0], lines))

    def values(self, name: str) -> list[str]:
        """Every value that came under this name, in order."""
        return [one.lines[name] for one in self.messages if name in one.lines]

    async def receives(self, name: str, value: str, within: float = 20) -> None:
        """Wait for this line; a value that ends in * is a prefix."""

        def received() -> bool:
            if value.endswith("*"):
                return any(one.startswith(value[:-1]) for one in self.values(name))
            return value in self.values(name)

        try:
            await until(received, within, f"{name}={value}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.messages[-8:]}") from None

    async def receives_watchdog(self, times: int, within: float = 20) -> None:
        """Wait for so many more pings of the watchdog."""
        wanted = len(self.values("WATCHDOG")) + times
        await until(lambda: len(self.values("WATCHDOG")) >= wanted, within, f"WATCHDOG=1, {times} times more")
