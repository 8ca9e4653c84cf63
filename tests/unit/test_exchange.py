"""Where the keys and values of all ranks come together."""

import torch

from cascade_core.attention.exchange import PackedBuffers, pack, unpack


def block(tokens: int) -> torch.Tensor:
    return torch.empty(1, tokens, 2, 4)


def test_a_frame_size_keeps_its_buffer_and_the_latest_few_sizes_are_kept() -> None:
    """Rank processes register them, and sessions of any number of sizes come and go."""
    made = []

    def empty(like: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        made.append(shape)
        return like.new_empty(shape)

    buffers = PackedBuffers(empty)
    first = buffers.take(block(3), 10)
    assert first.shape == (10, 3, 2, 2, 4)
    assert buffers.take(block(3), 5).data_ptr() == first.data_ptr()
    assert made == [(10, 3, 2, 2, 4)]
    assert buffers.take(block(3), 11).shape[0] == 11, "more blocks than ever"
    for tokens in (4, 5, 6, 3):
        buffers.take(block(tokens), 1)
    assert len(made) == 5, "3 is here all along"
    buffers.take(block(7), 1)
    buffers.take(block(3), 11)
    assert len(made) == 6
    buffers.take(block(4), 1)
    assert len(made) == 7, "of five sizes the one that was used longest ago is gone"


def test_a_block_lies_in_its_slot_and_others_stay_as_they_are() -> None:
    slots = torch.full((2, 3, 2, 2, 4), 7.0)
    key, value = torch.randn(2, 1, 3, 2, 4)
    pack(key, value, slots)
    keys, values = unpack(slots)
    assert torch.equal(keys[:1], key)
    assert torch.equal(values[:1], value)
    assert slots[1].eq(7).all()
    assert keys[:2].flatten(0, 1).data_ptr() == slots.data_ptr(), "read without a copy"
