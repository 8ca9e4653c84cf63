"""One page in a browser, as a person sees and uses it."""

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import ConsoleMessage, Locator, Page, Request, WebSocket, expect

from tests.services.support.video_support import unpacked

WAIT_S = 40.0
"""Deadline of every wait; only a hang reaches it."""
SEGMENT_S, NEARLY_S = 0.75, 0.25
HARMLESS = ("net::ERR_ABORTED",)
"""Of a request: the page was left meanwhile."""
HERE = Path(__file__).parent
WITNESS, PIXELS = ((HERE / name).read_text() for name in ("witness.js", "pixels.js"))


class Visit:
    """A page and what it was seen to do."""

    def __init__(self, page: Page, url: str, allow: Sequence[str], picture: Path) -> None:
        """`allow`: patterns of complaints that the test expects; `picture`: path of the pictures, in part."""
        self.page = page
        self.complaints: list[str] = []
        self.sequences: list[int] = []
        """Of all segments, as they came over whichever WebSocket, each once."""
        self.sent: list[str] = []
        """Over whichever WebSocket."""
        self.num_sockets = 0
        self.num_parts = 0
        """Of segments, as they came."""
        self._came_s: dict[int, float] = {}
        """When each segment came."""
        self._began_s: dict[int, float] = {}
        """When the page said that it plays."""
        self._host = urlsplit(url).netloc
        self._allow = [re.compile(pattern) for pattern in (*allow, *HARMLESS)]
        self._picture = picture
        page.on("console", self._hear_console)
        page.on("pageerror", lambda error: self.complaints.append(f"page error: {error}"))
        page.on("request", self._hear_request)
        page.on(
            "requestfailed",
            lambda request: self.complaints.append(f"failed: {request.failure} {request.url}"),
        )
        page.on("websocket", self._hear_socket)

    async def open(self, url: str) -> None:
        await self.page.add_init_script(WITNESS)
        await self.page.goto(url)

    def check(self) -> None:
        """Raises AssertionError if the page complained, or called somewhere else."""
        found = [text for text in self.complaints if not any(each.search(text) for each in self._allow)]
        assert not found, found

    def _hear_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text} {message.location['url']}")

    def _hear_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("blob", "data") and parts.netloc != self._host:
            self.complaints.append(f"outside: {request.url}")
        if "token" in parts.query or "key" in parts.query:
            self.complaints.append(f"secret in an address: {request.url}")

    def _hear_socket(self, socket: WebSocket) -> None:
        self.num_sockets += 1
        socket.on("framereceived", self._hear_frame)
        socket.on("framesent", self._hear_sent)

    def _hear_frame(self, frame: str | bytes) -> None:
        event, _ = unpacked(frame)
        self.num_parts += "part" in event
        if "segment" in event:
            sequence = int(event["segment"]["sequence"])
            if sequence not in self._came_s:  # two sockets may bring it, while one takes the other's place
                self.sequences.append(sequence)
                self._came_s[sequence] = time.monotonic()

    def _hear_sent(self, frame: str | bytes) -> None:
        self.sent.append(str(frame))
        ack = json.loads(frame).get("ack")
        if ack:
            self._began_s.setdefault(int(ack["sequence"]), time.monotonic())

    @property
    def playbacks(self) -> list[dict[str, Any]]:
        """What the page said that its player has, in its acks."""
        acks = [json.loads(text).get("ack", {}) for text in self.sent]
        return [ack["playback"] for ack in acks if "playback" in ack]

    def has_been_late(self) -> bool:
        """Whether a segment came when the one before it was over, or nearly: then no page can play on."""
        return any(
            self._came_s[sequence + 1] > began_s + SEGMENT_S - NEARLY_S
            for sequence, began_s in self._began_s.items()
            if sequence + 1 in self._came_s
        )

    def find(self, selector: str) -> Locator:
        return self.page.locator(selector)

    async def start(self, prompt: str) -> None:
        """And wait until it plays."""
        await self.send(prompt)
        await self.until_playing()

    async def send(self, prompt: str) -> None:
        await self.page.fill("#prompt", prompt)
        await self.page.click("#send")

    async def end(self) -> None:
        await self.page.click("#end")
        await self.page.click("#end-sure")
        await self.until_text("#send", "Start")

    async def until(self, condition: str, value: Any = None) -> None:
        """Of JavaScript: a function of `value`."""
        await self.page.wait_for_function(condition, arg=value, polling=100)

    async def until_state(self, *states: str) -> None:
        """One that is active may buffer, on a machine that is busy."""
        if "active" in states:
            states = (*states, "buffering", "behind")
        await self.until("states => states.includes(document.querySelector('#state').dataset.state)", states)

    async def until_text(self, selector: str, text: str) -> None:
        await expect(self.find(selector)).to_have_text(text, timeout=WAIT_S * 1000)

    async def until_time(self, seconds: float) -> None:
        """Of the session's clock, on the screen."""
        await self.until("seconds => times()[0] >= seconds", seconds)

    async def until_playing(self, seconds: float = 1.0) -> None:
        """For so long from now."""
        await self.until_time(await self.time() + seconds)

    async def until_notice(self, selector: str) -> Locator:
        found = self.find(f"#notices {selector}").first
        await found.wait_for()
        return found

    async def until_problem(self) -> str:
        """The text of the message."""
        await self.find("#problem").wait_for()
        return await self.find("#problem").inner_text()

    async def until_applied(self, number: int = 1) -> Locator:
        """The mark on the timeline of that switch."""
        marks = self.find("#timeline [data-request-id][data-state=applied]")
        await marks.nth(number - 1).wait_for(state="attached")
        return marks.nth(number - 1)

    async def until_colour(self, name: str) -> None:
        """Until most of what has a colour in the picture has this one: red, green or blue."""
        await self.until(
            f"name => {{ const found = ({PIXELS})(screens()[0]);"
            " const all = found.red + found.green + found.blue;"
            " return found[name] > 20 && found[name] > 0.8 * all; }",
            name,
        )

    async def pixels(self) -> dict[str, int]:
        """How many of 2304 are of which colour, and a hash of all."""
        return dict(await self.page.evaluate(f"() => ({PIXELS})(screens()[0])"))

    async def time(self) -> float:
        """Once a picture shows; in one question, since a screen may go between two."""
        found = await self.page.wait_for_function("() => times()[0] || false", polling=100)
        return float(await found.json_value())

    async def until_picture(self) -> str:
        """Its size, once there is one, be it a still one."""
        await self.page.wait_for_selector("#cover", state="hidden")
        return str(await self.page.evaluate("() => sizes()[0]"))

    async def figure(self, name: str) -> str:
        return await self.find(f"[data-figure={name}]").inner_text()

    async def viewer_link(self) -> str:
        """As Share shows it."""
        await self.page.click("#share")
        await self.find("#share-link").wait_for()
        return await self.find("#share-link").input_value()

    async def witness(self) -> dict[str, float]:
        return dict(await self.page.evaluate("() => window.witness"))

    async def picture(self, name: str) -> None:
        """Kept for people to look at."""
        await self.page.screenshot(path=f"{self._picture}-{name}.png")
