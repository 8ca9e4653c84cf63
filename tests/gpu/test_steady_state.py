"""Once the window is full: no tick waits for the device, and memory stays where it is."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from benchmarks.emulated import EmulatedExchange
from benchmarks.gpu.steady_session import SteadySession
from cascade_core.attention.exchange import Exchange, SoloExchange
from cascade_core.ranks.runner import Runner
from cascade_core.schedule import Shape
from tests.gpu.support import placed_model, small_card

NUM_PASSES = 5
setups = pytest.mark.parametrize("ranks", [1, 5], ids=["sequential", "one of five ranks"])


def steady_session(ranks: int, device: torch.device) -> SteadySession:
    card = small_card(sink_blocks=1, window_blocks=3, rope="window")
    exchange: Exchange = SoloExchange() if ranks == 1 else EmulatedExchange(ranks, 0, device)
    shape = Shape(NUM_PASSES, NUM_PASSES if ranks == 1 else 1, ranks, card.window)
    model = placed_model(card, device, torch.bfloat16)
    return SteadySession(card, Runner(model, card, shape, 0, exchange))


@contextmanager
def no_waiting() -> Iterator[None]:
    """PyTorch raises where the host would wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@setups
def test_no_tick_waits_for_the_device(ranks: int, device: torch.device) -> None:
    session = steady_session(ranks, device)
    for _ in range(2 * NUM_PASSES):
        plan = session.plan()
        with no_waiting():
            session.tick(plan)


def test_the_check_itself_works(device: torch.device) -> None:
    with pytest.raises(RuntimeError), no_waiting():
        torch.ones(1, device=device).item()


@setups
def test_memory_stays_flat(ranks: int, device: torch.device) -> None:
    """Compared after whole rounds of passes: within one, noisy and clean latents come and go."""
    session = steady_session(ranks, device)
    held: set[tuple[int, int]] = set()
    for tick in range(200 + 4 * NUM_PASSES):
        session.tick(session.plan())
        if tick % NUM_PASSES == 0 and tick >= 4 * NUM_PASSES:
            torch.cuda.synchronize()
            held.add((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
    assert len(held) == 1, held
