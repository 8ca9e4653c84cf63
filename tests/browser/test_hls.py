"""hls.js, a player that knows nothing of Cascade, in a page of our own on the gateway's origin."""

from pathlib import Path

import pytest
from playwright.async_api import Route

from tests.browser.conftest import Enter, OpenPage
from tests.browser.places import open_town

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
