"""hls.js, a player that knows nothing of Cascade, in a page of our own on the gateway's origin."""

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import Route

from tests.browser.conftest import Enter, OpenPage
from tests.browser.places import open_town
from tests.services.support.gateway_support import AttachedStream

LIBRARY = Path(__file__).parent / "node_modules/hls.js/dist/hls.min.js"
needs_hls = pytest.mark.skipif(
    not LIBRARY.exists(), reason="needs hls.js: npm ci in tests/browser, or make test"
)
PAGE = "<!doctype html><title>hls.js</title><video muted></video><script src=/test/hls.js></script>"
PLAY = """url => {
  window.problems = [];
  const hls = new Hls({liveSyncDurationCount: 2});
  hls.on(Hls.Events.ERROR, (_, data) => problems.push(`${data.details} ${data.fatal}`));
  hls.loadSource(url);
  hls.attachMedia(document.querySelector('video'));
  document.querySelector('video').play();
}"""


PLAY_IN_PARTS = """url => {
  window.problems = [];
  window.parts = 0;
  window.hls = new Hls({lowLatencyMode: true});
  hls.on(Hls.Events.ERROR, (_, data) => problems.push(`${data.details} ${data.fatal}`));
  hls.on(Hls.Events.FRAG_BUFFERED, (_, data) => { if (data.part) window.parts += 1; });
  hls.loadSource(url);
  hls.attachMedia(document.querySelector('video'));
  document.querySelector('video').play();
}"""


async def serve(route: Route) -> None:
    if route.request.url.endswith(".js"):
        await route.fulfill(path=LIBRARY, content_type="text/javascript")
    else:
        await route.fulfill(body=PAGE, content_type="text/html")


@needs_hls
async def test_hls_js_plays_a_session_to_its_end(enter: Enter, visit: OpenPage) -> None:
    """The session goes on when the player has begun at its live edge, however long that takes."""
    place = await enter(open_town())
    name = await place.anybody.name(num_blocks=16)
    token = await place.anybody.token(name)
    page = await visit(f"{place.url}/test/page", routes={"**/test/*": serve}, allow=("secret in an address",))
    async with place.anybody.attached(name, acks=False) as stream:
        await stream.until_sequence(4)
        await page.page.evaluate(PLAY, f"/v1/{name}/hls/index.m3u8?resume_token={token}")
        await page.until("() => document.querySelector('video').currentTime > 0")
        stream.acks = True
        await stream.ack(4)
        await page.until_playing(4)
    assert await page.page.eval_on_selector("video", "video => video.videoWidth") == 64
    stalls = "bufferStalledError false"  # it waits where the session stood still
    assert [problem for problem in await page.page.evaluate("() => problems") if problem != stalls] == []


@needs_hls
async def test_hls_js_plays_parts_at_the_live_edge(enter: Enter, visit: OpenPage) -> None:
    """It asks for each playlist before it is there, and loads parts of segments that are still being made."""
    place = await enter(open_town())
    place.decoder.block_s = 0.2
    name = await place.anybody.name()
    token = await place.anybody.token(name)
    page = await visit(f"{place.url}/test/page", routes={"**/test/*": serve}, allow=("secret in an address",))
    asked: list[str] = []
    page.page.on("request", lambda request: asked.append(request.url))
    async with place.anybody.attached(name, acks=False, max_unacked_segments=1) as stream:
        pace = asyncio.create_task(play(stream))
        await stream.until_sequence(3)
        await page.page.evaluate(PLAY_IN_PARTS, f"/v1/{name}/hls/low-latency.m3u8?resume_token={token}")
        await page.until_playing(4)
        await page.until("() => window.parts >= 6")
        pace.cancel()
        assert any("_HLS_msn=" in url and "_HLS_part=" in url for url in asked)
        assert await page.page.evaluate("() => hls.latestLevelDetails.partHoldBack") == 1.25
    problems = await page.page.evaluate("() => problems")
    assert all(problem.endswith(" false") for problem in problems), "on a busy machine it waits or asks again"


async def play(stream: AttachedStream) -> None:
    """As a controller that plays each segment when its turn comes."""
    while True:
        await stream.until(lambda: stream.segments)
        await stream.ack(stream.segments[-1].sequence)
        await asyncio.sleep(0.75)
