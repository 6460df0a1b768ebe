"""Two clients of KIE that this project did not write run against the simulator: an MCP server and a sprite generator.

Each is installed by npm, without its install scripts, into the test's own folder. The MCP server has a setting for
KIE's address, and needs a stand-in for the native package sqlite3 (`foreign/sqlite3`). The sprite generator has none:
`foreign/redirect.mjs` sends its requests to the simulator.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reconciler.simulator import SimulatedTask, Simulator
from testkit.waiting import until
from tests.simulator.test_callbacks import Ear, ear

FOREIGN = Path(__file__).parent / "foreign"
MCP_SERVER = ("@felores/kie-ai-mcp-server", "5.0.0")
SPRITES = ("ai-sprite-image-generator", "1.0.7")
KEY = "key-of-the-shop"

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]


async def npm(folder: Path, *words: str) -> tuple[int, str]:
    """Return the exit code and the output of an npm command in this folder."""
    process = await asyncio.create_subprocess_exec(
        "npm", *words, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 240)
    return process.returncode or 0, output.decode()


async def installed(folder: Path, package: str, version: str) -> Path:
    """Return the folder of an installed package; skip the test where it cannot be had."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("there is no npm here")
    code, found = await npm(folder, "view", f"{package}@{version}", "version")
    if code or version not in found:
        pytest.skip(f"npm finds no {package} {version} here")
    shutil.copytree(FOREIGN / "sqlite3", folder / "sqlite3")
    wanted = {"private": True, "dependencies": {package: version}, "overrides": {"sqlite3": "file:./sqlite3"}}
    (folder / "package.json").write_text(json.dumps(wanted))
    code, output = await npm(folder, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
    assert code == 0, output
    return folder / "node_modules" / package


@dataclass
class McpServer:
    """A running MCP server, spoken to by lines of JSON-RPC."""

    process: asyncio.subprocess.Process
    number: int = 0

    async def send(self, method: str, **params: Any) -> None:
        assert self.process.stdin is not None
        numbered = {} if method.startswith("notifications/") else {"id": self.number}
        line = json.dumps({"jsonrpc": "2.0", **numbered, "method": method, "params": params})
        self.process.stdin.write(line.encode() + b"\n")
        await self.process.stdin.drain()

    async def ask(self, method: str, **params: Any) -> Any:
        self.number += 1
        await self.send(method, **params)
        assert self.process.stdout is not None
        while True:
            answer = json.loads(await asyncio.wait_for(self.process.stdout.readline(), 60))
            if answer.get("id") == self.number:
                return answer["result"]

    async def call(self, tool: str, **arguments: Any) -> str:
        """Return the text that a tool answers with."""
        return str((await self.ask("tools/call", name=tool, arguments=arguments))["content"][0]["text"])


@asynccontextmanager
async def mcp_server(program: Path, kie: Simulator, listening: Ear, folder: Path) -> AsyncIterator[McpServer]:
    told = {
        "KIE_AI_API_KEY": KEY,
        "KIE_AI_BASE_URL": f"{kie.url}/api/v1",
        "KIE_AI_FILE_UPLOAD_BASE_URL": kie.url,
        "KIE_AI_CALLBACK_URL": listening.url,
        "KIE_AI_CALLBACK_URL_FALLBACK": listening.url,
        "KIE_AI_ALLOW_DIRECT_GENERATION": "true",
        "KIE_AI_DB_PATH": str(folder / "tasks.db"),
    }
    process = await asyncio.create_subprocess_exec(
        "node", str(program / "dist" / "index.js"), env={**os.environ, **told}, limit=1 << 24,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    server = McpServer(process)
    try:
        client = {"name": "test", "version": "1"}
        await server.ask("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=client)
        await server.send("notifications/initialized")
        yield server
    finally:
        process.kill()
        await process.wait()


ORDERS: dict[str, tuple[dict[str, Any], str, str]] = {
    "nano_banana_image": ({"prompt": "a cat", "output_format": "jpg"}, "market", "nano-banana-2"),
    "gpt_image_2": ({"prompt": "a cat"}, "market", "gpt-image-2-text-to-image"),
    "kling_video": ({"prompt": "a cat"}, "market", "kling-3.0/video"),
    "bytedance_seedance_video": ({"prompt": "a cat"}, "market", "bytedance/seedance-2-5"),
    "elevenlabs_tts": ({"text": "good evening"}, "market", "elevenlabs/text-to-speech-turbo-2-5"),
    "suno_generate_music": ({"prompt": "rain", "customMode": False, "instrumental": True}, "suno", "V5"),
    "veo3_generate_video": ({"prompt": "a lake"}, "veo", "veo3"),
    "flux_kontext_image": ({"prompt": "a cat"}, "flux_kontext", "flux-kontext-pro"),
    "midjourney_generate": ({"prompt": "a cat"}, "midjourney", "midjourney"),
}
"""The tools of the MCP server, what they are given, and the task that KIE has to make of it."""


async def test_an_mcp_server_orders_every_kind_and_sees_every_result(tmp_path: Path) -> None:
    program = await installed(tmp_path, *MCP_SERVER)
    async with (
        Simulator(strict=True, keys=(KEY,), limits=False, speed=1000, media_size=1000) as kie,
        ear() as listening,
        mcp_server(program, kie, listening, tmp_path) as server,
    ):
        for tool, (arguments, family, model) in ORDERS.items():
            answer = await server.call(tool, **arguments)
            task = list(kie.tasks.values())[-1]
            assert (task.family, task.model) == (family, model), answer
            assert task.id in answer
            await until(lambda task=task: sees_results(server, kie, task), 30, f"the results of {tool}")
        film = next(task for task in kie.tasks.values() if task.family == "veo")
        kie.skip(film.hd_after)
        assert kie.addresses(film)[-1] in await server.call("veo3_get_1080p_video", task_id=film.id)
        await until(lambda: {"text", "first", "complete"} <= stages(listening), what="Suno's three callbacks")


async def sees_results(server: McpServer, kie: Simulator, task: SimulatedTask) -> bool:
    answer = await server.call("get_task_status", task_id=task.id)
    return all(address in answer for address in kie.addresses(task)[: len(task.results)])


def stages(listening: Ear) -> set[str]:
    return {body["data"].get("callbackType", "") for _, body in listening.heard}


async def test_an_mcp_server_passes_on_how_kie_refuses(tmp_path: Path) -> None:
    program = await installed(tmp_path, *MCP_SERVER)
    async with (
        Simulator(strict=True, keys=(KEY,), limits=False) as kie,
        ear() as listening,
        mcp_server(program, kie, listening, tmp_path) as server,
    ):
        for prompt, said in {
            "a cat simulate:create.body_402": "Credits insufficient",
            "a cat simulate:create.body_455": "maintenance",
            "a cat simulate:create.html_502": "HTTP 502",
        }.items():
            assert said in await server.call("gpt_image_2", prompt=prompt)
        kie.keys = ("another",)
        assert "You do not have access permissions" in await server.call("gpt_image_2", prompt="a cat")
        assert not kie.tasks


@pytest.mark.parametrize("ext", ["jpg", "png"])
async def test_a_sprite_generator_cuts_the_picture_that_it_ordered(tmp_path: Path, ext: str) -> None:
    program = await installed(tmp_path, *SPRITES)
    async with Simulator(strict=True, keys=(KEY,), speed=1000, media_size=30_000) as kie:
        process = await asyncio.create_subprocess_exec(
            "node", "--import", str(FOREIGN / "redirect.mjs"), str(program / "dist" / "cli.js"),
            "Cats", "--cells", "Tom,Kit", "-x", "2", "-y", "1", "-f", ext, "-o", str(tmp_path / "out"),
            env={**os.environ, "KIE": kie.url, "KIE_API_KEY": KEY}, cwd=tmp_path,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(), 90)
        assert process.returncode == 0, output.decode()
        (task,) = kie.tasks.values()
        sheet = (tmp_path / "out" / "batches" / f"batch-1.{ext}").read_bytes()
        assert hashlib.sha256(sheet).hexdigest() == kie.sha256(task.id)
        begin = b"\xff\xd8\xff" if ext == "jpg" else b"\x89PNG"
        cells = [tmp_path / "out" / "images" / f"{name}.{ext}" for name in ("tom", "kit")]
        assert [cell.read_bytes()[: len(begin)] for cell in cells] == [begin] * 2
