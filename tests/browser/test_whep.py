"""WebRTC in a real Chromium, by WHEP and by nothing of ours."""

import re

from playwright.async_api import Route

from tests.browser.conftest import Enter, OpenPage
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
