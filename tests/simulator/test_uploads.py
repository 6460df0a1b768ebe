"""Uploads: each of the three ways, what they answer, and what they refuse."""

from __future__ import annotations

import base64
from typing import Any

import aiohttp
import pytest

from reconciler.simulator import Simulator
from reconciler.simulator.api import uploads
from tests.simulator.client import Asking, asking

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
BASE64 = "/api/file-base64-upload"


async def fetched(ask: Asking, address: str) -> tuple[int, str, bytes]:
    async with ask.session.get(address) as answer:
        return answer.status, answer.content_type, await answer.read()


async def test_base64_is_decoded_kept_and_served() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        body = {"base64Data": base64.b64encode(PNG).decode(), "uploadPath": "images/base64", "fileName": "a cat.png"}
        status, answer = await ask.post(BASE64, body)
        told = answer["data"]
        assert (status, answer["success"], answer["code"]) == (200, True, 200)
        assert (told["fileName"], told["fileSize"], told["mimeType"]) == ("a_cat.png", len(PNG), "image/png")
        assert told["filePath"].startswith("kieai/")
        assert told["filePath"].endswith("/images/base64/a_cat.png")
        assert told["downloadUrl"] == f"{kie.url}/{told['filePath']}"
        assert await fetched(ask, told["downloadUrl"]) == (200, "image/png", PNG)
        assert kie.counts.uploads == 1


async def test_the_head_of_a_data_address_names_the_type() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        data = f"data:image/webp;base64,{base64.b64encode(PNG).decode()}"
        told = (await ask.post(BASE64, {"base64Data": data, "uploadPath": "images"}))[1]["data"]
        assert (told["mimeType"], told["fileName"]) == ("image/webp", "file.webp")


async def test_a_form_is_taken() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        form = aiohttp.FormData({"uploadPath": "images/user-uploads", "fileName": "cat.png"})
        form.add_field("file", PNG * 20_000, filename="other.png", content_type="image/png")
        async with ask.session.post(f"{kie.url}/api/file-stream-upload", data=form) as answer:
            told = (await answer.json())["data"]
        assert (told["fileName"], told["fileSize"]) == ("cat.png", len(PNG) * 20_000)
        assert (await fetched(ask, told["downloadUrl"]))[2] == PNG * 20_000


async def test_a_file_is_fetched_from_its_address() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        address = kie.addresses(kie.tasks[kie.add_task()])[0]
        told = (await ask.post("/api/file-url-upload", {"fileUrl": address, "uploadPath": "images"}))[1]["data"]
        assert told["fileName"] == address.rpartition("/")[2]
        assert (await fetched(ask, told["downloadUrl"]))[1:] == ("image/png", (await fetched(ask, address))[2])


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (BASE64, {"uploadPath": "a"}, "base64Data is required"),
        (BASE64, {"base64Data": "AAAA"}, "uploadPath is required"),
        (BASE64, {"base64Data": "not base64!", "uploadPath": "a"}, "not base64"),
        (BASE64, [], "no JSON object"),
        ("/api/file-url-upload", {"uploadPath": "a"}, "fileUrl is required"),
        ("/api/file-url-upload", {"fileUrl": "file:///etc/passwd", "uploadPath": "a"}, "fileUrl is required"),
        ("/api/file-url-upload", {"fileUrl": "http://127.0.0.1:9/x.png", "uploadPath": "a"}, "cannot be fetched"),
        ("/api/file-stream-upload", {"uploadPath": "a"}, "no form"),
    ],
)
async def test_a_bad_upload_is_refused_and_nothing_is_kept(path: str, body: Any, said: str) -> None:
    async with Simulator() as kie, asking(kie) as ask:
        status, answer = await ask.post(path, body)
        assert (status, answer["success"], answer["code"], answer["data"]) == (200, False, 400, None)
        assert said in answer["msg"]
        assert not kie.uploads


async def test_an_address_that_answers_with_an_error_is_named() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        body = {"fileUrl": f"{kie.url}/nothing.png", "uploadPath": "a"}
        assert (await ask.post("/api/file-url-upload", body))[1]["msg"] == "the file cannot be fetched: HTTP 404"


async def test_no_name_leads_out_of_the_clients_folder() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        body = {"base64Data": "AAAA", "uploadPath": "../../r//..", "fileName": "../../../x/..y\n"}
        told = (await ask.post(BASE64, body))[1]["data"]
        assert [part for part in told["filePath"].split("/") if part.strip(".") == ""] == []
        assert told["filePath"].split("/")[0] == "kieai"
        assert "\n" not in told["filePath"]


async def test_an_upload_expires_after_a_day() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        address = (await ask.post(BASE64, {"base64Data": "AAAA", "uploadPath": "a"}))[1]["data"]["downloadUrl"]
        kie.skip(86399)
        assert (await fetched(ask, address))[0] == 200
        kie.skip(1)
        assert (await fetched(ask, address))[0] == 404


async def test_too_much_is_refused_and_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MOST_BYTES", 2500)
    monkeypatch.setattr(uploads, "LARGEST", 3000)
    async with Simulator() as kie, asking(kie) as ask:
        for name in ("one", "two", "three"):
            body = {"base64Data": base64.b64encode(bytes(1000)).decode(), "uploadPath": "a", "fileName": name}
            assert (await ask.post(BASE64, body))[1]["code"] == 200
        assert [path.rpartition("/")[2] for path in kie.uploads] == ["two", "three"]
        body = {"base64Data": base64.b64encode(bytes(9000)).decode(), "uploadPath": "a", "fileName": "four"}
        assert (await ask.post(BASE64, body))[1]["msg"] == "the file is too large"


async def test_uploads_need_a_key_and_can_fail_on_demand() -> None:
    async with Simulator(keys=("k",)) as kie, asking(kie, "wrong") as stranger, asking(kie, "k") as ask:
        body = {"base64Data": "AAAA", "uploadPath": "a"}
        assert (await stranger.post(BASE64, body))[1]["code"] == 401
        kie.strike("upload.body_500")
        assert (await ask.post(BASE64, body))[1]["code"] == 500
        assert (await ask.post(BASE64, body))[1]["code"] == 200
