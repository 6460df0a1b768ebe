"""Run one command of `kie-reconciler` as a real process; return its output and its exit code."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def answer(self) -> Any:
        """What it printed, read as JSON."""
        return json.loads(self.out)

    @property
    def told(self) -> str:
        """The one line that a person reads on standard error; there must be exactly one."""
        (line,) = self.err.splitlines()
        return line


async def begin(*words: str, folder: Path, **environment: str) -> asyncio.subprocess.Process:
    """Start a command with this environment and nothing of ours."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "reconciler", *words,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        cwd=folder, env={"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": _ROOT, **environment},
    )  # fmt: skip


async def run(*words: str, folder: Path, within: float = 90.0, environment: Mapping[str, str] | None = None) -> Ran:
    """Run a command to its end."""
    process = await begin(*words, folder=folder, **(environment or {}))
    try:
        out, err = await asyncio.wait_for(process.communicate(), within)
    except TimeoutError:
        if process.returncode is None:
            process.kill()
        raise AssertionError(f"still running after {within:g} s: {words}") from None
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


_ROOT = str(Path(__file__).parents[1])
