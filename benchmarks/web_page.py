"""The page in Chromium, as a person sees it: first picture, and the picture after a prompt switch."""

import asyncio
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Browser, Page, Playwright, async_playwright, expect

from benchmarks.services_processes import service
from benchmarks.services_real import DECODER, STAGE, quantile

Row = dict[str, Any]
NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ("--no-sandbox", "--autoplay-policy=no-user-gesture-required")
LIMIT_MS = 60_000
"""For any step."""
NUM_OPENINGS = 20
STEADY_MS = 6000
"""After its start a page plays steadily."""
RED, BLUE = "a red circle moves left", "a blue square moves left"
PICTURES = """
{
  const waiting = [];
  const { drawImage } = CanvasRenderingContext2D.prototype;
  CanvasRenderingContext2D.prototype.drawImage = function (image, ...more) {
    drawImage.call(this, image, ...more);
    if (!globalThis.VideoFrame || !(image instanceof VideoFrame)) return;
    window.drawnS = image.timestamp / 1e6;
    for (const tell of waiting.splice(0)) requestAnimationFrame(tell);
  };
  const [canvas, video] = ['#canvas', '#video'].map((id) => () => document.querySelector(id));
  window.picture = () => (canvas().hidden ? video() : canvas());
  window.playedS = () => (canvas().hidden ? video().currentTime : window.drawnS);
  window.onPicture = (tell) => {
    let isTold = false;
    const once = () => isTold || ((isTold = true), tell());
    waiting.push(once);
    if (!video().hidden) video().requestVideoFrameCallback(once);
  };
}
"""
"""The next picture that is on the screen, whichever way the page shows it: drawn or played."""
FIRST_PICTURE = """
window.firstPictureMs = new Promise((resolve) => {
  new MutationObserver((_, observer) => {
    const cover = document.querySelector('#cover');
    if (!cover) return;
    observer.disconnect();
    const look = () => (cover.hidden ? resolve(performance.now()) : requestAnimationFrame(look));
    onPicture(look);
  }).observe(document, { childList: true, subtree: true });
});
"""
"""On the page's own clock, which begins with the navigation."""
READY = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
"""All modules have come and run by then."""
START_AT_ONCE = f"""
addEventListener('DOMContentLoaded', () => {{
  const field = document.querySelector('#prompt');
  field.value = '{RED}';
  field.dispatchEvent(new Event('input', {{ bubbles: true }}));
  document.querySelector('#send').click();
}});
"""
"""As soon as the page takes it: what steers the browser would press a fifth of a second later."""
SWITCH = """
async ([prompt, wanted]) => {
  const canvas = new OffscreenCanvas(48, 48);
  const pen = canvas.getContext('2d', { willReadFrequently: true });
  const redness = () => {
    pen.drawImage(picture(), 0, 0, 48, 48);
    const pixels = pen.getImageData(0, 0, 48, 48).data;
    let sum = 0;
    for (let at = 0; at < pixels.length; at += 4) {
      const excess = pixels[at] - pixels[at + 2];
      if (Math.abs(excess) > 60) sum += excess;
    }
    return sum;
  };
  const field = document.querySelector('#prompt');
  field.value = prompt;
  field.dispatchEvent(new Event('input', { bubbles: true }));
  const known = document.querySelectorAll('[data-request-id][data-state=applied]').length;
  const startedMs = performance.now();
  document.querySelector('#send').click();
  let appliedMs = null;
  return await new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error('the picture did not change')), 30000);
    const look = () => {
      const applied = document.querySelectorAll('[data-request-id][data-state=applied]').length;
      if (appliedMs === null && applied > known) appliedMs = performance.now() - startedMs;
      if (redness() * wanted > 0) resolve([performance.now() - startedMs, appliedMs]);
      else onPicture(look);
    };
    onPicture(look);
  });
}
"""


class Measured:
    """What a person waits for."""

    def __init__(self, browser: Browser, url: str, scripts: Sequence[str] = ()) -> None:
        """`scripts`: run in each page before its own."""
        self._browser = browser
        self._url = url
        self._scripts = [PICTURES, FIRST_PICTURE, *scripts]

    async def measure_first_picture(self) -> list[Row]:
        opened = [await self.open_new() for _ in range(NUM_OPENINGS)]
        async with self._page() as page:
            await self._start(page, self._url)
            await page.click("#share")
            await expect(page.locator("#share-link")).not_to_have_value("")
            link = await page.input_value("#share-link")
            watched = []
            for _ in range(NUM_OPENINGS):
                async with self._page() as viewer:
                    await viewer.goto(link)
                    watched.append(await first_picture_ms(viewer))
            await end(page)
        ready, fresh = zip(*opened, strict=True)
        return [row("page ready", ready), row("new session", fresh), row("viewer link", watched)]

    async def measure_switch(self, num_sessions: int, seconds: float) -> "Steering":
        """Several pages at a time, each with a session of its own that it switches again and again."""
        steering = Steering()
        async with asyncio.TaskGroup() as pages:
            for number in range(num_sessions):
                pages.create_task(self._steer(steering, number / num_sessions, seconds))
        return steering

    async def _steer(self, steering: "Steering", part: float, seconds: float) -> None:
        """`part`: of a block, how much later than others it switches."""
        async with self._page() as page:
            await self._start(page, self._url)
            await page.wait_for_timeout(STEADY_MS)
            begin, number = time.monotonic(), 0
            stalls_before, played_before = await played(page)
            while time.monotonic() - begin < seconds:
                prompt, wanted = (RED, 1) if number % 2 else (BLUE, -1)
                shown_ms, applied_ms = await page.evaluate(SWITCH, [prompt, wanted])
                steering.shown_ms.append(shown_ms)
                steering.applied_ms += [applied_ms] if applied_ms is not None else []
                steering.leads_ms += await figure_ms(page, "lead")
                steering.buffers_ms += await figure_ms(page, "buffer")
                number += 1
                moment = (number * 0.382 + part) % 1  # of a block: another each time
                await page.wait_for_timeout(2000 + 750 * moment)
            stalls, played_s = await played(page)
            steering.num_stalls += stalls - stalls_before
            steering.played_s += played_s - played_before
            await end(page)

    async def open_new(self) -> tuple[float, float]:
        """From opening the page to where it can be used, and to its first picture, in ms."""
        async with self._page(START_AT_ONCE) as page:
            await page.goto(self._url)
            took = float(await page.evaluate(READY)), await first_picture_ms(page)
            await end(page)
            await page.wait_for_selector("#state[data-state=ended]")
        return took

    async def first_times(self) -> tuple[float, float, float]:
        """Of a new session: its first part's, its first whole segment's and its first picture's, in ms. Needs
        a script that tells the first two."""
        async with self._page() as page:
            await self._start(page, self._url)
            part_ms, whole_ms = await page.evaluate("Promise.all([firstPartMs, firstWholeMs])")
            picture_ms = await first_picture_ms(page)
            await end(page)
            await page.wait_for_selector("#state[data-state=ended]")
        return part_ms, whole_ms, picture_ms

    async def _start(self, page: Page, url: str) -> None:
        await page.goto(url)
        await page.fill("#prompt", RED)
        await page.click("#send")
        await page.wait_for_selector("#state[data-state=active]")

    @asynccontextmanager
    async def _page(self, *scripts: str) -> AsyncIterator[Page]:
        context = await self._browser.new_context()
        context.set_default_timeout(LIMIT_MS)
        for script in (*self._scripts, *scripts):
            await context.add_init_script(script)
        try:
            yield await context.new_page()
        finally:
            await context.close()


@dataclass
class Steering:
    """What was seen of switches, and what players had meanwhile."""

    shown_ms: list[float] = field(default_factory=list)
    """From the click to the changed picture."""
    applied_ms: list[float] = field(default_factory=list)
    """From the click to the page's word from which block on it shows."""
    leads_ms: list[float] = field(default_factory=list)
    buffers_ms: list[float] = field(default_factory=list)
    num_stalls: int = 0
    played_s: float = 0.0
    """Of all pages."""

    def switches(self) -> list[Row]:
        return [row("asked_to_applied", self.applied_ms), row("asked_to_changed_picture", self.shown_ms)]

    def player(self) -> Row:
        return {
            "lead_p50_ms": quantile(sorted(self.leads_ms), 0.5) if self.leads_ms else None,
            "lead_max_ms": max(self.leads_ms, default=None),
            "buffer_p50_ms": quantile(sorted(self.buffers_ms), 0.5),
            "stalls": self.num_stalls,
            "played_s": self.played_s,
            "stalls_a_minute": 60 * self.num_stalls / self.played_s,
        }


async def played(page: Page) -> tuple[int, float]:
    """How often the picture stood still so far, and the seconds that were played."""
    stalls = int(await page.inner_text("[data-figure=stalls]"))
    return stalls, float(await page.evaluate("playedS()"))


async def end(page: Page) -> None:
    """The session, for everybody."""
    await page.click("#end")
    await page.click("#end-sure")


async def figure_ms(page: Page, name: str) -> list[float]:
    """Of the page's figures; empty while it shows none."""
    number, _, unit = (await page.inner_text(f"[data-figure={name}]")).partition(" ")
    return [float(number) * (1000 if unit == "s" else 1)] if unit else []


async def first_picture_ms(page: Page) -> float:
    async with asyncio.timeout(LIMIT_MS / 1000):
        return float(await page.evaluate("window.firstPictureMs"))


async def launch(playwright: Playwright, url: str, program: str | None = None) -> Browser:
    """That takes what `url` serves for safe, as over HTTPS: else pages of other machines may not decode
    pictures themselves. `program`: else the one on PATH."""
    path = program or find_browser()
    arguments = [*ARGUMENTS, f"--unsafely-treat-insecure-origin-as-secure={url.rstrip('/')}"]
    return await playwright.chromium.launch(executable_path=path, args=arguments)


@asynccontextmanager
async def opened(
    *, is_just_in_time: bool = True, host: str = "127.0.0.1", program: str | None = None
) -> AsyncIterator[Measured]:
    """A browser beside services that are warm. `host`: where the gateway serves pages; `program`: the
    browser's."""
    async with served(host, is_just_in_time=is_just_in_time) as url, async_playwright() as playwright:
        browser = await launch(playwright, url, program)
        try:
            measured = Measured(browser, url)
            await measured.open_new()  # the first waits for the model and warms caches
            yield measured
        finally:
            await browser.close()


@asynccontextmanager
async def served(host: str = "127.0.0.1", *, is_just_in_time: bool = True) -> AsyncIterator[str]:
    """The page's address, over one stage and one decoder."""
    async with (
        service("services.stage", STAGE) as stage,
        service("services.decoder", DECODER) as decoder,
    ):
        environment = {
            "CASCADE_GATEWAY_STAGES": stage.address,
            "CASCADE_GATEWAY_DECODERS": decoder.address,
            "CASCADE_GATEWAY_JUST_IN_TIME": str(is_just_in_time).lower(),
            "CASCADE_GATEWAY_ADVERTISE": "127.0.0.1:50051",  # what the operator's view calls it
            "CASCADE_DRAIN_DEADLINE_S": "1",
            "CASCADE_HTTP_HOST": host,
            "CASCADE_HTTP_PORT": "0",
        }
        async with service("services.gateway", environment) as gateway:
            yield f"http://{host}:{http_port(gateway.text())}/"


def http_port(log: str) -> int:
    found = re.search(r'"port": (\d+), .*"listening for http"|"listening for http".*"port": (\d+)', log)
    assert found, "the gateway tells its port before it serves"
    return int(found[1] or found[2])


def find_browser() -> str:
    """Exits where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or sys.exit("no Chromium on PATH (Debian: apt install chromium)")


def browser_version() -> str:
    done = subprocess.run([find_browser(), "--version"], capture_output=True, text=True, timeout=30)
    return " ".join(done.stdout.split()[:2])


def row(what: str, times_ms: Sequence[float]) -> Row:
    ordered = sorted(times_ms)
    return {
        "what": what,
        "times": len(ordered),
        "p50_ms": quantile(ordered, 0.5),
        "p95_ms": quantile(ordered, 0.95),
    }
