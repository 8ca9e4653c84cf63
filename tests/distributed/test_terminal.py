"""`cascade-engine` and the demo in a terminal, narrow and wide: what a person sees of them."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from cascade_core.commands.cli import build_parser
from cascade_core.commands.listing import list_models
from tests.conftest import Open
from tests.distributed.test_cli import COMMAND, ENVIRONMENT, SMALL, left_running
from tests.services.support.fake_gateway import BLOCK_FRAMES, serving
from tests.terminal import CTRL_C

DEMO = """
import contextlib, sys
from demo_world import demo

gateway = sys.argv.pop()

@contextlib.asynccontextmanager
async def made_up(*_):
    yield gateway

demo.running_system = made_up
demo.main()
"""


@pytest.mark.parametrize(
    "columns", [40, *(pytest.param(columns, marks=pytest.mark.slow) for columns in (80, 200))]
)
def test_generate_draws_one_bar_and_whole_lines(terminal: Open, tmp_path: Path, columns: int) -> None:
    latents = tmp_path / "a.safetensors"
    shown = terminal(*COMMAND, *SMALL, "--latents", latents, columns=columns, environment=ENVIRONMENT)
    assert shown.finish() == 0, shown.text()
    about, random, bar, figures, _ = shown.lines
    assert about.startswith("demo: ")
    assert random.startswith("Random weights: ")
    assert bar == shown.bar()
    assert bar.startswith("generating: 100%|")
    assert figures.startswith("3 blocks, 33 frames, ")
    assert figures.endswith(str(latents))


def test_ctrl_c_ends_generate_and_leaves_nothing_behind(terminal: Open, tmp_path: Path) -> None:
    long = (*SMALL[:-1], 2000)
    shown = terminal(*COMMAND, *long, "-o", tmp_path / "x.mp4", columns=40, environment=ENVIRONMENT)
    shown.until("generating:")
    shown.press(CTRL_C)
    assert shown.finish() == 130, shown.text()
    assert shown.text().rstrip().endswith("cascade-engine: stopped")
    assert "Traceback" not in shown.text()
    assert "resource_tracker" not in shown.text()
    assert list(tmp_path.iterdir()) == []
    assert not left_running()


@pytest.mark.parametrize("columns", [40, pytest.param(200, marks=pytest.mark.slow)])
async def test_the_demo_draws_a_bar_for_each_video(terminal: Open, tmp_path: Path, columns: int) -> None:
    """Between made-up services."""
    async with serving() as gateway:
        demo = (sys.executable, "-c", DEMO, "--out", tmp_path, gateway.address)
        shown = terminal(*demo, columns=columns, environment=os.environ)
        assert await asyncio.to_thread(shown.finish) == 0, shown.text()
    first, cascade, second, sequential, *said, look, _ = shown.lines
    assert (first, second) == (
        "demo.mp4: starting the services", "demo-sequential.mp4: starting the services"
    )  # fmt: skip
    for bar, name in ((cascade, "demo.mp4"), (sequential, "demo-sequential.mp4")):
        assert bar.startswith(f"{name}: 100%|"), shown.text()
        assert len(bar) <= columns, shown.text()
    assert [line.split()[:2] for line in said] == [
        [name, str(28 * BLOCK_FRAMES - 3)] for name in ("cascade", "sequential")
    ]
    assert look.startswith("Look at ")


def test_models_are_listed_within_the_terminal(terminal: Open) -> None:
    """Only an address that is longer than a row goes on in the next; in a file every line stays one."""
    shown = terminal(*COMMAND, "models", columns=40, environment=ENVIRONMENT)
    assert shown.finish() == 0
    assert [line for line in shown.lines if len(line) > 40 and len(line.split()) > 1] == []
    assert " ".join(shown.text().split()) == " ".join(list_models(None, as_json=False).split())


def test_help_fits_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for arguments in ([], ["generate"], ["models"], ["download"], ["bench"], ["plan"]):
        with pytest.raises(SystemExit):
            build_parser().parse_args([*arguments, "--help"])
        usage, *lines = capsys.readouterr().out.splitlines()
        assert usage.startswith(" ".join(["usage: cascade-engine", *arguments]))
        assert not [line for line in lines if len(line) > 40]
