"""LoRAs at a stage: which it lists, which it refuses, and what its receipts and blocks say."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cascade.v1 import common_pb2
from tests.engine_support import write_card
from tests.services.common.test_errors import unpacked
from tests.services.support.stage_support import MANY, Running, Stream, serving, stage_settings


def write_lora(path: Path, seed: int = 0) -> Path:
    generator = torch.Generator().manual_seed(seed)
    key = "blocks.0.self_attn.v"
    a, b = (torch.randn(shape, generator=generator) for shape in ((3, 32), (32, 3)))
    save_file({f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}, path)
    return path


def loras(**scales: float) -> common_pb2.LoraSet:
    return common_pb2.LoraSet(loras=[{"name": name, "scale": scale} for name, scale in scales.items()])


async def refused(stream: Stream) -> tuple[str, str]:
    """Field and complaint."""
    await stream.rest()
    found = await stream.details()
    assert found["ErrorInfo"].reason == "INVALID_FIELD"
    violation = found["BadRequest"].field_violations[0]
    return violation.field, violation.description


async def test_a_stage_makes_blocks_with_those_that_it_lists(tmp_path: Path) -> None:
    listed: list[dict[str, Any]] = [
        {"name": "ink", "path": str(write_lora(tmp_path / "ink.safetensors")), "licence": "MIT"},
        {"name": "same", "path": str(write_lora(tmp_path / "same.safetensors")), "commercial_use": True},
        {"name": "clay", "path": str(write_lora(tmp_path / "clay.safetensors", seed=1))},
    ]
    async with serving(stage_settings(write_card(tmp_path), stage={"loras": listed})) as stage:
        info = (await stage.status()).model.loras
        assert [(each.name, each.licence, each.commercial_use) for each in info] == [
            ("ink", "MIT", False), ("same", "unknown", True), ("clay", "unknown", False),
        ]  # fmt: skip
        assert info[0].digest == info[1].digest != info[2].digest
        assert info[0].digest.startswith("sha256:")
        stream = stage.generate()
        await stream.open(loras={1: loras(ink=1)})
        assert await refused(stream) == ("open.loras", "block 1 has no prompt, which they would come with")
        stream = stage.generate()
        await stream.open(loras={0: loras(wool=1)})
        assert await refused(stream) == ("open.loras", "'wool' is not one of ink, same, clay")
        await changes(stage)


async def changes(stage: Running) -> None:
    async def made(**asked: Any) -> torch.Tensor:
        stream = await stage.opened(num_blocks=2, credit_end_block=MANY, **asked)
        blocks = [message.block for message in await stream.rest() if message.HasField("block")]
        return stream.latents(blocks)[1]

    plain, inked = await made(), await made(loras={0: loras(ink=1)})
    assert torch.equal(inked, await made(loras={0: loras(same=1)}))
    assert not torch.equal(inked, plain)
    stream = await stage.opened(num_blocks=6, credit_end_block=0, loras={0: loras(ink=0.5)})
    for request_id, fields in {
        "strange": {"loras": loras(wool=1)},
        "kept": {"at_block": 2},
        "none": {"at_block": 4, "loras": loras()},
    }.items():
        await stream.switch(request_id, **fields)
    await stream.credit(6)
    messages = await stream.rest()
    (refusal,) = [each.switch_refused for each in messages if each.HasField("switch_refused")]
    assert refusal.request_id == "strange"
    violation = unpacked(refusal.status)["BadRequest"].field_violations[0]
    assert (violation.field, violation.description) == (
        "switch_prompt.loras",
        "'wool' is not one of ink, same, clay",
    )
    applied = {each.prompt_applied.request_id: each.prompt_applied for each in messages}
    assert applied["kept"].loras == loras(ink=0.5)
    assert applied["none"].HasField("loras")
    assert not applied["none"].loras.loras


async def test_a_stage_that_lists_none(tmp_path: Path) -> None:
    async with serving(stage_settings(write_card(tmp_path))) as stage:
        stream = stage.generate()
        await stream.open(loras={0: loras(ink=1)})
        assert await refused(stream) == ("open.loras", "'ink' is not here: no LoRA is listed")
