"""The operator page: what runs, who waits, and what goes away."""

import re

from playwright.async_api import expect

from cascade.v1 import stage_pb2, stage_pb2_grpc
from tests.browser.conftest import Enter, OpenPage
from tests.browser.places import open_town
from tests.browser.visit import WAIT_S
from tests.services.support.gateway_support import fresh_id, open_channel


async def test_it_shows_machines_queue_and_sessions_and_follows_a_drain(
    enter: Enter, visit: OpenPage
) -> None:
    place = await enter(open_town(capacity=1, loras={"ink": "i1", "neon": "n1"}))
    page = await visit(f"{place.url}/operator")
    stage = page.find(f"#stages [data-address='{place.stage.address}']")
    await stage.wait_for()
    await page.find(f"#decoders [data-address='{place.decoder.address}']").wait_for()
    await expect(stage).to_contain_text("LoRA: ink, neon")
    names = [await place.anybody.name(loras=[{"name": "ink", "scale": 0.5}]) for _ in range(3)]
    for name in names:
        await expect(page.find(f"#sessions [data-name='{name}']")).to_contain_text("ink 0.5")
    await expect(page.find("#queue")).to_contain_text(re.compile(r"(^|\D)2(\D|$)"), timeout=WAIT_S * 1000)
    await page.picture("busy")
    before = await stage.inner_text()
    assert "drain" not in before.lower()
    async with open_channel(int(place.stage.address.rpartition(":")[2])) as channel:
        request = stage_pb2.StageServiceDrainRequest(request_id=fresh_id())
        await stage_pb2_grpc.StageServiceStub(channel).Drain(request, timeout=5)
    await expect(stage).to_contain_text(re.compile("drain", re.IGNORECASE), timeout=WAIT_S * 1000)
    await page.picture("draining")
    await place.stage.kill()
    await expect(stage).to_contain_text(re.compile("lost|gone", re.IGNORECASE), timeout=WAIT_S * 1000)
    await page.picture("lost")


async def test_it_asks_for_a_key_and_is_for_operators_alone(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town(tenants=("acme", "other"), operator_tenants=["acme"]))
    page = await visit(f"{place.url}/operator", allow=("status of 40",))
    await page.find("#key-dialog[open]").wait_for()
    await page.page.fill("#key", "key-other")
    await page.page.press("#key", "Enter")
    assert await page.until_problem()
    mine = await visit(f"{place.url}/operator", allow=("status of 401",))
    await mine.page.fill("#key", "key-acme")
    await mine.page.press("#key", "Enter")
    await mine.find("#stages [data-address]").wait_for()
