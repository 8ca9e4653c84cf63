"""From a card to a model: what is refused before any weight is read."""

import pytest
import torch

from cascade_core.config import find_card
from cascade_core.errors import InvalidConfig
from cascade_core.ranks import loading
from tests.support import CPU, tiny_card


def test_a_model_that_cannot_fit_is_refused_before_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "free_bytes", lambda device, num_ranks: 20 * 2**30)
    expected = r"model krea-14b: its weights take 27\.0 GiB on each rank, 20\.0 GiB are free"
    with pytest.raises(InvalidConfig, match=expected):
        loading.build_model(find_card("krea-14b"), None, 0, CPU, torch.bfloat16)


def test_random_weights_are_the_same_on_every_rank() -> None:
    first, second = (loading.build_model(tiny_card(), None, 5, CPU, torch.float32) for _ in range(2))
    other = loading.build_model(tiny_card(), None, 6, CPU, torch.float32)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(first.blocks[0].self_attn.q.weight, other.blocks[0].self_attn.q.weight)
