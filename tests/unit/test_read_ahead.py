"""Reading weights ahead: what comes, in which order, how many at once, and how far."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cascade_core.weights import ahead
from cascade_core.weights.ahead import MAX_AHEAD, NUM_READERS, read_ahead

Read = Callable[[Tensor], None]


def items(count: int) -> Iterator[tuple[str, Tensor]]:
    return ((str(number), torch.full((3, 5000), float(number))) for number in range(count))


def test_everything_comes_in_order(tmp_path: Path) -> None:
    odd = {
        "none": torch.zeros(0),
        "one": torch.tensor(3.0),
        "turned": torch.ones(2000, 3).T,
        "eight bits": torch.ones(5000).to(torch.float8_e4m3fn),
    }
    save_file({name: tensor.contiguous() for name, tensor in odd.items()}, tmp_path / "w.safetensors")
    given = list(items(50)) + list(odd.items()) + list(load_file(tmp_path / "w.safetensors").items())
    assert all(
        got[0] == name and got[1] is tensor
        for got, (name, tensor) in zip(read_ahead(given), given, strict=True)
    )


def test_every_page_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    original: Read = ahead._read
    monkeypatch.setattr(ahead, "_read", lambda tensor: (original(tensor), seen.append(tensor))[0])
    given = list(items(20))
    list(read_ahead(given))
    assert {id(tensor) for tensor in seen} == {id(tensor) for _, tensor in given}


def test_several_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(NUM_READERS)
    monkeypatch.setattr(ahead, "_read", lambda tensor: together.wait(timeout=30) and None)
    assert len(list(read_ahead(items(5 * NUM_READERS)))) == 5 * NUM_READERS


def test_no_more_than_a_few_are_taken_ahead() -> None:
    taken: list[str] = []

    def given() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in items(100):
            taken.append(name)
            yield name, tensor

    for used, _ in enumerate(read_ahead(given()), start=1):
        assert len(taken) <= used + MAX_AHEAD


def test_a_reader_that_leaves_early_leaves_no_thread() -> None:
    reading = read_ahead(items(100))
    next(reading)
    reading.close()
    assert not [each for each in threading.enumerate() if each.name.startswith("weights")]
