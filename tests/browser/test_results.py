"""What the page shows of a generation: its progress, its results, its error, and no rows of other users."""

from __future__ import annotations

import json
import re
import uuid

import pytest
from playwright.async_api import Request, expect

from reconciler.simulator import MediaSpec
from testkit.waiting import until
from tests.browser.playable import picture, sound
from tests.browser.stage import OPERATOR, Stage, Visit, loaded

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_row_inserted_while_the_page_is_open_turns_from_spinner_to_picture(
    stage: Stage, visit: Visit, user: str
) -> None:
    page = await visit.go_as(user)
    await visit.connection("live")
    await page.evaluate("window.neverReloaded = true")
    row = await stage.order(user, picture(), ends=False, prompt="A lighthouse at dusk")
    card = visit.card(row)
    await expect(card.locator(".ring")).to_be_visible()
    await expect(card.get_by_role("progressbar")).to_be_visible()
    await expect(card.locator(".elapsed")).to_contain_text("sec")
    await stage.end(row)
    await visit.ready(row)
    await loaded(card.get_by_role("img", name="A lighthouse at dusk"))
    await expect(page.locator("#said")).to_have_text("Ready: A lighthouse at dusk")
    assert await page.evaluate("window.neverReloaded")
    assert (await card.locator("img").get_attribute("src") or "").startswith(stage.rig.storage.url)  # type: ignore[union-attr]


async def test_the_elapsed_time_follows_the_servers_clock(stage: Stage, visit: Visit, user: str) -> None:
    row = await stage.order(user, picture(), ends=False, age=40)
    await visit.page.add_init_script("const real = Date.now; Date.now = () => real() + 3_600_000;")
    await visit.go_as(user)
    await expect(visit.card(row).locator(".elapsed")).to_have_text(re.compile(r"^[4-9]\d sec, usually about"))
    await expect(visit.card(row).locator("time")).to_have_text(re.compile(r"^([45]0 seconds|1 minute) ago$"))


async def test_a_film_plays_in_place(stage: Stage, visit: Visit, user: str) -> None:
    row = await stage.order(user, stage.film, prompt="A ball")
    page = await visit.go_as(user)
    film = (await visit.ready(row)).locator("video")
    await expect(film).to_have_js_property("preload", "metadata")
    await expect(film).to_have_js_property("playsInline", True)
    await film.focus()
    await page.keyboard.press("Space")
    await until(lambda: page.evaluate("document.querySelector('video').currentTime > 0.3"), what="a film that plays")


async def test_a_sound_plays_in_place(stage: Stage, visit: Visit, user: str) -> None:
    row = await stage.order(user, sound(), prompt="Rain")
    page = await visit.go_as(user)
    await expect((await visit.ready(row)).locator("audio")).to_be_visible()
    await page.evaluate("document.querySelector('audio').play()")
    await until(lambda: page.evaluate("document.querySelector('audio').currentTime > 0.3"), what="a sound that plays")


@pytest.mark.soak
async def test_a_playing_film_continues_while_the_list_is_refreshed(stage: Stage, visit: Visit, user: str) -> None:
    visit.allow("net::ERR_FAILED")
    await visit.page.route("**/api/events", lambda route: route.abort())
    await stage.row(user)
    row = await stage.order(user, stage.film)
    page = await visit.go_as(user)
    film = (await visit.ready(row)).locator("video")
    await film.evaluate("film => { film.loop = true; window.film = film; return film.play(); }")
    other = await stage.row(user)
    await expect(visit.card(other)).to_be_visible(timeout=15_000)
    assert await page.evaluate("window.film.isConnected && !window.film.paused")


async def test_a_playing_film_continues_while_its_generation_is_fetched_again(
    stage: Stage, visit: Visit, user: str
) -> None:
    row = await stage.order(user, stage.film)
    page = await visit.go_as(user, f"/?id={row}")
    await visit.connection("live")
    film = (await visit.ready(row)).locator("video")
    await film.evaluate("film => { film.loop = true; window.film = film; return film.play(); }")
    answers: list[Request] = []
    page.on("requestfinished", lambda request: answers.append(request))  # noqa: PLW0108 - playwright needs a function

    async def fetched_again() -> bool:
        await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        return sum(row in request.url for request in answers) >= 3

    # The page has taken an answer before it asks again.
    await until(fetched_again, what="an answer for the generation")
    assert await page.evaluate("window.film.isConnected && !window.film.paused")


async def test_several_results_are_paged_with_mouse_and_keyboard(stage: Stage, visit: Visit, user: str) -> None:
    row = await stage.order(user, *(picture(n / 3) for n in range(3)), prompt="Three dunes")
    page = await visit.go_as(user)
    card = await visit.ready(row)
    shown = card.get_by_role("img", name="Three dunes")
    await loaded(shown)
    first = await shown.get_attribute("src")
    await expect(card.get_by_text("1 of 3")).to_be_visible()
    await card.get_by_role("button", name="Next result").click()
    await expect(card.get_by_text("2 of 3")).to_be_visible()
    await loaded(shown)
    assert await shown.get_attribute("src") != first
    await page.keyboard.press("ArrowRight")
    await expect(card.get_by_text("3 of 3")).to_be_visible()
    await page.keyboard.press("ArrowRight")
    await expect(card.get_by_text("1 of 3")).to_be_visible()
    await expect(shown).to_have_attribute("src", first or "")


async def test_the_error_of_a_failed_row_is_shown(stage: Stage, visit: Visit, user: str) -> None:
    row = await stage.refused(user, "The prompt breaks the rules of this model.")
    await visit.go_as(user)
    card = visit.card(row)
    await expect(card).to_have_attribute("data-standing", "failed", timeout=20_000)
    await expect(card.locator(".sorry")).to_contain_text("The prompt breaks the rules of this model.")
    await expect(card.locator(".facts")).to_contain_text("Failed")


async def test_a_file_that_the_browser_cannot_play_is_ready_and_can_be_downloaded(
    stage: Stage, visit: Visit, user: str
) -> None:
    # Too small to hold more than the header of a film.
    row = await stage.order(user, MediaSpec("video", "mp4", 500), prompt="A film of tomorrow")
    await visit.go_as(user)
    card = await visit.ready(row)
    await expect(card).to_contain_text("This browser cannot play this file.")
    await expect(card.locator(".word")).to_have_text("Ready")
    address = await card.get_by_role("link", name="Download").get_attribute("href") or ""
    assert address.startswith(stage.rig.storage.url)  # type: ignore[union-attr]
    # The page did not ask the provider for its copy.
    assert visit.origins <= {stage.url, stage.rig.storage.url}  # type: ignore[union-attr]


async def test_a_stored_picture_that_fails_to_load_can_be_downloaded_and_tried_again(
    stage: Stage, visit: Visit, user: str
) -> None:
    visit.allow("net::ERR_FAILED")
    row = await stage.order(user, picture(), picture(0.5), prompt="Two dunes")
    await visit.page.route("**/storage/**", lambda route: route.abort())
    await visit.go_as(user)
    card = await visit.ready(row)
    await expect(card).to_contain_text("The picture could not be loaded.")
    await expect(card.locator(".word")).to_have_text("Ready")
    await expect(card.get_by_role("link", name="Download")).to_be_visible()
    await card.get_by_role("button", name="Next result").click()
    await expect(card.get_by_text("2 of 2")).to_be_visible()
    await expect(card).to_contain_text("The picture could not be loaded.")
    await visit.page.unroute("**/storage/**")
    await card.get_by_role("button", name="Try again").click()
    await loaded(card.get_by_role("img", name="Two dunes"))
    await expect(card.get_by_text("2 of 2")).to_be_visible()


async def test_a_result_is_downloaded_as_a_file(stage: Stage, visit: Visit, user: str) -> None:
    row = await stage.order(user, picture())
    await visit.go_as(user)
    link = (await visit.ready(row)).get_by_role("link", name="Download")
    address = await link.get_attribute("href") or ""
    assert address.startswith(f"{stage.rig.storage.url}/storage/v1/object/public/")  # type: ignore[union-attr]
    assert address.endswith("?download=")


@pytest.mark.parametrize("spelling", ["{}", "{}?name=it's"], ids=["plain", "as no browser writes it"])
async def test_a_result_that_only_the_provider_has_is_shown_through_a_fresh_link(
    stage: Stage, visit: Visit, user: str, spelling: str
) -> None:
    kie = stage.rig.kie
    task = kie.add_task(results=(picture(),), life=0.0)
    results = json.dumps([spelling.format(address) for address in kie.addresses(kie.tasks[task])])
    row = await stage.row(user, task=task, status="success", results=results, provider="older", prompt="Not stored")
    await visit.go_as(user)
    image = visit.card(row).get_by_role("img", name="Not stored")
    await loaded(image)
    assert "X-Amz-Signature=" in (await image.get_attribute("src") or "")
    await expect(visit.card(row).locator(".facts")).to_contain_text("At the provider")
    await expect(visit.card(row).get_by_role("link", name="Open the file")).to_be_visible()


async def test_a_result_that_the_provider_no_longer_has_shows_a_sentence(stage: Stage, visit: Visit, user: str) -> None:
    results = json.dumps([f"{stage.rig.kie.files_url}/gone/nobody-knows.png"])
    row = await stage.row(user, task="t", status="success", results=results, provider="older")
    visit.allow("Failed to load resource: the server responded with a status of [45]")
    await visit.go_as(user)
    await expect(visit.card(row)).to_contain_text("The provider does not hand this file out.")


async def test_the_preview_is_shown_where_there_is_no_result(stage: Stage, visit: Visit, user: str) -> None:
    known = await stage.order(user, picture())
    await visit.go_as(user)
    preview = await (await visit.ready(known)).locator("img").get_attribute("src")
    row = await stage.row(user, status="success", preview=preview, provider="older", prompt="Long ago")
    image = visit.card(row).get_by_role("img", name="Long ago")
    await loaded(image)
    await expect(visit.card(row).locator(".facts")).to_contain_text("Preview")


async def test_a_hostile_row_stays_text_and_its_addresses_are_not_followed(
    stage: Stage, visit: Visit, user: str
) -> None:
    prompt = "<img src=x onerror=alert(1)><script>alert(1)</script>"
    row = await stage.row(user, status="success", asset="javascript:alert(1)", prompt=prompt, provider="older")
    await visit.go_as(user)
    card = visit.card(row)
    await expect(card.locator(".title")).to_have_text(prompt)
    await expect(card).to_contain_text("It is finished, but no file is known yet.")
    await expect(card.locator("img, script, a[href^='javascript']")).to_have_count(0)


async def test_a_user_sees_only_their_own_rows_and_the_operator_sees_all(stage: Stage, visit: Visit, user: str) -> None:
    stranger = str(uuid.uuid4())
    theirs = await stage.row(stranger, status="cancelled", prompt="Not yours")
    mine = await stage.row(user, status="cancelled", prompt="Mine")
    page = await visit.go_as(user)
    await expect(visit.card(mine)).to_be_visible()
    await expect(visit.card(theirs)).to_have_count(0)
    await visit.go_as(user, f"/?id={theirs}")
    await expect(page.get_by_text("There is no such generation, or it is not yours.")).to_be_visible()
    # The operator's list also holds rows of other tests, with a result that the provider refuses.
    visit.allow("status of 4(04|22)")
    await visit.go(OPERATOR)
    await expect(visit.card(theirs).locator(".owner")).to_contain_text(stranger)
