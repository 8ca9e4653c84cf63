"""The first picture of a session whose decoder is slow: on the screen while its block is being decoded."""

from operator import sub
from typing import Any

from playwright.async_api import async_playwright

from benchmarks import web_page
from benchmarks.services_real import quantile
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import town
from tests.services.support.video_support import FilmDecoder

Row = dict[str, Any]
BLOCK_S = 0.6
NUM_SESSIONS = 20
PATIENCE_S = 20.0
FIRST_WHOLE = """
window.firstPartMs = new Promise((gotPart) => {
  window.firstWholeMs = new Promise((gotWhole) => {
    window.WebSocket = class extends WebSocket {
      constructor(...all) {
        super(...all);
        this.addEventListener('message', ({ data }) => {
          if (typeof data === 'string') return;
          const length = new DataView(data).getUint32(0);
          const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
          if (head.part) gotPart(performance.now());
          if (head.segment) gotWhole(performance.now());
        });
      }
    };
  });
});
"""
"""When the first part has come, and all of the first segment, on the page's own clock."""


async def measure() -> list[Row]:
    """Grey pictures; the decoder takes `BLOCK_S` for a block, a third of it for each part."""
    place_of: dict[str, Any] = {"stages": [FakeStage()], "decoders": [FilmDecoder(block_s=BLOCK_S)]}
    place_of |= {"http": {}, "open_timeout_s": PATIENCE_S, "stall_timeout_s": PATIENCE_S}
    async with town(**place_of) as place, async_playwright() as playwright:
        browser = await web_page.launch(playwright, place.url)
        page = web_page.Measured(browser, f"{place.url}/", [FIRST_WHOLE])
        try:
            await page.open_new()
            seen = [await page.first_times() for _ in range(NUM_SESSIONS)]
        finally:
            await browser.close()
    part_ms, whole_ms, picture_ms = zip(*seen, strict=True)
    return [
        {
            "sessions": NUM_SESSIONS,
            "picture_before_whole_p50_ms": quantile(sorted(map(sub, whole_ms, picture_ms)), 0.5),
            "least_ms": min(map(sub, whole_ms, picture_ms)),
            "part_before_whole_p50_ms": quantile(sorted(map(sub, whole_ms, part_ms)), 0.5),
            "picture_after_part_p50_ms": quantile(sorted(map(sub, picture_ms, part_ms)), 0.5),
        }
    ]
