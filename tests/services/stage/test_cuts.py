"""Scene cuts at a stage: as switches, as the timeline's, and of a session that goes on after them."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import torch

from cascade.v1 import common_pb2
from tests.services.support.stage_support import MANY, PROMPT, Running, serving, stage_settings
from tests.support import write_card

pytestmark = pytest.mark.asyncio(loop_scope="module")
CUT = common_pb2.SWITCH_MODE_CUT
SHOTS = {0: PROMPT, 2: "a blue square moves right"}
SMALL = {"block_frames": 1, "window_blocks": 3, "sink_blocks": 1, "in_channels": 16, "text_len": 512}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    card = write_card(
        tmp_path_factory.mktemp("card") / "tiny.toml", rope="window", shot_shift_frames=2, **SMALL
    )
    async with serving(stage_settings(card, stage={"stagger": 5})) as running:
        yield running


async def test_it_goes_on_from_the_shots_first_block(stage: Running) -> None:
    """The newest shot began with block 2, which blocks from 5 on see beside the ones right before them."""
    info = (await stage.status()).model
    assert info.scene_cuts
    whole = await stage.opened(prompts=SHOTS, switch_mode=CUT, num_blocks=8, credit_end_block=MANY)
    messages = await whole.rest()
    expected = whole.latents(message.block for message in messages if message.HasField("block"))
    (receipt,) = [message.prompt_applied for message in messages if message.HasField("prompt_applied")]
    assert (receipt.first_block_touched, receipt.first_block_full) == (2, 2)
    context = {block: expected[block] for block in stage.engine.context_blocks(3, (2,))}
    asked = {
        "start_block": 3,
        "context": context,
        "num_blocks": 5,
        "credit_end_block": MANY,
        "prompts": SHOTS,
    }
    for cuts in ([2], []):
        again = await stage.opened(cuts=cuts, **asked)
        found = await again.blocks(5)
        same = [torch.allclose(found[block], expected[block], rtol=1e-4, atol=1e-4) for block in range(3, 8)]
        assert same == ([True] * 5 if cuts else [True, True, False, False, False])
        await again.rest()


async def test_a_switch_may_cut(stage: Running) -> None:
    stream = await stage.opened(num_blocks=4)
    await stream.switch("s1", mode=CUT, at_block=2)
    await stream.expect("switch_accepted")
    await stream.switch("s2", mode=CUT, transition={"num_blocks": 2})
    refused = await stream.expect("switch_refused")
    assert "mode: a cut has no transition" in refused.status.message
    await stream.credit(MANY)
    messages = await stream.rest()
    (receipt,) = [message.prompt_applied for message in messages if message.HasField("prompt_applied")]
    assert receipt.first_block_touched == 2
