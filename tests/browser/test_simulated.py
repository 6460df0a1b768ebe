"""The simulator's films and sounds play, so that a person who tries the demo sees and hears something."""

from __future__ import annotations

import base64

import pytest
from playwright.async_api import expect

from reconciler.simulator import MediaSpec
from testkit.waiting import until
from tests.browser.stage import Stage, Visit

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.soak]

FILMS = [("mp4", 9_000), ("mp4", 13 << 20), ("mov", 300_000), ("webm", 3 << 20)]
SOUNDS = [("mp3", (1 << 20) + 70_000), ("wav", 3 << 20)]
# The second at which the file's second block begins: the marker of a block stands among the frames.
BLOCK_BORDER = (1 << 20) / 16_000


@pytest.mark.parametrize(("ext", "size"), FILMS)
async def test_a_film_of_any_size_plays(stage: Stage, visit: Visit, user: str, ext: str, size: int) -> None:
    row = await stage.order(user, MediaSpec("video", ext, size))
    page = await visit.go_as(user)
    film = (await visit.ready(row)).locator("video")
    await film.evaluate("film => { film.muted = true; return film.play(); }")
    await until(lambda: page.evaluate("document.querySelector('video').currentTime > 0.5"), what="a film that plays")
    assert await film.evaluate("film => [film.videoWidth, film.videoHeight, film.duration]") == [320, 180, 2]


@pytest.mark.parametrize(("ext", "size"), SOUNDS)
async def test_a_sound_of_any_size_plays(stage: Stage, visit: Visit, user: str, ext: str, size: int) -> None:
    row = await stage.order(user, MediaSpec("audio", ext, size))
    page = await visit.go_as(user)
    sound = (await visit.ready(row)).locator("audio")
    await expect(sound).to_be_visible()
    await sound.evaluate("sound => sound.play()")
    await until(lambda: page.evaluate("document.querySelector('audio').currentTime > 0.5"), what="a sound that plays")


@pytest.mark.parametrize(("ext", "second"), [("mp3", BLOCK_BORDER), ("wav", 1.0)])
async def test_a_sound_is_one_soft_tone(visit: Visit, ext: str, second: float) -> None:
    page = await visit.go()
    file = b"".join(MediaSpec("audio", ext, 3 << 20).chunks("t", 0))
    waves, loudest = await page.evaluate(_MEASURE, [base64.b64encode(file).decode(), second])
    # Half a second of 437.5 Hz, about as loud as soft speech.
    assert 216 <= waves <= 221
    assert 0.02 < loudest < 0.25


_MEASURE = """async ([file, second]) => {
  const bytes = Uint8Array.from(atob(file), (letter) => letter.charCodeAt(0));
  const sound = await new OfflineAudioContext(1, 1, 48000).decodeAudioData(bytes.buffer);
  const samples = sound.getChannelData(0).slice(48000 * (second - 0.25), 48000 * (second + 0.25));
  const waves = samples.filter((value, n) => n && samples[n - 1] < 0 && value >= 0).length;
  return [waves, samples.reduce((most, value) => Math.max(most, Math.abs(value)), 0)];
}"""
