"""The page that shows two sessions side by side, on one clock."""

from typing import Any

import httpx2

from tests.browser.conftest import Enter, OpenPage
from tests.browser.places import open_town
from tests.browser.visit import WAIT_S, Visit
from tests.services.support.gateway_support import Town

PROMPT = "a red circle bounces on a black background"
APART_S = 0.15
"""The clock corrects what is more than half of it; one moment of a busy machine says nothing."""
NUM_LOOKS = 9


async def start(page: Visit, prompt: str = PROMPT) -> None:
    await page.page.fill("#prompt", prompt)
    await page.page.click("#send")
    await until_both(page, 1.0)


async def until_both(page: Visit, seconds: float) -> None:
    """Have shown so much of their sessions."""
    await page.until("seconds => times().length === 2 && times().every(time => time >= seconds)", seconds)


async def apart_s(page: Visit) -> float:
    """How far one is ahead of the other, the median of some looks."""
    found = []
    for _ in range(NUM_LOOKS):
        one, other = await page.page.evaluate("() => times()")
        found.append(abs(one - other))
        await page.page.wait_for_timeout(150)
    return sorted(found)[NUM_LOOKS // 2]


async def sessions(place: Town) -> list[dict[str, Any]]:
    """Those that go on."""
    async with httpx2.AsyncClient(base_url=place.url) as client:
        found = (await client.get("/v1/sessions")).json().get("sessions", [])
    return [session for session in found if session["state"] != "SESSION_STATE_ENDED"]


async def test_two_videos_of_one_seed_play_on_one_clock(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(f"{place.url}/compare", player="media-source")
    await page.until("() => document.querySelectorAll('#left [data-field=stagger] option').length === 3")
    await start(page)
    specs = [session["spec"] for session in await sessions(place)]
    assert {spec["stagger"] for spec in specs} == {3, 1}
    assert len({spec["seed"] for spec in specs}) == 1
    assert await apart_s(page) < APART_S
    await page.page.eval_on_selector("#left video", "video => { video.currentTime -= 0.5 }")
    await until_both(page, 2.5)
    assert await apart_s(page) < APART_S
    await page.page.fill("#prompt", "a blue square")
    await page.page.click("#send")
    await page.until("() => document.querySelector('#difference').textContent.includes('sooner')")
    said = await page.find("#difference").inner_text()
    assert "left" in said
    assert "right" in said
    await page.picture("switched")
    await page.page.click("#end")
    await page.until_text("#send", "Start")
    assert await sessions(place) == []


async def test_two_prompts_are_each_sides_own(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(f"{place.url}/compare")
    await page.page.check("#two")
    await page.page.fill("#other-prompt", "a green triangle")
    await start(page)
    prompts = {session["spec"]["prompts"]["0"] for session in await sessions(place)}
    assert prompts == {PROMPT, "a green triangle"}


async def test_who_stands_still_is_waited_for(enter: Enter, visit: OpenPage) -> None:
    """Both go on from there together, and a reload finds both again."""
    place = await enter(open_town())
    page = await visit(f"{place.url}/compare")
    await start(page)
    await page.page.click("#pause")
    await page.until_text("#pause", "Resume")
    await page.page.reload()
    await page.until_text("#pause", "Resume")
    await page.page.click("#pause")
    reached = max(await page.page.evaluate("() => times()"))
    await until_both(page, reached + 1)
    assert await apart_s(page) < APART_S
    assert len(await sessions(place)) == 2


async def test_one_link_shares_both(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(f"{place.url}/compare")
    await start(page)
    viewer = await visit(await page.viewer_link())
    await until_both(viewer, 1.0)
    assert not await viewer.find("#send").is_visible()
    await viewer.picture("watching")
    await page.page.click("#end")
    ended = "() => [...document.querySelectorAll('.state')].every(each => each.dataset.state === 'ended')"
    await viewer.until(ended)
    half = await visit(f"{place.url}/compare#view=abc&token=x&view=def")
    assert "incomplete" in await half.until_problem()


async def test_both_start_or_none(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(f"{place.url}/compare", allow=("status of 400",))
    await page.page.fill("#seed", "none")
    await page.page.fill("#prompt", PROMPT)
    await page.page.click("#send")
    assert "Seed" in await page.until_problem()
    await page.until_text("#send", "Start")
    assert await sessions(place) == []


async def test_the_first_waits_for_a_place_of_the_second(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town(capacity=1))
    page = await visit(f"{place.url}/compare")
    await page.page.fill("#prompt", PROMPT)
    await page.page.click("#send")
    await (
        page.find(
            ".cover",
        )
        .filter(has_text="Number 1 of 1 in the queue")
        .wait_for(timeout=WAIT_S * 1000)
    )
    await page.page.wait_for_timeout(1000)
    assert max(await page.page.evaluate("() => times()")) < 1
    await page.picture("queued")
    await page.page.click("#end")
    await page.until_text("#send", "Start")
