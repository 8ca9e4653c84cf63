"""The session page between machines without a model: what it shows, refuses and keeps."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.async_api import expect

from services.gateway.journal import Record
from services.gateway.session import views
from services.web.pages import PAGES
from tests.browser.conftest import Enter, OpenPage
from tests.browser.places import open_town, wire_to
from tests.browser.visit import SEGMENT_S, Visit
from tests.services.support.fake_stage import CAUSAL
from tests.services.support.gateway_support import until, until_value

REFUSED = "Failed to load resource: the server responded with a status of 4"
EDGE = (
    "() => { const { buffered } = document.querySelector('video'); return buffered.end(buffered.length - 1) }"
)
FALL_BEHIND = """() => {
  const video = document.querySelector("video");
  video.onseeked = () => { window.at = video.currentTime };
  video.currentTime = video.buffered.start(0) + 0.1;
}"""
MODULES = """() => [
  [...document.querySelectorAll("link[rel=modulepreload]")].map((link) => link.href),
  performance.getEntriesByType("resource").map(({ name }) => name).filter((name) => name.endsWith(".js")),
]"""
"""Those that the page names, and those that came."""
FIRST_S = 9 / 16
"""Of the first segment, which is shorter."""
both = pytest.mark.parametrize("player", ["canvas", "media-source"])
ATTACKS = (
    '<img src=x onerror="window.hacked=1">',
    '<script>window.hacked=1</script>"><svg onload=window.hacked=1>',
    "javascript:window.hacked=1 ${window.hacked=1} {{window.hacked=1}}",
)


@both
async def test_the_page_loads_and_a_session_plays(enter: Enter, visit: OpenPage, player: str) -> None:
    place = await enter(open_town())
    page = await visit(place.url, player=player)
    assert await page.find("#state").get_attribute("data-state") == "none"
    assert await page.find("#send").inner_text() == "Start"
    await page.start("a red circle moves left")
    await page.until_state("active")
    assert await page.find("#send").inner_text() == "Switch"
    assert await page.page.evaluate("() => sizes()") == ["64 x 64"]
    kind = await page.page.evaluate("() => screens()[0].localName")
    assert kind == {"canvas": "canvas", "media-source": "video"}[player]
    assert await page.figure("epoch") == "1"
    await page.end()


@both
async def test_pictures_show_before_their_segment_is_made(enter: Enter, visit: OpenPage, player: str) -> None:
    """The decoder stands still amid the very first block. Then it all plays on, part by part."""
    place = await enter(open_town())
    place.decoder.gate.clear()
    page = await visit(place.url, player=player)
    await page.send("a red circle")
    assert await page.until_picture() == "64 x 64"
    assert await page.find("#state").inner_text() == "Starting"
    assert page.sequences == []
    assert not any('"ack"' in text for text in page.sent)
    place.decoder.block_s = 0.1
    place.decoder.gate.set()
    await page.until_playing(3)
    assert page.num_parts > 3
    assert page.sequences == list(range(1, len(page.sequences) + 1))
    assert (await page.witness())["back"] == 0


@both
async def test_the_page_tells_of_a_segment_by_its_first_part(
    enter: Enter, visit: OpenPage, player: str
) -> None:
    """The decoder stands still amid a block. Before that begins to play, the page says that it has some."""
    place = await enter(open_town())
    page = await visit(place.url, player=player)
    await page.start("a red circle")
    await page.until_playing(1)
    place.decoder.gate.clear()

    def is_amid(said: dict[str, str]) -> bool:
        playhead_s, buffered_s = (float(said[name].removesuffix("s")) for name in ("playhead", "buffered"))
        of_last_s = (playhead_s + buffered_s - FIRST_S) % SEGMENT_S
        return of_last_s < buffered_s - 0.2 and 0.1 < of_last_s < SEGMENT_S - 0.1

    await until(lambda: any(map(is_amid, page.playbacks)))
    place.decoder.gate.set()


async def test_a_decoder_lost_amid_a_segment_is_not_seen(enter: Enter, visit: OpenPage) -> None:
    """What the page has had of it is made again by another: it plays on, over the same time."""
    place = await enter(open_town())
    decoder = place.decoder
    decoder.block_s = 0.1
    decoder.faults[5] = ["die"]
    page = await visit(place.url, player="media-source")
    await page.send("a red circle")
    await page.until_notice("[data-kind=recovery]")
    await decoder.start()
    await page.until_notice("[data-kind=recovery][data-step=done]")
    await page.until_time(6 * 0.75)
    assert page.sequences == list(range(1, len(page.sequences) + 1))
    assert (await page.witness())["back"] == 0


async def test_a_cut_network_is_resumed_without_a_step_back(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    wire = await enter(wire_to(place.url))
    page = await visit(wire.url, allow=("WebSocket", "ERR_", "Failed to load resource"))
    await page.start("a red circle")
    wire.cut()
    await page.until_state("offline")
    wire.mend(place.url)
    await page.until_state("active")
    await page.until_notice("[data-kind=reconnect]")
    await page.until_playing(4)
    assert page.num_sockets >= 2
    assert page.sequences == list(range(1, len(page.sequences) + 1))
    assert (await page.witness())["back"] == 0


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_names_every_module_that_it_loads(path: str, enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url + path)
    named, loaded = await page.page.evaluate(MODULES)
    assert set(loaded) <= set(named)
    assert len(named) == len(set(named)) > 3


async def test_a_viewer_who_was_away_for_long_goes_on_at_the_live_edge(enter: Enter, visit: OpenPage) -> None:
    """Its buffer ends more than a minute before what comes next."""
    place = await enter(open_town())
    wire = await enter(wire_to(place.url))
    name = await place.anybody.name()
    token = await place.anybody.token(name)
    async with place.anybody.attached(name, acks=False) as stream:
        await stream.until_sequence(4)
        link = f"{wire.url}/#view={name.removeprefix('sessions/')}&token={token}"
        page = await visit(link, allow=("WebSocket", "ERR_", "Failed to load resource"))
        await page.until_playing(0.3)
        wire.cut()
        await page.until_state("offline")
        while stream.segments[-1].sequence < 150:
            await stream.ack(newest := stream.segments[-1].sequence)
            await stream.until_sequence(newest + 1)
        wire.mend(place.url)
        await page.until_notice("[data-kind=skipped]")
        await page.until_time(150 * 0.75 - 1)


@pytest.mark.parametrize("sleeps", [True, False])
async def test_a_viewer_whose_line_died_goes_on_when_it_wakes_or_misses_the_video(
    sleeps: bool, enter: Enter, visit: OpenPage
) -> None:
    """Neither side of the line was told."""
    place = await enter(open_town())
    wire = await enter(wire_to(place.url))
    name = await place.anybody.name()
    token = await place.anybody.token(name)
    async with place.anybody.attached(name, acks=False) as stream:
        await stream.until_sequence(4)
        page = await visit(f"{wire.url}/#view={name.removeprefix('sessions/')}&token={token}")
        await page.until_playing(0.3)
        wire.silence()
        while stream.segments[-1].sequence < 16:
            await stream.ack(newest := stream.segments[-1].sequence)
            await stream.until_sequence(newest + 1)
        if sleeps:
            await page.page.evaluate("() => { const now = Date.now; Date.now = () => now() + 60_000 }")
        await page.until_time(16 * 0.75 - 3)


async def test_a_viewer_who_looks_again_is_where_the_others_are(enter: Enter, visit: OpenPage) -> None:
    """Not seconds behind, to where a `<video>` that stood still in the background has fallen."""
    place = await enter(open_town())
    name = await place.anybody.name()
    token = await place.anybody.token(name)
    async with place.anybody.attached(name, acks=False) as stream:
        await stream.until_sequence(4)
        link = f"{place.url}/#view={name.removeprefix('sessions/')}&token={token}"
        page = await visit(link, player="media-source")
        await page.until("() => document.querySelector('video').buffered.length")
        for sequence in range(4, 12):
            await stream.ack(sequence)
            await stream.until_sequence(sequence + 1)
        await page.until(f"() => ({EDGE})() > {12 * 0.75 - 0.5}")
        await page.page.evaluate(FALL_BEHIND)
        await page.until("() => window.at")
        await page.page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
        await page.until(f"() => window.at > ({EDGE})() - 2.5")


async def test_a_viewer_who_was_away_comes_back_by_the_link(enter: Enter, visit: OpenPage) -> None:
    """It is good for longer than the tokens of the streams."""
    place = await enter(open_town(token_ttl_s=2.0))
    wire = await enter(wire_to(place.url))
    name = await place.anybody.name()
    token = await place.anybody.token(name, ttl_s=3600)
    async with place.anybody.attached(name, acks=False):
        link = f"{wire.url}/#view={name.removeprefix('sessions/')}&token={token}"
        page = await visit(link, allow=("WebSocket", "ERR_", "Failed to load resource"))
        await page.until_state("active")
        wire.cut()
        await page.until_state("offline")
        await page.page.wait_for_timeout(2500)
        wire.mend(place.url)
        await page.until_state("active")
        assert not await page.find("#problem").is_visible()


@both
async def test_a_picture_that_stood_still_is_given_more_credit(
    enter: Enter, visit: OpenPage, player: str
) -> None:
    """The stage is slow and not lost, however long this machine takes."""
    place = await enter(open_town(stall_timeout_s=60.0))
    page = await visit(place.url, player=player)
    await page.start("a red circle")
    place.stage.block_s = 1.2  # of 0.75 s of video
    await page.until("() => document.querySelector('[data-figure=stalls]').textContent !== '0'")
    asked = await until_value(lambda: credits_asked(page), lambda found: len(found) >= 2)
    place.stage.block_s = 0.0
    await page.until_playing(4)
    assert asked == [2, 4]  # no more: it was in vain
    assert [said for said in page.playbacks if said["waiting"] and said["numStalls"]]
    assert place.metric("cascade_player_stalls_total") >= 1
    assert (await page.witness())["back"] == 0


async def test_what_the_page_plays_is_made_just_in_time(enter: Enter, visit: OpenPage) -> None:
    """As soon as acks allow, there would be two segments ahead of the one that plays: more than 1.5 s."""
    place = await enter(open_town())
    page = await visit(place.url)
    await page.start("a red circle")
    (live,) = place.registry.sessions

    def ahead_s() -> float:
        return live.just_in_time.ahead_s(live.record.next_decoder_block, time.monotonic()) or 9.0

    await until(lambda: ahead_s() < 1.0)
    await page.until("() => /^[\\d.]+ m?s$/.test(document.querySelector('[data-figure=lead]').textContent)")
    await page.until_playing(2)
    newest = page.playbacks[-1]
    assert set(newest) == {"playhead", "buffered", "numStalls", "waiting"}
    assert 2 < float(newest["playhead"].removesuffix("s")) <= await page.time() + 0.1
    assert 0 < float(newest["buffered"].removesuffix("s")) < 3
    assert (await page.witness())["back"] == 0
    operator = await visit(f"{place.url}/operator")
    row = operator.find(f"#sessions [data-name='{live.view().name}']")
    await expect(row).to_contain_text(re.compile(r" m?s ahead, asked for [\d.]+ m?s before, \d+ stall"))
    before = len(page.playbacks)
    await page.page.reload()
    await page.until_playing(2)
    assert len(page.playbacks) > before, "it goes on after a reload"


async def test_a_gateway_that_does_not_ask_hears_nothing_of_what_the_page_plays(
    enter: Enter, visit: OpenPage
) -> None:
    place = await enter(open_town(just_in_time=False))
    page = await visit(place.url)
    await page.start("a red circle")
    await page.until_playing(2)
    assert not page.playbacks
    assert await page.figure("lead") == "–"


async def test_what_was_granted_and_forgotten_is_told_again(enter: Enter, visit: OpenPage) -> None:
    """The gateway died while Redis was away, and another goes on with an older record."""
    place = await enter(open_town())
    wire = await enter(wire_to(place.url))
    page = await visit(wire.url, allow=("WebSocket", "ERR_", "Failed to load resource"))
    await page.start("a red circle")
    (live,) = place.registry.sessions
    older = live.record
    await page.send("a blue square")
    await page.until_applied()
    (switch,) = [prompt.request_id for prompt in live.record.prompts if not prompt.is_created]
    await page.page.click("#pause")
    await page.until_state("paused")
    wire.cut()
    await page.until_state("offline")
    forgotten = replace(live.record, prompts=older.prompts, requests={}, notes=without_pause(live.record))
    place.registry.shared.journal._held[older.session].record = live.record = forgotten  # type: ignore[attr-defined]
    live.wakeup.fire()
    wire.mend(place.url)
    await page.until_state("paused")
    assert [prompt.request_id for prompt in live.record.prompts if not prompt.is_created] == [switch]
    assert live.is_paused
    await page.page.click("#pause")
    await page.until_playing(2)


def without_pause(record: Record) -> dict[str, bytes]:
    return {name: value for name, value in record.notes.items() if name != views.PAUSED}


async def credits_asked(page: Visit) -> list[int]:
    """By each of its streams; one that comes again asks for the same."""
    asked = [json.loads(message).get("attach", {}).get("maxUnackedSegments") for message in page.sent]
    return list(dict.fromkeys(credit for credit in asked if credit))


async def test_a_browser_that_wants_a_click_gets_one(enter: Enter, visit: OpenPage) -> None:
    """As phones do that save power."""
    place = await enter(open_town())
    page = await visit(place.url, player="media-source")
    await page.page.evaluate((Path(__file__).parent / "shy.js").read_text())
    await page.send("a red circle")
    await page.until_text("#cover-title", "Tap or click to play.")
    await page.page.click("#screen")
    await page.until_playing()
    assert not await page.find("#cover").is_visible()


async def test_the_way_to_the_prompt_does_not_load_the_page_again(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url)
    await page.page.evaluate("() => { window.mark = 1; }")
    await page.page.focus(".skip")
    await page.page.keyboard.press("Enter")
    await page.until("() => location.hash === '#prompt'")
    await page.start("a red circle")
    assert await page.page.evaluate("() => window.mark") == 1


async def test_the_queue_counts_down(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town(capacity=1))
    first, second = await place.anybody.name(), await place.anybody.name()
    page = await visit(place.url)
    await page.send("a red circle")
    await page.until_state("queued")
    await page.find("#queue[data-position='2']").wait_for()
    for selector in ("#queue", "#cover-text"):
        assert "2 of 2" in await page.find(selector).inner_text()
    await page.picture("waiting")
    await place.anybody.delete(first)
    await page.find("#queue[data-position='1']").wait_for()
    await place.anybody.delete(second)
    await page.until_playing()
    await page.until_state("active")
    assert await page.find("#queue[data-position]").count() == 0


async def test_what_is_refused_is_said_with_field_and_range(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url, allow=(REFUSED,))
    await page.send("   ")
    assert "Prompt" in await page.until_problem()
    await page.page.click("summary:has-text('More')")
    await page.page.fill("#width", "5000")
    await page.send("a red circle")
    await page.until("() => document.querySelector('#problem').textContent.includes('4096')")
    assert "width" in (await page.until_problem()).lower()
    await page.page.fill("#width", "")
    await page.start("a red circle")
    assert not await page.find("#problem").is_visible()
    await page.send("REFUSED by the stage")
    await page.find("#timeline [data-state=refused]").wait_for(state="attached")
    assert "token" in (await page.until_problem()).lower()
    await page.until_playing()
    await page.page.reload()
    await page.until_playing()
    assert not await page.find("#problem").is_visible()


async def test_a_session_gets_the_stagger_and_the_attention_that_were_chosen(
    enter: Enter, visit: OpenPage
) -> None:
    place = await enter(open_town())
    page = await visit(place.url)
    await page.page.click("summary:has-text('More')")
    await page.find("#stagger option[value='3']").wait_for(state="attached")
    assert await page.page.eval_on_selector_all("#stagger option", "all => all.map(each => each.text)") == [
        "stage’s (2)", "1", "2", "3",
    ]  # fmt: skip
    await page.page.select_option("#stagger", "1")
    await page.page.select_option("#attention", label="causal")
    await page.start("a red circle")
    (session,) = place.registry.sessions
    assert (session.asked.stagger, session.asked.inflight_attention) == (1, CAUSAL)
    operator = await visit(f"{place.url}/operator")
    await operator.find("#sessions small:has-text('stagger 1, causal')").wait_for()


async def test_loras_come_with_the_next_prompt_and_are_still_chosen_after_a_reload(
    enter: Enter, visit: OpenPage
) -> None:
    place = await enter(open_town(loras={"ink": "i1", "clay": "c1", "neon": "n1", "wool": "w1"}))
    page = await visit(place.url)
    await page.page.click("#lora-box summary")
    assert "MIT · not for commercial use" in await page.find("#loras").inner_text()
    await page.page.check("input[value=ink]")
    await page.page.fill("[aria-label='Scale of ink']", "0.5")
    await page.start("a red circle")
    (session,) = place.registry.sessions
    assert [(each.name, each.scale) for each in session.asked.loras] == [("ink", 0.5)]
    for name in ("clay", "neon"):
        await page.page.check(f"input[value={name}]")
    assert await page.page.is_disabled("input[value=wool]"), "no more than three"
    assert await page.find("#lora-count").inner_text() == " (3)"
    await page.page.uncheck("input[value=ink]")
    await page.send("a blue square")
    await until(lambda: [name for name, _ in session.record.loras_at(2**31)] == ["clay", "neon"])
    await page.page.reload()
    await page.find("#lora-count:has-text('(2)')").wait_for(state="attached")
    assert await page.page.is_checked("input[value=neon]")
    await page.page.click("#lora-box summary")
    await page.page.uncheck("input[value=clay]")
    await page.page.uncheck("input[value=neon]")
    await page.send("a star")
    await until(lambda: session.record.loras_at(2**31) == ())


async def test_a_stage_of_a_former_release_leaves_nothing_to_choose(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town(staggers=()))
    page = await visit(place.url)
    await page.page.click("summary:has-text('More')")
    await page.find("#model option").wait_for(state="attached")
    assert not await page.find("#stagger").is_visible()
    assert not await page.find("#attention").is_visible()
    await page.start("a red circle")
    operator = await visit(f"{place.url}/operator")
    await operator.find("#sessions [data-name]").wait_for()
    assert await operator.find("#sessions small:has-text('stagger')").count() == 0


@pytest.mark.parametrize(
    ("tail", "word"),
    [("&token=forged", "link is damaged"), ("&token={expired}", "expired"), ("", "link")],
    ids=["forged", "expired", "incomplete"],
)
async def test_a_link_that_is_no_good_says_so(enter: Enter, visit: OpenPage, tail: str, word: str) -> None:
    place = await enter(open_town())
    session = (await place.anybody.name()).removeprefix("sessions/")
    expired, _ = place.registry.shared.tokens.issue(session, "", "viewer", -1.0)
    page = await visit(f"{place.url}/#view={session}{tail.format(expired=expired)}")
    assert word in (await page.until_problem()).lower()


async def test_a_gateway_with_keys_asks_for_one(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town(tenants=("acme",)))
    page = await visit(place.url, allow=(REFUSED,))
    await page.find("#key-dialog[open]").wait_for()
    await page.picture("dialog")
    await page.page.fill("#key", "wrong")
    await page.page.press("#key", "Enter")
    await page.until("() => document.querySelector('#key').value === ''")
    await page.find("#key-dialog[open]").wait_for()
    await page.page.fill("#key", "key-acme")
    await page.page.press("#key", "Enter")
    await page.find("#key-dialog").wait_for(state="hidden")
    await page.start("a red circle")
    kept = await page.page.evaluate("() => [JSON.stringify(localStorage), document.cookie, location.href]")
    assert "key-acme" not in "".join(kept)
    await page.page.reload()
    await page.until_playing()
    assert not await page.find("#key-dialog").is_visible()


async def test_prompts_are_text_wherever_they_show(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url)
    await page.start(ATTACKS[0])
    for number, attack in enumerate(ATTACKS[1:], 1):
        await page.send(attack)
        await page.until_applied(number)
    await page.page.click("#history-box summary")
    shown = await page.find("#history").inner_text()
    for attack in ATTACKS:
        assert attack in shown
    await page.page.reload()
    await page.until_playing()
    operator = await visit(f"{place.url}/operator")
    await operator.find("#sessions [data-name]").first.wait_for()
    hostile = await visit(f"{place.url}/#view={ATTACKS[0]}&token={ATTACKS[1]}")
    await hostile.until_problem()
    for each in (page, operator, hostile):
        assert await each.page.evaluate("() => window.hacked") is None
        assert await each.find("img[src=x], svg[onload]").count() == 0


async def test_the_policy_blocks_scripts_that_got_in(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    for path in ("/", "/operator"):
        page = await visit(f"{place.url}{path}", allow=("Content.Security.Policy", "Trusted", REFUSED))
        stopped = await page.page.evaluate((Path(__file__).parent / "intruder.js").read_text())
        assert {"markup", "handler", "code", "script", "call", "connect-src"} <= set(stopped), stopped
        assert await page.page.evaluate("() => window.hacked") is None


async def test_it_is_used_without_a_mouse(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url)
    keys = page.page.keyboard
    for _ in range(20):
        await keys.press("Tab")
        if await page.page.evaluate("() => document.activeElement.id") == "prompt":
            break
    await keys.type("a red circle")
    await keys.press("Shift+Enter")
    await keys.type("moves left")
    await keys.press("Enter")
    await page.until_playing()
    await keys.press("Control+A")
    await keys.type("a blue square")
    await keys.press("Control+Enter")
    await page.until_applied()
    asked = [json.loads(message) for message in page.sent]
    assert [each["switchPrompt"]["promptSwitch"]["text"] for each in asked if "switchPrompt" in each] == [
        "a blue square"
    ]
    session = json.loads(await page.page.evaluate("() => sessionStorage.getItem('cascade.session')"))
    found = await place.anybody.get(session["name"])
    assert found.spec.prompts[0] == "a red circle\nmoves left"
    for _ in range(20):
        await keys.press("Tab")
        if await page.page.evaluate("() => document.activeElement.id") == "pause":
            break
    await keys.press("Enter")
    await page.until_state("paused")


async def test_a_slider_has_prompts_take_over_gradually(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url)
    assert await page.find("#over-text").inner_text() == "at once"
    await page.start("a red circle")
    await page.find("#mode").select_option("boundary")
    await page.find("#over").fill("5")
    assert await page.find("#over-text").inner_text() == "5 blocks (3.8 s)"
    await page.send("a blue square")
    mark = await page.until_applied()
    touched, full = [float(await mark.get_attribute(f"data-{name}-s") or 0) for name in ("touched", "full")]
    assert full - touched == pytest.approx(5 * 0.75, abs=0.01)


async def test_a_new_shot_begins_with_a_switch(enter: Enter, visit: OpenPage) -> None:
    """Of the one model of two that knows cuts: as asked before a reload, and after it."""
    place = await enter(open_town(cutting=(False, True)))
    page = await visit(place.url)
    mode, cut = page.find("#mode"), page.find("#cut")
    await page.find("#model option").nth(1).wait_for(state="attached")
    await expect(cut).to_be_disabled()
    await page.find("#model").select_option("demo-2")
    await expect(cut).to_be_enabled()
    await page.start("a street")
    await page.find("#over").fill("5")
    for number, text in enumerate(("a room", "a garden"), 1):
        if number == 2:
            await page.page.reload()
            await page.until_playing()
        await mode.select_option("cut")
        await page.send(text)
        mark = await page.until_applied(number)
        touched, full = [
            float(await mark.get_attribute(f"data-{each}-s") or 0) for each in ("touched", "full")
        ]
        assert 0 < touched == full, "nothing in flight is touched, nothing is mixed"
    (session,) = place.registry.sessions
    assert len(session.record.cuts) == 2
    await page.end()
    await page.find("#model").select_option("demo")
    await expect(cut).to_be_disabled()
    await expect(mode).to_have_value("immediate")


async def test_history_is_kept_and_used(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url)
    await page.start("a red circle")
    await page.send("a blue square")
    await page.until_applied()
    await page.page.reload()
    await page.until_playing()
    await page.page.click("#history-box summary")
    texts = await page.find("#history button").all_inner_texts()
    assert [text.strip() for text in texts] == ["a blue square", "a red circle"]
