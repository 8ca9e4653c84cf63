"""The session page says what is so: what it waits for, what it shows, why it does not go on."""

import re
from typing import Any

import pytest
from playwright.async_api import Route, expect

from tests.browser.conftest import Enter, OpenPage
from tests.browser.places import open_town, wire_to
from tests.browser.visit import WAIT_S
from tests.services.support.nginx import needs_nginx, nginx

LOST = ("WebSocket", "ERR_", "Failed to load resource")
CREDIT = """async () => {
  const { Credit } = await import("./static/credit.js");
  const [starved, uneven, minute] = [new Credit(0), new Credit(0), 60_000];
  const found = { starved: [], uneven: [] };
  for (const begun of [3, 5, 7, 9, 11]) { starved.stalled(begun, 0); found.starved.push(starved.wish); }
  for (const begun of [3, 9, 19]) { uneven.stalled(begun, 0); found.uneven.push(uneven.wish); }
  for (let i = 1; i < 5; i += 1) { uneven.played(i * minute); found.uneven.push(uneven.wish); }
  uneven.played(4 * minute + 1);
  starved.played(minute);
  starved.stalled(99, minute);
  return { ...found, later: starved.wish };
}"""


async def test_credit_rises_where_it_helps_and_comes_back(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url)
    found: dict[str, Any] = await page.page.evaluate(CREDIT)
    assert found["starved"] == [4, 2, 2, 2, 2]
    assert found["uneven"] == [4, 8, 8, 4, 2, 2, 2]
    assert found["later"] == 4


async def test_a_picture_that_stands_still_is_not_called_live(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town(stall_timeout_s=60.0))
    page = await visit(place.url)
    await page.start("a red circle")
    place.stage.block_s = 3.0
    await page.until("() => document.querySelector('#state').dataset.state === 'buffering'")
    await page.until_text("#cover-title", "Buffering…")
    await page.until("() => document.querySelector('#state').dataset.state === 'behind'")
    await page.page.wait_for_timeout(700)
    await page.picture("behind")
    await page.page.set_viewport_size({"width": 390, "height": 844})
    await page.picture("behind-phone")
    await page.until_text("#state", "Falling behind")
    place.stage.block_s = 0.0
    await page.until_text("#state", "Live")
    assert not await page.find("#cover").is_visible()


async def test_places_are_those_that_a_machine_keeps_up_with(enter: Enter, visit: OpenPage) -> None:
    """However many fit into its memory: five blocks of 0.75 s, at two ticks of 65 ms each."""

    async def quick(route: Route) -> None:
        answer = await route.fetch()
        overview = await answer.json()
        for view in overview.get("stages", []):
            view["peer"] |= {"numUsed": 2, "numFree": 3057}
            view["status"] |= {"medianTickTime": "0.065s"}
            view["status"]["model"] |= {"fps": 16, "blockFrames": 3, "defaultStagger": 2}
        await route.fulfill(response=answer, json=overview)

    place = await enter(open_town())
    page = await visit(f"{place.url}/operator", routes={"**/v1/overview": quick})
    await page.until_text("#stage-slots", "2 / 5")
    await page.until_text("#stage-slots-note", "3 free")
    await expect(page.find("#stages")).to_contain_text("2 used, 3 free")
    await expect(page.find("#stages")).to_contain_text("fast enough for 5")


async def test_places_of_unknown_speed_are_no_promise(enter: Enter, visit: OpenPage) -> None:
    """Before its first tick a stage offers what fits into its memory: thousands, on two cores."""

    async def fresh(route: Route) -> None:
        answer = await route.fetch()
        overview = await answer.json()
        for view in overview.get("stages", []):
            view["peer"] |= {"numUsed": 0, "numFree": 3786}
            view["status"] |= {"medianTickTime": "0s"}
        await route.fulfill(response=answer, json=overview)

    place = await enter(open_town())
    page = await visit(f"{place.url}/operator", routes={"**/v1/overview": fresh})
    await page.until_text("#stage-slots", "0")
    await page.until_text("#stage-slots-note", "3786 free, speed unknown")
    await expect(page.find("#stages")).to_contain_text("0 used, 3786 free, speed unknown")


async def test_a_decoder_that_falls_behind_needs_attention(enter: Enter, visit: OpenPage) -> None:
    async def slow(route: Route) -> None:
        answer = await route.fetch()
        overview = await answer.json()
        for view in overview.get("decoders", []):
            view["status"] |= {"lastBlockTime": "10.2s", "numPendingBlocks": 6}
        await route.fulfill(response=answer, json=overview)

    place = await enter(open_town())
    page = await visit(f"{place.url}/operator", routes={"**/v1/overview": slow})
    await expect(page.find("#summary")).to_have_text(
        "Needs attention: 1 decoder falling behind.", timeout=WAIT_S * 1000
    )
    await expect(page.find("#decoders")).to_contain_text("6 blocks wait, the last took 10.2 s")
    await expect(page.find("#decoders")).to_contain_text("fast enough for 0")
    await page.until_text("#decoder-slots-note", "0 free")


async def test_the_first_prompt_is_on_the_timeline(enter: Enter, visit: OpenPage) -> None:
    """And stays in sight while it rules."""
    place = await enter(open_town())
    page = await visit(place.url)
    await page.start("a red circle")
    viewer = await visit(await page.viewer_link())
    for each in (page, viewer):
        first = each.find("#timeline [data-state=planned]")
        assert "a red circle" in str(await first.get_attribute("aria-label"))
    await viewer.until_state("active")
    await page.send("a blue square")
    assert "a blue square" in await (await viewer.until_applied()).inner_text()
    await viewer.page.reload()
    assert "a blue square" in await (await viewer.until_applied()).inner_text()
    await viewer.page.wait_for_function("() => document.querySelector('#cascade [data-block]')")
    await viewer.until_text("[data-figure=stage]", place.stage.address)
    await page.page.evaluate(
        """async () => {
          const { Timeline } = await import("./static/timeline.js");
          const timeline = new Timeline(() => {});
          timeline.plan({ spec: { prompts: { 0: "a red circle" } } });
          timeline.move(90, 1);
        }"""
    )
    assert await page.find("#timeline .present").last.inner_text() == "a red circle"


@pytest.mark.slow
async def test_after_a_restart_it_says_start_again(enter: Enter, visit: OpenPage) -> None:
    """The first gateway is gone with all that it knew."""
    place = await enter(open_town())
    wire = await enter(wire_to(place.url))
    page = await visit(wire.url, allow=LOST)
    await page.start("a red circle")
    viewer = await visit(await page.viewer_link(), allow=LOST)
    await viewer.until_state("active")
    other = await enter(open_town())
    wire.cut()
    wire.mend(other.url)
    assert "The server restarted" in await page.until_problem()
    assert "Start again" in await page.until_problem()
    assert "token" not in await page.until_problem()
    await page.until_text("#send", "Start")
    assert "link" in await viewer.until_problem()
    await page.picture("restarted")
    await page.start("a blue square")


@needs_nginx
async def test_it_works_behind_a_proxy_that_takes_the_port_away(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    with nginx(place.url, "proxy_set_header Host $host;") as port:
        page = await visit(f"http://127.0.0.1:{port}/")
        await page.start("a red circle")
        await page.until_playing()
        await page.end()


@needs_nginx
async def test_it_works_under_a_path_of_a_proxy(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    with nginx(f"{place.url}/", "proxy_set_header Host $http_host;", path="/cascade/") as port:
        url = f"http://127.0.0.1:{port}/cascade/"
        page = await visit(url)
        await page.start("a red circle")
        link = await page.viewer_link()
        assert link.startswith(f"{url}#view=")
        viewer = await visit(link)
        await viewer.until_playing()
        async with page.page.expect_download():
            await page.page.click("#download")
        await page.page.click("a:has-text('Operator')")
        await page.find("#sessions [data-name]").first.wait_for()
        assert page.page.url == f"{url}operator"
        await page.page.click("a:has-text('Session page')")
        await page.until_playing()
        await page.end()


@pytest.mark.slow
async def test_it_asks_before_a_session_ends(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url)
    await page.start("a red circle")
    await page.page.click("#end")
    await page.picture("asks")
    await page.page.keyboard.press("Enter")  # the careful answer has the focus
    await page.find("#end-dialog").wait_for(state="hidden")
    await page.until_playing()
    assert not any('"end"' in text for text in page.sent)
    await page.end()
    await page.until_state("ended")


@pytest.mark.slow
async def test_one_letter_keys_can_be_switched_off(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url)
    await page.start("a red circle")
    await page.page.evaluate("() => document.activeElement.blur()")
    await page.page.keyboard.press("f")
    await page.until("() => document.fullscreenElement?.id === 'screen'")
    await page.page.dblclick("#screen")
    await page.until("() => !document.fullscreenElement")
    await page.page.keyboard.press("?")
    await page.picture("help")
    await page.page.uncheck("#shortcuts")
    await page.page.click("#help-close")
    await page.page.reload()
    await page.until_playing()
    for key in ("/", "?", "f", " "):
        await page.page.keyboard.press(key)
    assert not await page.find("#help").is_visible()
    assert await page.page.evaluate("() => document.activeElement === document.body")
    assert await page.page.evaluate("() => document.fullscreenElement") is None
    assert await page.find("#pause").get_attribute("aria-pressed") == "false"


@pytest.mark.slow
async def test_a_recording_shows_its_length(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url)
    await page.start("a red circle")
    await page.page.click("#record")
    await expect(page.find("#record")).to_have_text(re.compile("Stop 0:0[2-9]"), timeout=WAIT_S * 1000)


async def test_numbers_that_are_none_are_said_so(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url, allow=("status of 400",))
    await page.page.click("summary:has-text('More')")
    for field, text, told in (
        ("seed", "lucky", "Seed: must be a whole number, not lucky."),
        ("seed", "-1", "Seed: -1 is outside of its range."),
        ("width", "12.5", "Width: must be a whole number, not 12.5."),
        ("fps", "fast", "Pictures per second: must be a number, not fast."),
    ):
        await page.page.fill(f"#{field}", text)
        await page.send("a red circle")
        await page.until_text("#problem", told)
        await page.page.fill(f"#{field}", "")


FIGURES = """async () => {
  const { Figures } = await import("./static/figures.js");
  const figures = new Figures();
  const shown = () => document.querySelector("[data-figure=latency]").textContent;
  const made = (ago) => new Date(Date.now() - ago).toISOString();
  const slept = { created: made(57_800), receivedAt: performance.now() - 57_800 };
  figures.arrived(slept);
  figures.began(slept);
  const before = shown();
  const fresh = { created: made(0), receivedAt: performance.now() };
  figures.arrived(fresh);
  figures.began(fresh);
  return [before, shown()];
}"""


@pytest.mark.slow
async def test_latency_after_a_sleep_is_that_of_what_comes_after_it(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url)
    before, after = await page.page.evaluate(FIGURES)
    assert before == "–"
    assert after.endswith(" ms")


@pytest.mark.slow
async def test_why_it_could_not_go_on_is_told(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url)
    told = await page.page.evaluate(
        """async () => (await import("./static/state_view.js")).endText(
          { reason: "END_REASON_FAILED", status: { message: "no stage came back" } })"""
    )
    assert told == "It could not go on: no stage came back"


@pytest.mark.slow
async def test_the_wait_in_the_queue_is_beside_the_title(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url)
    await page.page.evaluate(
        """async () => new (await import("./static/state_view.js")).StateView().showQueue(
          { position: 2, queueLength: 3, eta: "12s" })"""
    )
    await page.until_text("#queue", "2 of 3 in the queue, about 12.0 s")
    await page.picture("estimate")


@pytest.mark.slow
async def test_suggestions_fade_where_more_follow(enter: Enter, visit: OpenPage) -> None:
    async def many(route: Route) -> None:
        answer = await route.fetch()
        models = await answer.json()
        for model in models["models"]:
            model["examplePrompts"] = [f"a red circle bounces on ground number {i}" for i in range(9)]
        await route.fulfill(response=answer, json=models)

    place = await enter(open_town())
    page = await visit(place.url, routes={"**/v1/models": many})
    await page.find("#suggestions.more").wait_for()
    await page.picture("more")
    await page.page.evaluate("() => { document.querySelector('#suggestions').scrollLeft = 1e5; }")
    await page.find("#suggestions:not(.more)").wait_for()
