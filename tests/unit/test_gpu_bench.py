"""benchmarks.gpu: its tiny mode on the CPU, and its stand-in for other ranks."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.emulated import EmulatedExchange
from benchmarks.gpu import (
    Row,
    gathered_bytes,
    main,
    make_cases,
    pass_flops,
    percentile,
    project,
)
from cascade_core.config import find_card
from tests.support import CPU


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Row, str]:
    """What the tiny mode writes."""
    folder = tmp_path_factory.mktemp("results")
    assert main(["--tiny", "--passes", "2", "--out", str(folder)]) == 0
    return json.loads((folder / "gpu-tiny.json").read_text()), (folder / "gpu-tiny.md").read_text()


def test_what_stands_beside_the_figures(results: tuple[Row, str]) -> None:
    found, markdown = results
    assert {"date", "processor", "torch", "gpu", "driver"} <= set(found["machine"])
    assert found["command"] == "python -m benchmarks.gpu " + found["command"].partition("gpu ")[2]
    assert "--tiny --passes 2" in found["command"]
    assert found["ceilings"]["matmul_tflop_s"] > 0
    assert found["ceilings"]["copy_gb_s"] > 0
    assert [row["kernel"] for row in found["kernels"]] == ["cpu"]
    for text in (*found["assumptions"], found["machine"]["date"], found["machine"]["torch"]):
        assert text in markdown


def test_every_pass_is_measured(results: tuple[Row, str]) -> None:
    """The demo card's window is 5 blocks, as many as the passes that are in flight."""
    case = results[0]["cases"][0]
    names = [f"denoise {number}" for number in range(1, 5)] + ["context"]
    assert [row["pass"] for row in case["sequential"]] == names
    assert [row["pass"] for row in case["cascade"]] == names
    seen = [(row["clean_blocks"], row["in_flight_blocks"]) for row in case["sequential"]]
    assert seen == [(4, 1)] * 5
    seen = [(row["clean_blocks"], row["in_flight_blocks"]) for row in case["cascade"]]
    assert seen == [(0, 5), (1, 5), (2, 5), (3, 5), (4, 1)]
    for row in case["sequential"] + case["cascade"]:
        assert 0 < row["clean_ms"] < row["attention_ms"] < row["tick_ms"]
        assert row["rest_ms"] == pytest.approx(row["tick_ms"] - row["attention_ms"])
        assert row["p95_ms"] > 0
        assert row["tflop_s"] > 0


def test_the_summary(results: tuple[Row, str]) -> None:
    found, markdown = results
    case = found["cases"][0]
    summary = case["summary"]
    block_ms = sum(row["tick_ms"] for row in case["sequential"])
    assert summary["sequential_fps"] == pytest.approx(12e3 / block_ms)
    assert summary["projected_fps"] == pytest.approx(12e3 / summary["slowest_tick_ms"])
    assert summary["ratio"] == pytest.approx(summary["projected_fps"] / summary["sequential_fps"])
    assert summary["ceiling"] == summary["projected_ranks"] == 5
    assert f"## {case['name']}" in markdown


def test_a_gather_that_cannot_hide_costs_time() -> None:
    """14B: 15.3 GB a tick take 34 ms at 450 GB/s, of which 20 ms hide behind the clean cache."""
    card = find_card("krea-14b")
    assert gathered_bytes(card, 2) == pytest.approx(15.3e9, rel=0.01)
    positions = [{"tick_ms": 100.0, "clean_ms": 20.0}, {"tick_ms": 110.0, "clean_ms": 50.0}]
    summary = project(card, [{"tick_ms": 100.0}] * 5, positions, 2)
    assert [row["exposed_ms"] for row in positions] == pytest.approx([14.08, 0.0], abs=0.01)
    assert summary["slowest_tick_ms"] == pytest.approx(114.08, abs=0.01)
    assert summary["gb_s_to_hide_it"] == pytest.approx(766.8, rel=0.01)


def test_operations_of_a_pass() -> None:
    """1.3B with a window of 7 blocks: 11.7 TFLOP linear, 28 TFLOP attention, and 0.4 for the text."""
    assert pass_flops(find_card("self-forcing-1.3b"), 7) / 1e12 == pytest.approx(11.7 + 28.3 + 0.4, rel=0.01)


def test_percentile() -> None:
    assert percentile([3.0, 1.0, 2.0], 95) == 3.0
    assert percentile([float(value) for value in range(1, 101)], 95) == 95.0


def test_short_windows_are_measured_at_21_frames_too() -> None:
    cases = make_cases(["self-forcing-1.3b", "krea-14b"])
    windows = [case.card.window.window_frames for case in cases]
    assert windows == [21, 6, 21]
    assert len({case.name for case in cases}) == 3


@pytest.mark.parametrize("rank", [0, 2, 4])
def test_emulated_ranks_keep_the_own_part(rank: int) -> None:
    exchange = EmulatedExchange(5, rank, CPU)
    for count in (1, 2, 1):
        key, value = torch.randn(2, count, 12, 2, 8)
        keys, values = exchange.gather(key, value).wait()
        assert keys.shape == values.shape == (5 * count, 12, 2, 8)
        own = slice(rank * count, (rank + 1) * count)
        assert torch.equal(keys[own], key)
        assert torch.equal(values[own], value)
        others = [block for block in range(5 * count) if block not in range(own.start, own.stop)]
        assert keys[others].std() > 0.5


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--out", str(tmp_path)]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
