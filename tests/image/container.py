"""One container of the image under test: started by podman, queried, stopped. check_image.py uses it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

IMAGE = os.environ.get("IMAGE", "")

# As an operator who trusts nothing would run it. Without the limits runc wants to raise its own, which a container may
# not; without the last one podman would make /tmp writable, which docker does not.
_STRICT = (
    "--network=host", "--ulimit=nofile=20000:20000", "--ulimit=nproc=4096:4096",
    "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--read-only-tmpfs=false",
)  # fmt: skip


@dataclass(frozen=True)
class Said:
    """How a command of podman's ended, and what it said on both ways."""

    code: int
    text: str


async def podman(*arguments: str) -> Said:
    """Run podman on the storage of this test."""
    process = await asyncio.create_subprocess_exec(
        *shlex.split(os.environ["PODMAN"]), *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Said(process.returncode, output.decode(errors="replace").strip())


async def once(*command: str, entrypoint: str | None = None) -> Said:
    """Run a command in a container that ends with it."""
    instead = () if entrypoint is None else (f"--entrypoint={entrypoint}",)
    return await podman("run", "--rm", "--no-healthcheck", *_STRICT, *instead, IMAGE, *command)


async def inspected(name: str) -> dict[str, Any]:
    """What is known of an image or a container."""
    (known,) = json.loads((await podman("inspect", name)).text)
    return dict(known)


class Container:
    """A container in the background; leaving the context removes it with its volume."""

    def __init__(self, environment: Mapping[str, str], *options: str) -> None:
        self.name = f"kr-{secrets.token_hex(4)}"
        settings = [f"--env={name}={value}" for name, value in environment.items()]
        self._command = ("run", "--detach", f"--name={self.name}", *_STRICT, *settings, *options, IMAGE)

    async def __aenter__(self) -> Self:
        begun = await podman(*self._command)
        assert begun.code == 0, begun.text
        return self

    async def __aexit__(self, *_: object) -> None:
        await podman("rm", "--force", "--volumes", "--time=0", self.name)

    async def inside(self, *command: str) -> Said:
        """Run a command beside the daemon."""
        return await podman("exec", self.name, *command)

    async def healthy(self) -> bool:
        """Ask the image's own HEALTHCHECK once."""
        return (await podman("healthcheck", "run", self.name)).code == 0

    async def log(self) -> list[dict[str, Any]]:
        """Everything the daemon has said so far."""
        lines = (await podman("logs", self.name)).text.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    async def stopped(self, seconds: int) -> int:
        """Stop it as `docker stop` does, killing it after so many seconds; its exit code."""
        assert (await podman("stop", f"--time={seconds}", self.name)).code == 0
        return int((await inspected(self.name))["State"]["ExitCode"])
