"""A Chromium for all tests of a run, and pages in it that complain of whatever should not be."""

import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.browser.visit import WAIT_S, Visit

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
OPTIONS = ("--autoplay-policy=no-user-gesture-required", "--mute-audio")
PICTURES = Path("out/browser")
needs_browser = pytest.mark.skipif(
    PROGRAM is None, reason=f"needs Chromium: Debian's package chromium, or another of {', '.join(NAMES)}"
)
LOOP: Any = pytest.mark.asyncio(loop_scope="session")
NO_ROUTES: Mapping[str, Any] = {}
SIZE: Mapping[str, Any] = {"viewport": {"width": 1280, "height": 800}}
Enter = Callable[[AbstractAsyncContextManager[Any]], Awaitable[Any]]
OpenPage = Callable[..., Awaitable[Visit]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser belongs to one event loop, so all tests here run in one."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(needs_browser)
            if pytest_asyncio.is_async_test(item):
                item.add_marker(LOOP, append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=PROGRAM, args=list(OPTIONS))
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def enter() -> AsyncIterator[Enter]:
    """`await enter(manager)` is `async with`, to the end of the test and of its pages."""
    async with AsyncExitStack() as stack:
        yield stack.enter_async_context


@pytest_asyncio.fixture(loop_scope="session")
async def visit(chromium: Browser, enter: Enter, request: pytest.FixtureRequest) -> AsyncIterator[OpenPage]:
    """`await visit(url)` opens it in a browser context of its own. At the end each page leaves a picture, and
    what a page complained of fails the test, unless a pattern of `allow` fits. `player`: which one it is to
    use. `routes`: as Playwright's."""
    name = re.sub(r"[^\w-]+", "-", request.node.name.removeprefix("test_"))
    visits: list[Visit] = []
    async with AsyncExitStack() as stack:

        async def open_page(
            url: str,
            *,
            player: str = "",
            allow: Sequence[str] = (),
            routes: Mapping[str, Any] = NO_ROUTES,
            **options: Any,
        ) -> Visit:
            url = urlsplit(url)._replace(query=f"player={player}").geturl() if player else url
            context = await chromium.new_context(**(SIZE | options))
            stack.push_async_callback(context.close)
            context.set_default_timeout(WAIT_S * 1000)
            number = f"-{len(visits) + 1}" if visits else ""
            found = Visit(await context.new_page(), url, allow, PICTURES / f"{name}{number}")
            visits.append(found)
            for pattern, answer in routes.items():
                await found.page.route(pattern, answer)
            await found.open(url)
            return found

        yield open_page
        for each in visits:
            await each.picture("end")
    for each in visits:
        each.check()
