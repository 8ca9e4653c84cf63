"""How often a tick attends, turns the sink and copies keys, once the window is full."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from cascade_core.attention import joint_attention, kv_cache
from tests.support import Drive, make_runner, tiny_card

NUM_LAYERS, NUM_PASSES = 2, 5


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Calls of the functions that cost time."""
    counts: Counter[str] = Counter()
    for module, name in ((joint_attention, "attend_partial"), (kv_cache, "rotate")):
        original = getattr(module, name)

        def call(*arguments: Tensor, name: str = name, original: object = original) -> object:
            counts[name] += 1
            return original(*arguments)

        monkeypatch.setattr(module, name, call)
    return counts


@torch.inference_mode()
def steady(counted: Counter[str], stagger: int, **window: object) -> Counter[str]:
    """Calls in the ticks from one block to the next."""
    drive = Drive.open(make_runner(tiny_card(**window), stagger))
    for _ in range(8 * stagger):
        drive.tick()
    counted.clear()
    for _ in range(stagger):
        drive.tick()
    return counted


def test_a_block_alone_attends_to_its_window_and_itself_in_one_call(counted: Counter[str]) -> None:
    assert steady(counted, NUM_PASSES) == {"attend_partial": NUM_LAYERS * NUM_PASSES}


def test_the_sink_that_moves_is_in_the_same_call_and_turned_once_a_block(counted: Counter[str]) -> None:
    counts = steady(counted, NUM_PASSES, window_blocks=3, sink_blocks=1, rope="window")
    assert counts == {"attend_partial": NUM_LAYERS * NUM_PASSES, "rotate": NUM_LAYERS}


def test_another_window_of_the_context_pass_moves_it_besides(counted: Counter[str]) -> None:
    window = {"window_blocks": 3, "sink_blocks": 1, "context_window_blocks": 1, "rope": "window"}
    assert steady(counted, NUM_PASSES, **window)["rotate"] == 2 * NUM_LAYERS
