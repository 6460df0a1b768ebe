"""The history page as it is served: fixed files, and a Content-Security-Policy that names the media hosts."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from reconciler import settings
from reconciler.health import Health
from reconciler.http.app import application, serving
from reconciler.http.routes import page
from reconciler.metrics import Metrics
from reconciler.settings import Settings

FOLDER = Path(page.__file__).parents[1] / "page"


def configured(tmp_path: Path, **more: str) -> Settings:
    environment = {
        "SUPABASE_URL": "https://abc.supabase.co",
        "RECONCILER_PUBLIC_URL": "https://files.example:8443/a",
        **more,
    }
    return settings.load(environment, tmp_path)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = application(Health(patience=45), Metrics(), routers=[page.routes(configured(tmp_path))])
    async with (
        serving(app, "127.0.0.1", 0) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False) as opened,
    ):
        yield opened


def directives(policy: str) -> dict[str, list[str]]:
    return {name: sources for name, *sources in (one.split() for one in policy.split(";"))}


async def test_every_file_that_the_page_names_is_served(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    named = set(re.findall(r'(?:src|href)="(page/[^"]+)"', answer.text))
    for script in FOLDER.glob("*.js"):
        if script.name != "docs.js":
            named |= {f"page/{name}" for name in re.findall(r'from "\./([^"]+)"', script.read_text())}
    assert len(named) > 8
    for name in named:
        got = await client.get(f"/{name}")
        assert got.status_code == 200, name
        assert got.headers["x-content-type-options"] == "nosniff"


async def test_an_unchanged_file_is_not_sent_again(client: httpx.AsyncClient) -> None:
    tag = (await client.get("/page/page.js")).headers["etag"]
    again = await client.get("/page/page.js", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")


async def test_no_other_file_is_served_from_the_folder(client: httpx.AsyncClient) -> None:
    for path in ("/page/../page.py", "/page/%2e%2e/page.py", "/page/..%2fpage.py", "/page/", "/page/nothing.js"):
        assert (await client.get(path)).status_code == 404, path


async def test_the_policy_allows_the_own_origin_and_media_from_named_hosts_only(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    policy = directives(answer.headers["content-security-policy"])
    assert policy["default-src"] == ["'none'"]
    for name in ("script-src", "style-src", "connect-src"):
        assert policy[name] == ["'self'"]
    for name in ("base-uri", "form-action", "frame-ancestors", "trusted-types"):
        assert policy[name] == ["'none'"]
    for name in ("img-src", "media-src"):
        assert policy[name][:3] == ["'self'", "https://abc.supabase.co", "https://files.example:8443"]
        assert {"https://aiquickdraw.com", "https://*.aiquickdraw.com"} <= set(policy[name])
        assert not [source for source in policy[name] if source.startswith("http:") or "unsafe" in source]
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["permissions-policy"].startswith("camera=(), microphone=()")


def test_a_star_allows_media_from_any_host_over_https_only(tmp_path: Path) -> None:
    assert page.media_sources(configured(tmp_path, RECONCILER_RESULT_HOSTS="*"))[-1] == "https:"


def test_private_hosts_are_allowed_over_http_only_where_the_setting_allows_them(tmp_path: Path) -> None:
    local = {"RECONCILER_RESULT_HOSTS": "127.0.0.1"}
    assert "http://127.0.0.1:*" not in page.media_sources(configured(tmp_path, **local))
    assert "http://127.0.0.1:*" in page.media_sources(
        configured(tmp_path, **local, RECONCILER_ALLOW_PRIVATE_HOSTS="true")
    )


def test_no_script_of_the_page_turns_text_into_markup() -> None:
    for script in FOLDER.glob("*.js"):
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script.read_text()
        )
        assert not found, script.name
    assert "style=" not in (FOLDER / "index.html").read_text()
