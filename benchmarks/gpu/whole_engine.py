"""The engine as a service runs it: rank processes, one per GPU, their real exchange, and all that travels."""

import time

import torch

from benchmarks.gpu.samples import Row
from cascade_core.config import EngineConfig, ModelCard, Quantize, find_card, make
from cascade_core.engine.engine import Engine
from cascade_core.engine.session import LatentBlock
from cascade_core.request import SessionRequest

PROMPT = {0: "a red circle moves left"}


def engine_setups(num_passes: int, num_gpus: int) -> list[tuple[int, int]]:
    """Ranks and stagger: the sequential pipeline first, to compare with, then from the most GPUs down."""
    several = [(ranks, 1) for ranks in range(num_passes, 1, -1) if ranks <= num_gpus]
    return [(1, num_passes), *several, (1, 1)]


async def measure_engine(
    model: str, device: torch.device, setup: tuple[int, int], repeats: int, quantize: Quantize = "none"
) -> Row:
    """Seconds to start, to the first block, and per block once window and pipeline are full."""
    card = find_card(model)
    num_ranks, stagger = setup
    values = {"model": model, "weights": "random", "device": device.type, "quantize": quantize}
    config = make(EngineConfig, values | {"num_ranks": num_ranks, "stagger": stagger})
    started = time.monotonic()
    async with await Engine.start(config) as engine:
        ready = time.monotonic()
        finished = await block_times(engine, card, repeats)
    blocks = len(finished) - 1 - warm_up(card)
    block_s = (finished[-1] - finished[warm_up(card)]) / blocks
    return {
        "ranks": num_ranks,
        "stagger": stagger,
        "start_s": ready - started,
        "first_block_s": finished[0] - ready,
        "block_ms": 1e3 * block_s,
        "fps": card.num_frames(1) / block_s,
    }


def warm_up(card: ModelCard) -> int:
    """Blocks until window and pipeline are full."""
    return card.window.sink_blocks + card.window.window_blocks + card.sampling.num_passes


async def block_times(engine: Engine, card: ModelCard, repeats: int) -> list[float]:
    session = await engine.open(SessionRequest(PROMPT, num_blocks=warm_up(card) + repeats + 1))
    return [event.timing.finished_s async for event in session if isinstance(event, LatentBlock)]
