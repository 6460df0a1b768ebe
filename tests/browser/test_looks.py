"""Accessibility and appearance of the page: keyboard, screen reader, phone, themes, languages; with screenshots."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from tests.browser.playable import picture, sound
from tests.browser.stage import OPERATOR, Stage, Visit, loaded, texts
from tests.http.tokens import shared

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.soak]

Visits = Callable[..., Awaitable[Visit]]

_NAME = """() => {
  const element = document.activeElement;
  return element.ariaLabel ?? (element.labels?.[0] ?? element).textContent.trim();
}"""


async def add_rows(stage: Stage, user: str) -> dict[str, str]:
    """Insert one row of each kind for a user; return their ids by name."""
    return {
        "failed": await stage.refused(user, "The prompt breaks the rules of this model. Change it and try again."),
        "sound": await stage.order(
            user, sound(), prompt="Rain on a tin roof", model="elevenlabs/sound-effect", age=9e3
        ),
        "film": await stage.order(
            user, stage.film, prompt="A ball on its way", model="kling-2.6/text-to-video", age=4e3
        ),
        "gallery": await stage.order(
            user, *(picture(n / 5, 160, 110) for n in range(5)), prompt="Desert dunes", age=300
        ),
        "ready": await stage.order(
            user, picture(0.4, 90, 120), prompt="Туманный пляж на рассвете, мягкий свет", age=90
        ),
        "generating": await stage.order(user, picture(), ends=False, prompt="A red panda on a mossy log", age=34),
        "queued": await stage.row(user, prompt="A lighthouse at dusk, oil on canvas", age=4),
    }


async def wait_for_rows(visit: Visit, rows: dict[str, str]) -> None:
    """Wait until every row is shown in its final state."""
    for name in ("ready", "gallery", "film", "sound"):
        await visit.ready(rows[name])
    await expect(visit.card(rows["failed"])).to_have_attribute("data-standing", "failed", timeout=20_000)
    await loaded(visit.card(rows["ready"]).locator("img"))
    await loaded(visit.card(rows["gallery"]).locator("img"))


async def serious(page: Page) -> list[str]:
    """Return the violations that axe-core calls serious or critical."""
    found = (await Axe().run(page)).response["violations"]
    return [
        f"{one['id']}: {[node['html'][:120] for node in one['nodes']]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


async def check_appearance(page: Page, name: str, folder: Path) -> None:
    """Check this page wide and light in English, and narrow and dark in Russian; save screenshots."""
    for theme, width, language in (("light", 1280, "Русский"), ("dark", 375, "English")):
        await page.emulate_media(color_scheme=theme)  # type: ignore[arg-type] - a Literal
        await page.set_viewport_size({"width": width, "height": 900})
        assert await serious(page) == [], f"{name} {theme} {width}"
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} {width}"
        await page.screenshot(path=folder / f"{name}-{theme}-{width}.png", full_page=True)
        await page.get_by_role("button", name=language).click()


async def test_axe_finds_nothing_serious_in_either_theme_and_nothing_is_wider_than_a_phone(
    stage: Stage, visit: Visit, user: str, tmp_path: Path
) -> None:
    rows = await add_rows(stage, user)
    page = await visit.go()
    await check_appearance(page, "enter", tmp_path)
    await visit.go_as(user)
    await wait_for_rows(visit, rows)
    await check_appearance(page, "history", tmp_path)
    await visit.go(OPERATOR, f"/?id={rows['gallery']}")
    await loaded(visit.card(rows["gallery"]).locator("img"))
    await expect(page.locator(".why dd").first).to_be_visible()
    await check_appearance(page, "one", tmp_path)


async def test_everything_can_be_done_with_the_keyboard(stage: Stage, visit: Visit, user: str) -> None:
    row = await stage.order(user, picture(), picture(1.0), prompt="Two dunes")
    page = await visit.go()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the generations")).to_be_focused()
    await page.get_by_label("Access token").focus()
    await page.keyboard.insert_text(shared(user))
    await page.keyboard.press("Enter")
    card = await visit.ready(row)
    await loaded(card.locator("img"))
    await page.get_by_role("link", name="Skip to the generations").focus()
    for name in ("Generations", "Русский", "Sign out", "All", "Previous result", "Next result", "Two dunes"):
        await page.keyboard.press("Tab")
        assert await page.evaluate(_NAME) == name
    await page.keyboard.press("Tab")
    assert await page.evaluate(_NAME) == "Download: Two dunes"
    await page.get_by_role("radio", name="All").focus()
    await page.keyboard.press("ArrowRight")
    await expect(page.get_by_role("radio", name="In progress")).to_be_checked()
    await expect(page.get_by_text("There is none like this.")).to_be_visible()


async def test_the_language_is_the_browsers_and_may_be_changed_for_the_tab(
    stage: Stage, visits: Visits, user: str
) -> None:
    row = await stage.row(user, status="cancelled")
    visit = await visits(locale="ru-RU")
    page = await visit.go_as(user)
    await expect(page.locator("html")).to_have_attribute("lang", "ru")
    await expect(page.get_by_role("heading", name="История")).to_be_visible()
    await expect(visit.card(row)).to_contain_text("Генерация закрыта до завершения.")
    await page.get_by_role("button", name="English").click()
    await expect(page.locator("html")).to_have_attribute("lang", "en")
    await expect(visit.card(row)).to_contain_text("This generation was closed before it was finished.")
    await page.reload()
    await expect(page.get_by_role("heading", name="History")).to_be_visible()


async def test_both_languages_have_the_same_texts(visit: Visit) -> None:
    page = await visit.go()
    english, russian = await page.evaluate(
        """async () => {
          const { TEXTS } = await import("/page/texts.js");
          const entries = (texts) => Object.entries(texts).map(([name, text]) => `${name}: ${typeof text}`);
          return [entries(TEXTS.en), entries(TEXTS.ru)];
        }"""
    )
    assert english == russian != []


async def test_nothing_is_animated_with_reduced_motion(stage: Stage, visits: Visits, user: str) -> None:
    row = await stage.order(user, picture(), ends=False)
    visit = await visits(reduced_motion="reduce")
    await visit.go_as(user)
    await expect(visit.card(row).locator(".ring")).to_have_css("animation-name", "none")


async def test_a_long_history_is_read_page_by_page_and_filtered_by_state(stage: Stage, visit: Visit, user: str) -> None:
    for n in range(30):
        await stage.row(user, status="cancelled", prompt=f"No. {n}", age=100.0 + n)
    failed = await stage.refused(user, "No.")
    page = await visit.go_as(user)
    await expect(visit.card(failed)).to_have_attribute("data-standing", "failed", timeout=20_000)
    await expect(page.locator(".card")).to_have_count(24)
    await page.get_by_role("button", name="Show older").click()
    await expect(page.locator(".card")).to_have_count(31)
    await expect(page.get_by_role("button", name="Show older")).to_be_hidden()
    assert (await texts(page.locator(".title")))[1:] == [f"No. {n}" for n in range(30)]
    await page.get_by_role("radio", name="Failed").check()
    await expect(page.locator(".card")).to_have_count(1)
    await expect(visit.card(failed)).to_be_visible()


async def test_an_empty_history_says_so(visit: Visit, user: str) -> None:
    page = await visit.go_as(user)
    await expect(page.get_by_text("Nothing here yet. A new generation appears by itself.")).to_be_visible()


async def test_the_operator_sees_the_stuck_rows_with_the_reason(stage: Stage, visit: Visit, user: str) -> None:
    row = await stage.order(user, picture(), ends=False, age=3600.0)
    # The operator's list also holds rows of other tests, with a result that the provider refuses.
    visit.allow("status of 4(04|22)")
    page = await visit.go(OPERATOR)
    await page.get_by_role("radio", name="Stuck").check()
    card = visit.card(row)
    await expect(card).to_be_visible()
    await card.get_by_text("Why?").click()
    await expect(card.locator("dl")).to_contain_text("Status generating")
