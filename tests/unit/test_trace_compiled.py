"""What compiling spares, as inductor plans it without a compiler or a GPU."""

from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.trace.cases import Case
from benchmarks.trace.compiled import fused, lowering, record, spared
from benchmarks.trace.decoders import CARDS, latent_flop
from cascade_core.config import find_card


def test_steps_on_the_same_elements_are_one_kernel_that_reads_and_writes_once() -> None:
    def steps(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return ((x.float().exp() + 1).relu() * 2).to(x.dtype) @ weight

    with FakeTensorMode(), torch.inference_mode(), lowering() as planned, suppress(BackendCompilerFailed):
        x, weight = (torch.empty(64, 64, dtype=torch.bfloat16) for _ in range(2))
        torch.compile(steps)(x, weight)
    assert planned == [(1, 2 * 64 * 64 * 2)]  # the product is no kernel of inductor's


def test_every_function_that_is_compiled_spares_kernels_and_bytes() -> None:
    card = find_card("demo")
    case = Case("demo", card, 1, card.sampling.num_passes, "bidirectional")
    calls = record(case)
    assert [call.name for call in calls] == ["key_value", "query", "after_attention", "feed_forward"]
    for call in calls:
        kernels, num_bytes = fused(card.transformer, call)
        assert 0 < kernels < call.kernels
        assert 0 < num_bytes < call.elementwise_bytes
    assert spared(case)["kernels"] > 0


@pytest.mark.parametrize("model", CARDS)
def test_a_decoders_operations_grow_with_its_pixels(model: str) -> None:
    card = find_card(model)
    for name in ("vae", "taehv"):
        sizes = (replace(card.video, width=128, height=height) for height in (128, 256))
        small, large = (latent_flop(name, replace(card, video=size)) for size in sizes)
        assert 1.9 < large / small < 2.1
