"""One daemon and one browser for all tests of the page; each test uses its own user and its own tab."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from reconciler.demo.embedded_postgres import Postgres
from reconciler.simulator import Simulator
from testkit.stage import KEY, staged
from testkit.standins.storage import SupabaseStorage
from tests.conftest import Databases, External

playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed (make install)")

from tests.browser.playable import film  # noqa: E402 - needs playwright
from tests.browser.stage import SETTINGS, Stage, Visit  # noqa: E402

PROGRAM = shutil.which("chromium")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Any]:
    """The browser of the Debian package."""
    if PROGRAM is None:
        pytest.skip("there is no chromium (apt-get install chromium)")
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=PROGRAM, args=list(FLAGS))
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def stage_dsn(postgres: Postgres | External, databases: Databases, _template: str) -> Iterator[str]:
    """A database for the whole session: the daemon stays on it."""
    with databases.new(_template) as name:
        yield postgres.dsn(name)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stage(chromium: Any, stage_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """The daemon with its page."""
    kie = Simulator(keys=(KEY,), limits=False)
    async with staged(stage_dsn, kie, tmp_path_factory.mktemp("page"), SupabaseStorage()) as rig:
        replica = await rig.run(**SETTINGS)
        page = await chromium.new_page()
        recorded = await film(page)
        await page.close()
        yield Stage(rig, f"http://127.0.0.1:{await replica.port()}", recorded)


@pytest.fixture
def user() -> str:
    """A user of this test alone."""
    return str(uuid.uuid4())


@pytest_asyncio.fixture(loop_scope="session")
async def visits(stage: Stage, chromium: Any) -> AsyncIterator[Callable[..., Awaitable[Visit]]]:
    """Open tabs; afterwards fail on console errors and on requests to other origins."""
    opened: list[Visit] = []

    async def begin(url: str = "", **options: Any) -> Visit:
        settings = {"locale": "en-US", "viewport": {"width": 1280, "height": 900}, **options}
        opened.append(await Visit.begin(stage, await chromium.new_context(**settings), url))
        return opened[-1]

    yield begin
    problems = [problem for visit in opened for problem in visit.problems()]
    for visit in opened:
        await visit.context.close()
    assert not problems, "\n".join(problems)


@pytest_asyncio.fixture(loop_scope="session")
async def visit(visits: Callable[..., Awaitable[Visit]]) -> Visit:
    """One tab."""
    return await visits()
