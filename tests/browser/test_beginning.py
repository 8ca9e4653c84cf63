"""A picture or a clip to begin from: picked, dropped, pasted, looked at, taken away, sent."""

import base64
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.browser.conftest import Enter, OpenPage
from tests.browser.places import open_town
from tests.browser.visit import Visit
from tests.services.support.fake_decoder import UNUSABLE

GIVE = """([how, name, type, text]) => {
  const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  const event = how === "paste"
    ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true })
    : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.querySelector("#screen").dispatchEvent(event);
}"""


def picture(form: str = "PNG") -> bytes:
    file = BytesIO()
    Image.fromarray(np.full((40, 60, 3), (200, 30, 30), np.uint8)).save(file, form)
    return file.getvalue()


def payload(name: str, kind: str, content: bytes) -> Any:
    return {"name": name, "mimeType": kind, "buffer": content}


async def give(page: Visit, how: str, name: str, kind: str, content: bytes) -> None:
    if how == "pick":
        await page.page.set_input_files("#start-file", payload(name, kind, content))
    else:
        await page.page.evaluate(GIVE, [how, name, kind, base64.b64encode(content).decode()])


@pytest.mark.parametrize("how", ["pick", "drop", "paste"])
async def test_a_picture_is_seen_and_sent(enter: Enter, visit: OpenPage, how: str) -> None:
    place = await enter(open_town())
    page = await visit(place.url)
    await page.find("#start-pick").wait_for()
    await give(page, how, "cat.webp", "image/webp", picture("WEBP"))
    await page.until("() => document.querySelector('#start-picture').naturalWidth === 60")
    assert await page.find("#start-name").inner_text() == "cat.webp"
    assert await page.find("#start-note").inner_text() == "Made-up latents go on from anything."
    assert not await page.find("#start-last").is_visible(), "that is for clips"
    await page.start("a red circle moves left")
    (asked,) = place.decoder.encoded
    assert asked.file.image == picture("WEBP")
    assert page.sequences[0] == 1
    assert (await page.witness())["back"] == 0
    await page.end()


async def test_a_clip_has_its_own_wishes_and_can_be_taken_away(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url, allow=("Failed to load resource", "ERR_"))
    await page.find("#start-pick").wait_for()
    await give(page, "pick", "clip.mp4", "video/mp4", b"abcde")
    await page.find("#start-clip").wait_for()
    await page.page.fill("#start-last", "2.5")
    await page.page.select_option("#start-fit", "FIT_PAD")
    await page.page.check("#start-shown")
    await page.start("a red circle moves left")
    (asked,) = place.decoder.encoded
    assert (asked.file.video, asked.file.fit) == (b"abcde", 2)
    assert (asked.file.last.seconds, asked.file.last.nanos) == (2, 500_000_000)
    await page.end()
    await page.page.click("#start-remove")
    assert not await page.find("#start-box").is_visible()
    await page.start("a blue square")
    assert len(place.decoder.encoded) == 1
    await page.end()


async def test_what_is_wrong_with_a_file_is_said(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(place.url, allow=("status of 4", "Failed to load resource", "ERR_"))
    await page.find("#start-pick").wait_for()
    for name, kind, content, told in (
        ("notes.txt", "text/plain", b"x", "notes.txt: must be a PNG, JPEG or WebP picture, or an MP4 clip."),
        ("large.png", "image/png", bytes(9 * 2**20), "large.png: has 9.0 MiB, more than the 8 MiB"),
        ("none.png", "image/png", b"", "none.png: is empty."),
    ):
        await give(page, "pick", name, kind, content)
        await page.until("told => document.querySelector('#problem').innerText.includes(told)", told)
    await give(page, "pick", "bad.mp4", "video/mp4", UNUSABLE)
    await page.send("a red circle")
    assert await page.until_problem() == "Clip to begin from: is no MP4."
    assert await page.find("#state").get_attribute("data-state") == "none"
