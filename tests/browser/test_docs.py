"""The API reference: every call and every message of the served document, for people."""

from playwright.async_api import expect

from services.web.openapi import document
from tests.browser.conftest import Enter, OpenPage
from tests.browser.places import open_town
from tests.browser.visit import WAIT_S
from tests.services.support.nginx import needs_nginx, nginx


@needs_nginx
async def test_the_session_page_leads_to_every_call_and_message(enter: Enter, visit: OpenPage) -> None:
    """Under a path of a proxy, where an address that begins with `/` leads nowhere."""
    place = await enter(open_town())
    with nginx(f"{place.url}/", path="/cascade/") as port:
        page = await visit(f"http://127.0.0.1:{port}/cascade/")
        await page.page.click("a:has-text('API')")
        await expect(page.find("#createSession")).to_contain_text(
            "Asks for a session.", timeout=WAIT_S * 1000
        )
        openapi = document()
        calls = [each["operationId"] for verbs in openapi["paths"].values() for each in verbs.values()]
        shown = await page.page.eval_on_selector_all("section", "all => all.map(each => each.id)")
        assert shown == ["about", *calls, *openapi["components"]["schemas"]]
        links = await page.page.eval_on_selector_all("main a", "all => all.map(each => each.hash.slice(1))")
        assert {*links} == {*shown}


async def test_an_address_leads_to_one_message(enter: Enter, visit: OpenPage) -> None:
    place = await enter(open_town())
    page = await visit(f"{place.url}/docs#SessionSpec")
    section = page.find("#SessionSpec")
    await expect(section).to_be_in_viewport(timeout=WAIT_S * 1000)
    await expect(section).to_contain_text("1 to 120; 0: what the model was trained for")
