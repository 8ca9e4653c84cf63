"""The demo model's sessions that are opened again in the middle: what blocks before the window are worth."""

import torch

from cascade_core.config import find_card
from cascade_core.schedule import context_blocks
from demo_world.experiments import steady_takes
from demo_world.resume import load_player
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
