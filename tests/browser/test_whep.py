"""WebRTC in a real Chromium, by WHEP and by nothing of ours."""

import json
import re

import pytest
from playwright.async_api import Route, async_playwright

from tests.browser.conftest import OPTIONS, Enter, OpenPage
from tests.browser.far import far_machines, needs_namespaces
from tests.browser.places import open_town
from tests.paths import ROOT
from tests.services.support.whep_support import LOOPBACK

PAGE = "<!doctype html><title>WHEP</title><video muted autoplay></video>"
_, _, GUIDE = re.findall(r"```js\n(.*?)```", (ROOT / "docs/clients.md").read_text(), re.DOTALL)
"""The code that docs/clients.md prints."""
PLAY = "async ([gateway, session, token]) => { window.told = [];" + (
    GUIDE.replace("console.log(", "told.push(").replace("?resume_token", "?role=controller&resume_token")
    + "window.connection = connection; }"
)
DECODED = """async () => {
  const stats = [...(await connection.getStats()).values()];
  return stats.find(each => each.type === 'inbound-rtp')?.framesDecoded ?? 0;
}"""


async def serve(route: Route) -> None:
    await route.fulfill(body=PAGE, content_type="text/html")


async def test_chromium_plays_a_session_to_its_end(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town(http=LOOPBACK))
    name = await place.anybody.name(num_blocks=8)
    token = await place.anybody.token(name, "CONTROLLER")
    page = await visit(f"{place.url}/test/page", routes={"**/test/*": serve}, allow=("secret in an address",))
    await page.page.evaluate(PLAY, ["", name, token])
    await page.until("() => document.querySelector('video').videoWidth === 64")
    await page.until("() => told.some(each => each.ended)")
    pictures = await page.page.evaluate(DECODED)
    assert pictures >= 7 * 12 - 3, "all but what the end cut off"
    reasons = await page.page.evaluate("() => told.filter(each => each.ended).map(each => each.ended.reason)")
    assert reasons == ["END_REASON_COMPLETE"]
    sequences = await page.page.evaluate(
        "() => told.filter(each => each.segment).map(each => each.segment.sequence)"
    )
    assert sequences == [str(number) for number in range(1, 9)]


CREATE = """async (prompt) => {
  const headers = { "content-type": "application/json" };
  const body = JSON.stringify({ requestId: "far", spec: { prompts: { 0: prompt } } });
  for (;;) {
    const answer = await fetch("/v1/sessions", { method: "POST", headers, body });
    if (answer.ok) return answer.json();
  }
}"""
SHOW = """() => {
  const video = Object.assign(document.createElement("video"), { muted: true, autoplay: true });
  document.body.replaceChildren(video);
}"""
STATS = """async () => {
  const stats = [...(await connection.getStats()).values()].find(each => each.type === 'inbound-rtp');
  const packets = ["packetsReceived", "packetsLost", "nackCount"];
  const frames = ["framesDecoded", "framesDropped", "freezeCount", "totalFreezesDuration"];
  return Object.fromEntries([...packets, ...frames].map(name => [name, stats[name] ?? 0]));
}"""
NUM_SEGMENTS, FIRST_LOSS, SECOND_LOSS = 84, 28, 56
"""Of 0.75 s, 12 pictures."""
WAIT_MS = 150_000


@needs_namespaces
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("delay_s", "loss"), [(0, 0), (0.025, 0.02)], ids=["good line", "bad line"])
async def test_a_minute_far_away_while_stage_and_decoder_are_killed(delay_s: float, loss: float) -> None:
    """kill -9, the stage after 20 s, the decoder after 40. What the line loses is sent again."""
    with far_machines(delay_s, loss) as far:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=far.browser, args=list(OPTIONS))
            page = await browser.new_page()
            await page.goto(f"{far.url}/docs")
            await page.evaluate(SHOW)
            made = await page.evaluate(CREATE, "a red circle bounces on a black background")
            await page.evaluate(PLAY, ["", made["session"]["name"], made["resumeToken"]])
            until = "number => told.some(each => each.segment?.sequence >= number)"
            await page.wait_for_function(until, arg=FIRST_LOSS, timeout=WAIT_MS)
            stage = await page.evaluate(
                "async name => (await (await fetch('/v1/overview')).json()).sessions[0].stage", ""
            )
            next(each for each in far.stages if each.address == stage).kill()
            await page.wait_for_function(until, arg=SECOND_LOSS, timeout=WAIT_MS)
            far.decoder.kill()
            far.decoder.start()
            await page.wait_for_function(until, arg=NUM_SEGMENTS, timeout=WAIT_MS)
            stats = await page.evaluate(STATS)
            told = await page.evaluate("() => told")
            await browser.close()
    sequences = [int(each["segment"]["sequence"]) for each in told if "segment" in each]
    assert sequences == list(range(1, len(sequences) + 1))
    assert sum("recoveryDone" in each for each in told) == 2
    print(json.dumps(stats))
    assert stats["framesDecoded"] > 0.9 * NUM_SEGMENTS * 12
    assert not loss or stats["nackCount"] > 0
