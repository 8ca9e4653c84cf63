"""What the engine's page shows works as printed."""

import re
import subprocess
import sys

from cascade_core.config import find_card
from tests.paths import ROOT

ENGINE = ROOT / "docs/engine.md"


def test_the_library_example() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", ENGINE.read_text(), re.DOTALL)
    result = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    card = find_card("demo")
    shape = card.latent_shape(card.video.height, card.video.width)
    assert [line for line in lines if line[0].isdigit()] == [f"{n} {shape}" for n in range(9)]
    assert sum("new prompt shows from block" in line for line in lines) == 1
