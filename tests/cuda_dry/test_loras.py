"""LoRAs beside the weights at full size: a pass takes as much more as the planner says; nothing waits."""

from typing import Any

import pytest
import torch

from benchmarks.trace.cases import counting_cuda
from cascade_core.config import find_card
from cascade_core.planning.low_rank import Loras
from tests.cuda_dry.support import full_bank, rank, shallow

RANKS = (64, 64)
BOTH = ((0, 0.8), (1, -1.0))
ONE = ((0, 1.0),)


@pytest.mark.parametrize(("model", "quantize"), [("self-forcing-1.3b", "none"), ("krea-14b", "fp8")])
def test_a_pass_takes_what_the_planner_says_more(model: str, quantize: Any) -> None:
    """Block by block, so that a tick is a pass; the last is one in which nothing is put together anew."""
    card = shallow(model)
    found = []
    for choices in ((), (BOTH,)):
        with rank(card, stagger=card.sampling.num_passes, lora_ranks=RANKS, quantize=quantize) as made:
            made.run(2, choices=choices)
            made.check()
            found.append(made.counts[-1])
    plain, more = found
    loras, tokens = Loras(2, 64), card.tokens_per_block(card.video.height, card.video.width)
    assert more.matmul_flop - plain.matmul_flop == loras.flop(card.transformer, tokens)
    assert more.kernels - plain.kernels == loras.num_kernels(card.transformer)
    assert more.casts == plain.casts


def test_blocks_in_flight_whose_loras_differ_wait_for_nothing() -> None:
    """As a switch in each mode leaves them; and back to none."""
    choices = (ONE, (), BOTH, ())
    with rank(shallow("longlive-1.3b"), lora_ranks=RANKS) as made:
        made.run(7, {3: (1, "immediate"), 11: (2, "recache"), 19: (3, "boundary")}, choices=choices)
        made.check()


def test_what_is_listed_takes_the_memory_that_the_planner_says() -> None:
    card = find_card("self-forcing-1.3b")
    with counting_cuda() as counter:
        bank = full_bank(card, RANKS, torch.bfloat16)
        listed = counter.live_bytes
        low = bank.low_ranks([BOTH])
        together = counter.live_bytes
    assert low
    told = Loras(2, 64).memory_bytes(card.transformer)
    assert listed <= together <= told * 1.01, "and a rank of zeros for what a choice leaves out"
    assert listed >= told * 0.49
    assert bank.num_bytes + bank.copied_bytes == told
