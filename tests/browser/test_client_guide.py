"""The browser client that docs/clients.md prints, on a page of another origin, in a real Chromium."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright

from tests.browser.conftest import PROGRAM, needs_browser
from tests.paths import ROOT
from tests.services.support.front import Front
from tests.services.support.gateway_support import WAIT_S, until_value
from tests.services.support.video_support import FPS, SIZE, WebTown, web_town

GUIDE = ROOT / "docs/clients.md"
PAGE = """<!doctype html><title>guide</title>
<video muted autoplay playsinline></video>
<script type="module">{}</script>
"""
HLS_JS = Path(__file__).parent / "node_modules/hls.js/dist/hls.min.js"
HLS_PAGE = """<!doctype html><title>guide</title>
<video muted autoplay playsinline></video>
<script src="hls.js"></script>
<script>window.start = (gateway, session, token) => {{ {} }}</script>
"""
START = "window.events = []; window.start = (gateway, session, token) => {\n" + (
    "const video = document.querySelector('video');\n"
    "window.send = play(video, gateway, session, token, (event) => events.push(event)); }"
)
MANAGED = """
const Hidden = window.MediaSource;
window.sources = [];
delete window.MediaSource;
window.ManagedMediaSource = class extends Hidden {
  streaming = false;
  constructor() { super(); sources.push(this); }
  stream(wanted) {
    this.streaming = wanted;
    const event = new Event(wanted ? "startstreaming" : "endstreaming");
    this[`on${event.type}`]?.(event);
    this.dispatchEvent(event);
  }
};
const create = URL.createObjectURL;
URL.createObjectURL = (source) => {
  if (!document.querySelector("video").disableRemotePlayback) throw new Error("Safari would not open it");
  return create.call(URL, source);
};
"""
"""A stand-in for Safari's, over Chromium's: says what it wants, and wants nothing at first."""
BUFFERED = "() => { const { buffered } = document.querySelector('video'); return buffered.length }"
SEEN = "kind => events.filter(event => kind in event).map(event => event[kind])"
TIME = "() => document.querySelector('video').currentTime"

pytestmark = needs_browser


@pytest.fixture
def origin() -> Iterator[str]:
    """Of a web server whose pages are the guide's code and a start button for the test."""
    socket, hls, _ = re.findall(r"```js\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    files = {
        "/": ("text/html", PAGE.format(socket.replace("export ", "", 1) + START)),
        "/hls": ("text/html", HLS_PAGE.format(hls)),
        "/hls.js": ("text/javascript", HLS_JS.read_text() if HLS_JS.exists() else ""),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, text = files.get(self.path, ("text/plain", ""))
            self.send_response(200)
            self.send_header("content-type", f"{kind}; charset=utf-8")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(WAIT_S)
    server.server_close()


@asynccontextmanager
async def opened(origin: str, before: str = "") -> AsyncIterator[Page]:
    """The page, after a script of the browser's own; it must complain of nothing but lost connections."""
    async with async_playwright() as tool:
        browser = await tool.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        page = await browser.new_page()
        page.set_default_timeout(WAIT_S * 1000)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        await page.add_init_script(before)
        await page.goto(origin)
        yield page
        await browser.close()
        assert errors == []


@asynccontextmanager
async def connected(place: WebTown) -> AsyncIterator[Front]:
    """An address that leads to the town's HTTP side."""
    front = Front()
    await front.start()
    front.lead_to([f"127.0.0.1:{place.port}"])
    try:
        yield front
    finally:
        await front.close()


async def start(page: Page, address: str, created: Any) -> None:
    await page.evaluate(
        "([gateway, session, token]) => start(gateway, session, token)",
        [f"ws://{address}", created.session.name, created.resume_token],
    )


async def sequences(page: Page) -> list[int]:
    return [int(segment["sequence"]) for segment in await page.evaluate(SEEN, "segment")]


async def test_it_plays_steers_and_comes_back(origin: str) -> None:
    num_blocks = 10
    async with web_town(http={"cors_origins": (origin,)}, max_unacked_segments=3) as place:
        created = await place.anybody.create(num_blocks=num_blocks)
        async with connected(place) as front, opened(origin) as page:
            await start(page, front.address, created)
            await until_value(lambda: page.evaluate(TIME), lambda seconds: seconds > 1.0)
            assert await page.evaluate("() => document.querySelector('video').videoWidth") == SIZE
            front.cut()
            await until_value(lambda: page.evaluate(SEEN, "attached"), lambda found: len(found) == 2)
            await page.evaluate(
                "() => send({switchPrompt: {requestId: 'w1', promptSwitch: {text: 'a blue square'}}})"
            )
            await until_value(lambda: page.evaluate(SEEN, "ended"), bool)
            receipts = await page.evaluate(SEEN, "promptReceipt")
            assert "SWITCH_STATE_APPLIED" in [receipt["state"] for receipt in receipts]
            assert sorted(set(await sequences(page))) == list(range(1, num_blocks + 1))
            whole = (num_blocks * 12 - 3) / FPS
            await until_value(lambda: page.evaluate(TIME), lambda seconds: seconds > whole - 0.5)


async def test_it_plays_where_only_a_managed_source_is(origin: str) -> None:
    """As on an iPhone: nothing is appended while the browser has enough, and all of it when it wants more."""
    num_blocks = 4
    async with web_town(http={"cors_origins": (origin,)}, max_unacked_segments=num_blocks) as place:
        created = await place.anybody.create(num_blocks=num_blocks)
        async with opened(origin, MANAGED) as page:
            await start(page, f"127.0.0.1:{place.port}", created)
            await until_value(lambda: sequences(page), lambda found: len(found) == num_blocks)
            assert await page.evaluate(BUFFERED) == 0, "it has not asked yet"
            await page.evaluate("() => sources[0].stream(true)")
            whole = (num_blocks * 12 - 3) / FPS
            await until_value(lambda: page.evaluate(TIME), lambda seconds: seconds > whole - 0.5)
            assert await page.evaluate(SEEN, "problem") == []


async def test_credit_is_what_is_played(origin: str) -> None:
    """While the player stands at the first picture, nothing beyond the first segment is acknowledged."""
    async with web_town(http={"cors_origins": (origin,)}, max_unacked_segments=2) as place:
        created = await place.anybody.create()
        async with opened(origin) as page:
            await page.evaluate("() => document.querySelector('video').removeAttribute('autoplay')")
            await start(page, f"127.0.0.1:{place.port}", created)
            await until_value(lambda: sequences(page), lambda found: len(found) >= 2)
            assert (await place.anybody.get(created.session.name)).acked_sequence <= 1
            await page.evaluate("() => document.querySelector('video').play()")
            await until_value(lambda: sequences(page), lambda found: len(found) >= 5)


async def test_a_token_that_is_none_is_told_once(origin: str) -> None:
    async with web_town(http={"cors_origins": (origin,)}) as place:
        created = await place.anybody.create()
        created.resume_token = "nonsense"
        async with opened(origin) as page:
            await start(page, f"127.0.0.1:{place.port}", created)
            problems = await until_value(lambda: page.evaluate(SEEN, "problem"), bool)
            assert [problem["status"] for problem in problems] == [401]


@pytest.mark.skipif(not HLS_JS.exists(), reason="needs hls.js: npm ci --prefix tests/browser")
async def test_hls_js_on_a_page_of_another_origin(origin: str) -> None:
    """The whole video is there, so that the player waits for nobody."""
    async with web_town(http={"cors_origins": (origin,)}, max_unacked_segments=3) as place:
        name = await place.anybody.name(num_blocks=6)
        token = await place.anybody.token(name)
        async with place.anybody.attached(name) as stream:
            await stream.until_over()
        async with opened(f"{origin}/hls") as page:
            await page.evaluate(
                "([gateway, session, token]) => start(gateway, session, token)",
                [place.web, name, token],
            )
            await page.wait_for_function(f"() => ({TIME})() > 1.0")
            assert await page.evaluate("() => document.querySelector('video').videoWidth") == SIZE
