"""benchmarks.weights: its file, its loads, its figures; and what memory loading takes."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import weights as bench
from cascade_core.weights import ahead, weights

SIDE = 1024
FILE_GB = 0.1
SLACK_GB = 0.04


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bench, "SIDE", SIDE)
    path = tmp_path / "w.safetensors"
    bench.write_file(path, FILE_GB)
    return path


def test_the_file_is_one_that_safetensors_reads(file: Path) -> None:
    tensors = load_file(file)
    assert len(tensors) == 47  # of 2 MiB each
    assert all(tensor.shape == (SIDE, SIDE) and tensor.dtype == torch.bfloat16 for tensor in tensors.values())
    assert all(tensor.float().isfinite().all() for tensor in tensors.values())
    assert not torch.equal(tensors["w0"], tensors["w1"])


@pytest.mark.parametrize("way", ["one thread", "4 readers"])
def test_loading_a_mapped_file_takes_no_memory_of_its_own(
    way: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, names in ((ahead, ("NUM_READERS", "MAX_AHEAD")), (weights, ("read_ahead",))):
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name))  # `load` changes them
    bench.load(way, file, "cpu")  # threads and their stacks
    found = bench.load(way, file, "cpu")
    assert found["seconds"] > 0
    assert found["peak_gb"] < SLACK_GB


def test_what_is_cast_takes_what_the_model_takes(file: Path) -> None:
    """No copy of the file beside it."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:  # whose memory holds nothing to use again
        taken = process.submit(memory_of_a_cast, file).result()
    assert 2 * FILE_GB - SLACK_GB < taken < 2 * FILE_GB + SLACK_GB


def memory_of_a_cast(file: Path) -> float:
    """GB at most, while a model in float32 is loaded from the file."""
    state = load_file(file)
    model = torch.nn.Module()
    for name in state:
        model.register_parameter(name, torch.nn.Parameter(torch.empty(SIDE, SIDE, device="meta")))
    with bench.peak_memory() as samples:
        weights.load_state(model, state, file, torch.device("cpu"), torch.float32)
        samples.append(bench.own_gb())
    return max(samples) - samples[0]


def test_ratios_are_those_of_each_round() -> None:
    def rows(*seconds: float) -> list[bench.Row]:
        return [{"seconds": each, "cpu_s": 1.0, "peak_gb": each / 100} for each in seconds]

    found = bench.summary("4 readers", rows(2, 10, 4), rows(4, 10, 12), 6.0)
    assert found["seconds"] == 4
    assert found["gb_s"] == 1.5
    assert (found["least"], found["times one thread"], found["most"]) == (1, 2, 3)
    assert found["peak_gb"] == pytest.approx(0.1)
