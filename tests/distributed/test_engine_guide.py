"""What the engine's documents show works as printed."""

import re
import subprocess
import sys

import pytest

from cascade_core.config import find_card
from tests.paths import ROOT

ENGINE, README = ROOT / "docs/engine.md", ROOT / "cascade_core/README.md"


def test_the_library_example() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", ENGINE.read_text(), re.DOTALL)
    lines = printed(example)
    card = find_card("demo")
    shape = card.latent_shape(card.video.height, card.video.width)
    assert [line for line in lines if line[0].isdigit()] == [f"{n} {shape}" for n in range(9)]
    assert sum("new prompt shows from block" in line for line in lines) == 1


@pytest.mark.slow
def test_the_example_of_the_published_library() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert [line.split()[0] for line in printed(example)] == [str(number) for number in range(8)]


def printed(example: str) -> list[str]:
    command = [sys.executable, "-c", example]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()
