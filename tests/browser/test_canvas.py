"""The page draws pictures itself: each in its time and its colours, and what it does where it cannot."""

from itertools import pairwise
from pathlib import Path

import pytest

from tests.browser.conftest import Enter, OpenPage
from tests.browser.places import open_town
from tests.browser.visit import Visit
from tests.services.support.video_support import FPS

ALBUM = (Path(__file__).parent / "album.js").read_text()
SHADES, NEAR = 200, 3
"""Greys that the fake decoder's pictures have in turn; what encoding may change of one."""
BREAK = """after => {
  const Chunk = window.EncodedVideoChunk;
  let number = 0;
  const refuse = () => { throw new DOMException("no", "NotSupportedError"); };
  if (after < 0) VideoDecoder.prototype.configure = refuse;
  window.EncodedVideoChunk = class extends Chunk {
    constructor(init) {
      number += 1;
      super(number > after ? { ...init, data: new Uint8Array(init.data.length) } : init);
    }
  };
}"""
"""A decoder that fails at that picture; below 0: before the first."""
OTHERS = {
    "over plain HTTP": "delete window.VideoDecoder;",
    "where only a video fills the screen": (
        "Object.defineProperty(document, 'fullscreenEnabled', { value: false });"
        "window.ManagedMediaSource = window.MediaSource; delete window.MediaSource;"
    ),
}
KIND = "() => screens()[0].localName"


async def album(page: Visit) -> list[tuple[float, int]]:
    """Time and grey of each picture, as it was drawn."""
    return [(time, grey) for time, grey in await page.page.evaluate("() => album")]


def shade(time_s: float) -> int:
    return round(time_s * FPS) % SHADES


async def test_each_picture_is_drawn_once_in_its_order_and_its_colours(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url)
    await page.page.evaluate(ALBUM)
    await page.start("a red circle")
    await page.until_playing(3)
    drawn = await album(page)
    assert drawn[0][0] == 0
    assert all(before < after for (before, _), (after, _) in pairwise(drawn))
    assert [grey for _, grey in drawn] == pytest.approx([shade(time) for time, _ in drawn], abs=NEAR)
    picture = page.page.get_by_role("img", name="The live video of this session")
    assert await picture.evaluate("each => each.localName") == "canvas"


async def test_pictures_that_are_made_again_are_those_that_show(enter: Enter, visit: OpenPage) -> None:
    """A decoder is lost amid a block; another makes all of it again, in another grey."""
    place = await enter(open_town())
    decoder = place.decoder
    decoder.block_s = 0.1
    decoder.faults[5] = ["die"]
    page = await visit(place.url)
    await page.page.evaluate(ALBUM)
    await page.send("a red circle")
    await page.until_notice("[data-kind=recovery]")
    decoder.shift = 50
    await decoder.start()
    await page.until_time(6 * 0.75)
    drawn = await album(page)
    assert all(before < after for (before, _), (after, _) in pairwise(drawn))
    news = [abs(grey - shade(time)) > NEAR for time, grey in drawn]
    assert news == sorted(news), "once there are new ones, no old one shows"
    assert any(news)
    assert drawn[-1][1] == pytest.approx(shade(drawn[-1][0]) + 50, abs=NEAR)


@pytest.mark.parametrize("number", [-1, 0, 20], ids=["before", "at once", "later"])
async def test_where_the_decoder_fails_media_source_goes_on(
    enter: Enter, visit: OpenPage, number: int
) -> None:
    """From the picture that shows, which on a busy machine is a moment behind the time."""
    place = await enter(open_town())
    page = await visit(place.url)
    await page.page.evaluate(BREAK, number)
    await page.send("a red circle")
    await page.until(f"() => ({KIND})() === 'video' && times()[0] > 0")
    await page.until_playing(2)
    assert page.sequences == list(range(1, len(page.sequences) + 1))
    assert (await page.witness())["back"] < 0.5
    await page.page.click("#pause")
    await page.until_state("paused")
    await page.page.click("#pause")
    await page.until_playing()


@pytest.mark.parametrize("script", OTHERS.values(), ids=OTHERS)
async def test_other_browsers_have_media_source(enter: Enter, visit: OpenPage, script: str) -> None:
    place = await enter(open_town())
    page = await visit(place.url)
    await page.page.add_init_script(script)
    await page.page.reload()
    await page.start("a red circle")
    assert await page.page.evaluate(KIND) == "video"


async def test_in_the_background_the_time_goes_on_and_the_first_picture_after_it_is_that_moments(
    enter: Enter, visit: OpenPage
) -> None:
    place = await enter(open_town())
    page = await visit(place.url)
    await page.page.evaluate(ALBUM)
    await page.start("a red circle")
    await page.page.evaluate("() => hide()")
    num_drawn = len(await album(page))
    heard = len(page.sequences)
    await page.page.wait_for_timeout(4000)
    assert len(await album(page)) == num_drawn, "nobody looks"
    assert len(page.sequences) > heard, "it is played all the same"
    reached = float(page.playbacks[-1]["playhead"].removesuffix("s"))
    await page.page.evaluate("() => show()")
    await page.until("number => album.length > number", num_drawn)
    time, grey = (await album(page))[num_drawn]
    assert time >= reached - 1 / FPS
    assert grey == pytest.approx(shade(time), abs=NEAR)
    await page.until_playing()


async def test_a_machine_that_slept_goes_on_where_it_was(enter: Enter, visit: OpenPage) -> None:
    """No line of the page runs meanwhile."""
    place = await enter(open_town())
    page = await visit(place.url)
    await page.page.evaluate(ALBUM)
    await page.start("a red circle")
    devtools = await page.page.context.new_cdp_session(page.page)
    await devtools.send("Debugger.enable")
    await devtools.send("Debugger.pause")
    await page.page.wait_for_timeout(7000)
    await devtools.send("Debugger.disable")
    await page.until_playing(2)
    drawn = await album(page)
    assert all(0 < after - before < 2 for (before, _), (after, _) in pairwise(drawn)), "nothing was left out"
    assert page.sequences == list(range(1, len(page.sequences) + 1))


async def test_a_viewer_sees_the_same_pictures(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url)
    await page.start("a red circle")
    viewer = await visit(await page.viewer_link())
    await viewer.page.evaluate(ALBUM)
    await viewer.until_playing(2)
    assert await viewer.page.evaluate(KIND) == "canvas"
    drawn = await album(viewer)
    assert [grey for _, grey in drawn] == pytest.approx([shade(time) for time, _ in drawn], abs=NEAR)
    await viewer.page.click("#pause")
    await viewer.until_state("paused")
    await viewer.page.wait_for_timeout(1000)  # a busy machine decodes the picture of that moment
    still = await viewer.pixels()
    await viewer.page.wait_for_timeout(1000)
    assert await viewer.pixels() == still
    await viewer.page.click("#pause")
    await viewer.until_playing()


async def test_a_reload_goes_on_without_a_jump(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url)
    await page.start("a red circle")
    before = await page.time()
    await page.page.reload()
    await page.page.evaluate(ALBUM)
    await page.until_playing()
    first = (await album(page))[0][0]
    assert before - 0.5 < first < before + 1.5
