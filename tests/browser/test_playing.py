"""The page before real machines with the demo model: pictures, and what they become when something breaks."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.browser.conftest import OpenPage
from tests.browser.places import Machines, running_machines
from tests.browser.visit import WAIT_S, Visit
from tests.services.support.media_support import needs_ffprobe
from tests.services.support.playing import FPS
from tests.services.support.video_support import probed

pytest_plugins = ("tests.services.support.system_fixtures",)
RED, BLUE = "a red circle bounces on a black background", "a blue square bounces on a black background"


@pytest.fixture(scope="module")
def processes() -> Iterator[Machines]:
    """One for all tests here: models take seconds to load."""
    with running_machines() as machines:
        yield machines


@pytest.fixture
async def machines(system: Machines) -> AsyncIterator[Machines]:
    """Without a session, before and after."""
    yield system
    async with httpx2.AsyncClient(base_url=system.url) as client:
        for session in (await client.get("/v1/sessions")).json().get("sessions", []):
            if session["state"] != "SESSION_STATE_ENDED":
                await client.delete(f"/v1/{session['name']}", headers={"idempotency-key": "end"})


async def last_sequence(page: Visit, machines: Machines) -> int:
    """As the gateway says."""
    name = await page.page.evaluate("() => JSON.parse(sessionStorage.getItem('cascade.session')).name")
    async with httpx2.AsyncClient(base_url=machines.url) as client:
        return int((await client.get(f"/v1/{name}")).json()["session"]["lastSequence"])


async def until_settled(page: Visit, machines: Machines) -> None:
    """What was being made when it was paused has come."""
    async with asyncio.timeout(WAIT_S):
        newest = 0
        while newest != (newest := await last_sequence(page, machines)):
            await page.page.wait_for_timeout(1000)


@pytest.mark.parametrize(
    ("player", "play_s"),
    [("canvas", 3.0), ("media-source", 3.0), pytest.param("canvas", 15.0, marks=pytest.mark.slow)],
)
async def test_it_plays_on_without_a_stall_and_a_switch_shows(
    machines: Machines, visit: OpenPage, player: str, play_s: float
) -> None:
    """A stall is the page's fault only where every segment was there in time."""
    page = await visit(machines.url, player=player)
    await page.start(RED)
    await page.until_colour("red")
    assert (await page.page.evaluate("() => sizes()[0]")).startswith("96 x ")
    await page.until_playing(play_s)
    await page.picture("red")
    await page.send(BLUE)
    await page.until_colour("blue")
    mark = await page.until_applied()
    touched = float(str(await mark.get_attribute("data-touched-s")))
    full = float(str(await mark.get_attribute("data-full-s")))
    assert 0 < touched <= full
    assert await page.time() >= touched - 1 / FPS, "the clock may be a moment behind the picture"
    await page.until_playing(play_s)
    await page.picture("blue")
    seen, num_stalls = await page.witness(), await page.figure("stalls")
    assert seen["back"] == 0
    assert page.has_been_late() or (seen["waiting"], num_stalls) == (0, "0")
    assert page.sequences == list(range(1, len(page.sequences) + 1))
    num_delivered = int(await page.figure("delivered"))
    assert len(page.sequences) - num_delivered in range(3)  # some may have come since
    await page.until("() => parseFloat(document.querySelector('[data-figure=fps]').innerText) > 0")
    assert await page.figure("stage") in {stage.address for stage in machines.stages}
    assert await page.find("#cascade *").count() > 10
    assert "tick" in str(await page.find("#cascade").get_attribute("aria-label"))


async def test_a_second_browser_watches_and_does_not_steer(machines: Machines, visit: OpenPage) -> None:
    page = await visit(machines.url)
    await page.start(RED)
    link = await page.viewer_link()
    viewer = await visit(link)
    await viewer.until_playing()
    await viewer.until_colour("red")
    for name in ("#send", "#prompt", "#end", "#share"):
        assert not await viewer.find(name).is_visible(), name
    await page.until_text("[data-figure=viewers]", "1")
    await page.send(BLUE)
    await viewer.until_colour("blue")
    await viewer.picture("watching")
    await viewer.page.click("#pause")
    await viewer.until_state("paused")
    await page.until_playing(3)
    await viewer.page.click("#pause")
    await viewer.until_playing()
    await page.end()
    await viewer.until_state("ended")
    assert not any("switchPrompt" in text or "setPaused" in text or '"end"' in text for text in viewer.sent)


async def test_pause_holds_and_goes_on(machines: Machines, visit: OpenPage) -> None:
    page = await visit(machines.url)
    await page.start(RED)
    await page.page.click("#pause")
    await page.until_state("paused")
    assert await page.find("#pause").get_attribute("aria-pressed") == "true"
    await until_settled(page, machines)
    before = await page.time(), await last_sequence(page, machines), await page.pixels()
    await page.page.wait_for_timeout(1500)
    assert (await page.time(), await last_sequence(page, machines), await page.pixels()) == before
    await page.picture("paused")
    await page.page.click("#pause")
    await page.until_state("active")
    await page.until_playing(3)
    assert (await page.witness())["back"] == 0
    assert page.sequences == list(range(1, len(page.sequences) + 1))


async def test_a_reload_steers_on(machines: Machines, visit: OpenPage) -> None:
    page = await visit(machines.url)
    await page.start(RED)
    await page.until_playing(2)
    before = await page.time()
    await page.page.reload()
    await page.until_playing()
    assert await page.time() >= before - 1.0
    await page.send(BLUE)
    await page.until_applied()
    await page.until_colour("blue")


@needs_ffprobe
async def test_record_and_download_are_files(machines: Machines, visit: OpenPage, tmp_path: Path) -> None:
    page = await visit(machines.url)
    await page.start(RED)
    await page.page.click("#record")
    assert await page.find("#record").get_attribute("aria-pressed") == "true"
    await page.until_playing(4)
    for button in ("#record", "#download"):
        async with page.page.expect_download() as waiting:
            await page.page.click(button)
        download: Any = await waiting.value
        file = tmp_path / download.suggested_filename
        await download.save_as(file)
        found = await probed(file)
        assert (found["codec_name"], found["width"]) == ("h264", 96)
        assert int(found["nb_read_frames"]) >= 36
        assert download.suggested_filename.endswith(".mp4")


async def test_a_killed_stage_is_told_and_the_video_goes_on(machines: Machines, visit: OpenPage) -> None:
    page = await visit(machines.url)
    await page.start(RED)
    await page.until_colour("red")
    machines.busy_stage().kill()
    done = await page.until_notice("[data-kind=recovery][data-step=done]")
    text = await done.inner_text()
    assert await done.get_attribute("data-class") == "rebuilt"
    assert "gap" in text
    assert "epoch 2" in text
    await page.until_text("[data-figure=epoch]", "2")
    await page.until_playing(3)
    await page.until_colour("red")
    await page.picture("recovered")
    assert (await page.witness())["back"] == 0
    assert page.sequences == list(range(1, len(page.sequences) + 1))
