"""LoRAs of an engine with real ranks: sessions that differ, changes on the way, going on from latents."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cascade_core.engine.engine import Engine
from cascade_core.engine.session import LatentBlock, PromptApplied
from cascade_core.errors import InvalidRequest, WeightsError
from cascade_core.loras import LoraChoice
from cascade_core.request import SessionRequest
from tests.engine_support import PROMPT, assert_same, collect, generate, latents_of, running_engine
from tests.support import relative_error

pytestmark = pytest.mark.usefixtures("nothing_left")
INK, CLAY = LoraChoice("ink", 0.8), LoraChoice("clay", -1.0)


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Files for the tiny card: one of all its layers' Linears, one of a single one, of rank 1."""
    folder, generator = tmp_path_factory.mktemp("loras"), torch.Generator().manual_seed(0)
    sides = {"ffn.0": (32, 64), "ffn.2": (64, 32)}

    def save(name: str, targets: list[str], rank: int) -> dict[str, Any]:
        tensors = {}
        for target in targets:
            fan_in, fan_out = sides.get(target, (32, 32))
            for layer in (0, 1):
                key = f"diffusion_model.blocks.{layer}.{target}"
                tensors[f"{key}.lora_A.weight"] = torch.randn(rank, fan_in, generator=generator) / 4
                tensors[f"{key}.lora_B.weight"] = torch.randn(fan_out, rank, generator=generator)
        save_file(tensors, folder / f"{name}.safetensors")
        return {"name": name, "path": str(folder / f"{name}.safetensors"), "licence": "MIT"}

    attentions = [f"{attention}.{part}" for attention in ("self_attn", "cross_attn") for part in "qkvo"]
    return [save("ink", [*attentions, "ffn.0", "ffn.2"], 3), save("clay", ["ffn.2"], 1)]


CHANGING = SessionRequest(
    {0: PROMPT, 3: "a blue square bounces", 6: "a green star"},
    seed=7,
    num_blocks=9,
    loras={0: (INK,), 6: (INK, CLAY)},
)


async def play(
    engine: Engine, request: SessionRequest
) -> tuple[dict[int, torch.Tensor], list[PromptApplied]]:
    events = await collect(await engine.open(request))
    return latents_of(events), [event for event in events if isinstance(event, PromptApplied)]


async def test_sessions_of_one_engine_differ_and_every_size_agrees(
    card: Path, loras: list[dict[str, Any]]
) -> None:
    async with running_engine(card) as engine:
        plain = await generate(engine, 4)
    async with running_engine(card, loras=loras) as engine:
        assert_same(await generate(engine, 4), plain)
        changing, receipts = await play(engine, CHANGING)
        assert [receipt.loras for receipt in receipts] == [(INK,), (INK, CLAY)], "a prompt without keeps them"
        inked = await generate(engine, 4, loras={0: (INK,)})
        assert all(relative_error(inked[block], plain[block]) > 0.01 for block in plain)
        await goes_on(engine, changing)
    async with running_engine(card, loras=loras, num_ranks=2) as engine:
        others, _ = await play(engine, CHANGING)
    assert list(others) == list(changing)
    assert all(relative_error(others[block], changing[block]) < 1e-4 for block in changing)


async def goes_on(engine: Engine, made: dict[int, torch.Tensor]) -> None:
    """A session opened from what one made, under its prompts, changes its LoRAs as that one did."""
    context = {block: made[block] for block in engine.context_blocks(4)}
    request = SessionRequest(
        CHANGING.prompts, seed=7, num_blocks=5, loras=CHANGING.loras, start_block=4, context=context
    )
    first, receipts = await play(engine, request)
    assert [receipt.loras for receipt in receipts] == [(INK, CLAY)]
    without = await generate(engine, 5, prompts=CHANGING.prompts, start_block=4, context=context)
    assert relative_error(first[4], without[4]) > 0.01


async def test_a_switch_changes_them_or_keeps_them(card: Path, loras: list[dict[str, Any]]) -> None:
    async with running_engine(card, loras=loras) as engine:
        session = await engine.open(SessionRequest({0: PROMPT}, num_blocks=8, credit=0))
        with pytest.raises(InvalidRequest, match=r"^loras: 'wool' is not one of ink, clay$"):
            await session.switch("a star", loras=(LoraChoice("wool"),))
        for block, chosen in ((2, (INK,)), (4, None), (6, ())):
            await session.switch("a blue square", "boundary", f"at-{block}", block, chosen)
        session.grant(8)
        events = await collect(session)
        receipts = {event.request_id: event for event in events if isinstance(event, PromptApplied)}
        assert {name: receipt.loras for name, receipt in receipts.items()} == {
            "at-2": (INK,), "at-4": (INK,), "at-6": (),
        }  # fmt: skip
        for wrong, complaint in (
            ({0: (INK, CLAY, INK)}, r"^loras: 'ink' comes twice$"),
            ({1: (INK,)}, r"^loras: block 1 has no prompt, which they would come with$"),
            ({0: (LoraChoice("ink", 9.0),)}, r"^loras: the scale 9 of ink is not in -4\.\.4$"),
        ):
            with pytest.raises(InvalidRequest, match=complaint):
                await engine.open(SessionRequest({0: PROMPT}, loras=wrong))
        assert engine.status.num_sessions == 0
        assert sum(isinstance(event, LatentBlock) for event in events) == 8


async def test_a_file_that_cannot_be_used_ends_the_start(card: Path, tmp_path: Path) -> None:
    save_file({"blocks.0.norm3.diff": torch.ones(32)}, tmp_path / "style.safetensors")
    listed = [{"name": "style", "path": str(tmp_path / "style.safetensors")}]
    with pytest.raises(WeightsError, match=r"style\.safetensors: blocks\.0\.norm3\.weight: a whole diff"):
        async with running_engine(card, loras=listed):
            pass
