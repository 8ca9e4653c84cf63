"""The demo model's sessions that are opened again in the middle: what blocks before the window are worth."""

from pathlib import Path

import pytest
import torch

from cascade_core.config import find_card
from cascade_core.schedule import context_blocks
from demo_world.experiments import steady_takes
from demo_world.resume import load_player, main
from tests.support import relative_error

FIRST = 8


@torch.inference_mode()
def test_a_sequential_session_goes_on_as_it_was_where_all_its_latents_are_kept() -> None:
    card = find_card("demo")
    player = load_player(card)
    (take,) = steady_takes(1, FIRST + 1)
    whole = player.play(take, 5, {})
    window = context_blocks(card.window, FIRST)
    assert len(window) < FIRST

    def off_by(blocks: list[int]) -> float:
        context = {block: whole[block] for block in blocks}
        return relative_error(player.play(take, 5, context, FIRST)[FIRST], whole[FIRST])

    assert off_by([*range(FIRST)]) < 1e-5 < off_by(window) < 3e-2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--json", "{folder}/figures.txt"], "must end in .json"),
        (["--json", "{folder}/none/figures.json"], "does not exist"),
        (["--json", "{folder}/figures.json", "--checkpoint", "{folder}/none"], "no such folder"),
        (["--json", "{folder}/figures.json", "--clips", "0"], "1..10000"),
        (["--json", "{folder}/figures.json", "--staggers", "6"], "1..5"),
    ],
)
def test_what_is_wrong_is_said_before_the_work(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([argument.format(folder=tmp_path) for argument in arguments])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.startswith(("demo_world.resume: ", "python -m demo_world.resume: "))
    assert len(printed.splitlines()) == 1
