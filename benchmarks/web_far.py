"""A browser far from the machines, behind a long, narrow line that loses packets."""

import asyncio
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import web_page
from tests.browser.line import enter
from tests.browser.namespaces import HERE, program_in, two_namespaces

DELAY_S, LOSS, KBIT_PER_S = 0.08, 0.02, 3000
LINE = f"a line of {1000 * DELAY_S:.0f} ms, {LOSS:.0%} loss and {KBIT_PER_S / 1000:.0f} Mbit/s each way"


def what_is_missing() -> str:
    """Here; empty: nothing."""
    if os.geteuid() != 0 or not shutil.which("ip") or not Path("/dev/net/tun").exists():
        return "needs root, Debian's package iproute2 and /dev/net/tun"
    return ""


async def measure(seconds: float, *, is_just_in_time: bool) -> web_page.Steering:
    """One page there, everything else here."""
    with (
        tempfile.TemporaryDirectory(prefix="cascade-far-") as folder,
        two_namespaces(DELAY_S, LOSS, KBIT_PER_S) as (here, there),
    ):
        program = str(program_in(there, web_page.find_browser(), Path(folder)))

        async def steer() -> web_page.Steering:
            async with web_page.opened(is_just_in_time=is_just_in_time, host=HERE, program=program) as page:
                return await page.measure_switch(1, seconds)

        def in_namespace() -> web_page.Steering:
            enter(here)
            return asyncio.run(steer())

        with ThreadPoolExecutor(1) as pool:  # its thread stays in that namespace
            return await asyncio.get_running_loop().run_in_executor(pool, in_namespace)
