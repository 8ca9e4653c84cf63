"""A browser far from the machines: two network namespaces with a line between them. As root alone."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.browser.conftest import PROGRAM
from tests.browser.namespaces import HERE, program_in, two_namespaces
from tests.browser.places import ONE_RANK
from tests.services.support.ports import free_port
from tests.services.support.system import DECODER, GATEWAY, WAIT_S, Program

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip") or not Path("/dev/net/tun").exists(),
    reason="needs root, Debian's package iproute2 and /dev/net/tun",
)


@dataclass(frozen=True)
class Far:
    """What runs: the machines here, the browser there."""

    url: str
    browser: Path
    """Chromium, there."""
    stages: Sequence[Program]
    decoder: Program


@contextmanager
def far_machines(delay_s: float, loss: float) -> Iterator[Far]:
    """Two stages with the demo model, a decoder, a gateway with WebRTC. The delay is that of each way, and so
    is the loss, a share of the packets."""
    with (
        tempfile.TemporaryDirectory(prefix="cascade-far-") as name,
        two_namespaces(delay_s, loss) as (here, there),
    ):
        folder = Path(name)
        within = ("ip", "netns", "exec", here)
        stages = [Program("stage", number, folder, ONE_RANK, within) for number in range(2)]
        decoder = Program("decoder", 0, folder, DECODER, within)
        port = free_port()
        own = {
            "CASCADE_GATEWAY_STAGES": ",".join(stage.address for stage in stages),
            "CASCADE_GATEWAY_DECODERS": decoder.address,
            "CASCADE_HTTP_HOST": HERE,
            "CASCADE_HTTP_PORT": str(port),
            "CASCADE_HTTP_WEBRTC": "true",
            "CASCADE_HTTP_WEBRTC_HOST": HERE,
        }
        programs = [*stages, decoder, Program("gateway", 0, folder, GATEWAY | own, within)]
        browser = program_in(there, str(PROGRAM), folder)
        try:
            for program in programs:
                program.start()
            far = Far(f"http://{HERE}:{port}", browser, stages, decoder)
            wait_ready(within, f"{far.url}/readyz")
            yield far
        finally:
            for program in programs:
                program.close()


def wait_ready(within: Sequence[str], url: str) -> None:
    give_up_at = time.monotonic() + WAIT_S
    ask = [*within, "python3", "-c", f"import urllib.request as r; r.urlopen({url!r}, timeout=5)"]
    while subprocess.run(ask, stderr=subprocess.DEVNULL, check=False).returncode:
        assert time.monotonic() < give_up_at, f"{url} is not ready"
        time.sleep(0.5)
