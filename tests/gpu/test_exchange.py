"""NCCL in a world of one, and the benchmark's stand-in for a world of five."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from benchmarks.emulated import EmulatedExchange
from cascade_core.attention.exchange import Exchange, GroupExchange
from tests.gpu.support import SIDE, placed_runner, small_card
from tests.support import run_blocks


@pytest.fixture
def nccl(tmp_path: Path, device: torch.device) -> Iterator[GroupExchange]:
    """`join_group` gives a single rank no group, so it is built by hand."""
    rendezvous = f"file://{tmp_path / 'rendezvous'}"
    dist.init_process_group("nccl", init_method=rendezvous, rank=0, world_size=1, device_id=device)
    try:
        yield GroupExchange(1)
    finally:
        dist.destroy_process_group()


def run(device: torch.device, stagger: int, exchange: Exchange | None) -> torch.Tensor:
    runner = placed_runner(small_card(), device, torch.bfloat16, stagger, exchange=exchange)
    blocks = run_blocks(runner, 12, height=SIDE, width=SIDE)
    return torch.stack(list(blocks.values()))


@pytest.mark.parametrize("stagger", [1, 2, 5])
def test_nccl_gathers_change_nothing(stagger: int, nccl: GroupExchange, device: torch.device) -> None:
    """A gather that is read too early, or a buffer that is reused too early, would show."""
    assert torch.equal(run(device, stagger, nccl), run(device, stagger, None))


def test_nccl_buffers_follow_the_size(nccl: GroupExchange, device: torch.device) -> None:
    for count, tokens in ((1, 48), (2, 48), (1, 4680), (1, 48)):
        key, value = torch.randn(2, count, tokens, 2, 128, device=device, dtype=torch.bfloat16)
        keys, values = nccl.gather(key, value, count).wait()
        assert torch.equal(keys, key)
        assert torch.equal(values, value)


@pytest.mark.parametrize("rank", [0, 3])
def test_emulated_ranks_keep_the_own_part(rank: int, device: torch.device) -> None:
    """Inputs die and are overwritten right after the call, as in a layer."""
    exchange = EmulatedExchange(5, rank, device)
    for layer in range(50):
        key, value = torch.randn(2, 1, 4680, 12, 128, device=device, dtype=torch.bfloat16)
        expected = key.clone(), value.clone()
        gathering = exchange.gather(key, value, 1)
        del key, value
        busy = torch.full((2, 1, 4680, 12, 128), float("nan"), device=device, dtype=torch.bfloat16)
        keys, values = gathering.wait()
        assert torch.equal(keys[rank : rank + 1], expected[0]), layer
        assert torch.equal(values[rank : rank + 1], expected[1]), layer
        assert keys.isfinite().all()
        assert values.isfinite().all()
        del busy
