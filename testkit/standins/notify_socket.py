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
class Said:
    """One message: its lines by their names, and the process that the kernel says it came from."""

    pid: int
    lines: dict[str, str]


class Ear:
    """Everything that was said so far, in order."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.said: list[Said] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.setblocking(False)

    @contextlib.contextmanager
    def open(self) -> Iterator[Ear]:
        """Listen while the context lasts."""
        loop = asyncio.get_running_loop()
        self._socket.bind(f"\0{self.address[1:]}" if self.address.startswith("@") else self.address)
        loop.add_reader(self._socket, self._hear)
        try:
            yield self
        finally:
            loop.remove_reader(self._socket)
            self._socket.close()

    def _hear(self) -> None:
        text, credentials, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(12))
        ((_, _, sender),) = credentials
        lines = dict(line.split("=", 1) for line in text.decode().split("\n"))
        self.said.append(Said(struct.unpack("3i", sender)[0], lines))

    def values(self, name: str) -> list[str]:
        """Every value that this name was given."""
        return [one.lines[name] for one in self.said if name in one.lines]

    async def heard(self, name: str, value: str, within: float = 20) -> None:
        """Wait for this to be said; a value that ends in * is a beginning."""

        def told() -> bool:
            if value.endswith("*"):
                return any(one.startswith(value[:-1]) for one in self.values(name))
            return value in self.values(name)

        try:
            await until(told, within, f"{name}={value}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.said[-8:]}") from None

    async def fed(self, times: int, within: float = 20) -> None:
        """Wait for so many more signs of life."""
        wanted = len(self.values("WATCHDOG")) + times
        await until(lambda: len(self.values("WATCHDOG")) >= wanted, within, f"WATCHDOG=1, {times} times more")
