"""benchmarks.gpu: its tiny mode on the CPU, and its stand-in for other ranks."""

import asyncio
import json
from pathlib import Path

import pytest
import torch

from benchmarks.emulated import EmulatedExchange
from benchmarks.gpu.__main__ import TABLES, main
from benchmarks.gpu.cases import make_cases
from benchmarks.gpu.projection import gathered_bytes, project
from benchmarks.gpu.report import TITLES
from benchmarks.gpu.samples import Row, pass_flops, percentile
from benchmarks.gpu.whole_engine import engine_setups, measure_engine
from cascade_core.config import find_card
from tests.support import CPU


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Row, str]:
    """What the tiny mode writes, without the engine."""
    folder = tmp_path_factory.mktemp("results")
    tables = [table for table in TABLES if table != "engine"]
    assert main(["--tiny", "--passes", "2", "--out", str(folder), "--only", *tables]) == 0
    return json.loads((folder / "gpu-tiny.json").read_text()), (folder / "gpu-tiny.md").read_text()


def test_what_stands_beside_the_figures(results: tuple[Row, str]) -> None:
    found, markdown = results
    assert {"date", "processor", "torch", "gpu", "driver"} <= set(found["machine"])
    assert found["command"] == "python -m benchmarks.gpu " + found["command"].partition("gpu ")[2]
    assert "--tiny --passes 2" in found["command"]
    assert found["ceilings"][0]["matmul_tflop_s"] > 0
    assert found["ceilings"][0]["copy_gb_s"] > 0
    assert [row["kernel"] for row in found["kernels"]] == ["cpu"]
    for text in (*found["assumptions"], found["machine"]["date"], found["machine"]["torch"]):
        assert text in markdown


def test_every_pass_is_measured(results: tuple[Row, str]) -> None:
    """The demo card's window is 5 blocks, as many as the passes that are in flight."""
    case = results[0]["cases"][0]
    names = [f"denoise {number}" for number in range(1, 5)] + ["context"]
    assert [row["pass"] for row in case["modes"]["sequential"]] == names
    assert [row["pass"] for row in case["modes"]["rank"]] == names
    seen = [(row["clean_blocks"], row["in_flight_blocks"]) for row in case["modes"]["sequential"]]
    assert seen == [(4, 1)] * 5
    seen = [(row["clean_blocks"], row["in_flight_blocks"]) for row in case["modes"]["rank"]]
    assert seen == [(0, 5), (1, 5), (2, 5), (3, 5), (4, 1)]
    for row in case["modes"]["sequential"] + case["modes"]["rank"]:
        assert 0 < row["clean_ms"] < row["attention_ms"] < row["tick_ms"]
        assert row["rest_ms"] == pytest.approx(row["tick_ms"] - row["attention_ms"])
        assert row["p95_ms"] > 0
        assert row["tflop_s"] > 0


def test_the_summary(results: tuple[Row, str]) -> None:
    found, markdown = results
    case = found["cases"][0]
    summary = case["summary"]
    block_ms = sum(row["tick_ms"] for row in case["modes"]["sequential"])
    assert summary["sequential_fps"] == pytest.approx(12e3 / block_ms)
    assert summary["projected_fps"] == pytest.approx(12e3 / summary["slowest_tick_ms"])
    assert summary["ratio"] == pytest.approx(summary["projected_fps"] / summary["sequential_fps"])
    assert summary["ceiling"] == summary["projected_ranks"] == 5
    assert f"## {case['name']}" in markdown


def test_the_cascade_on_one_gpu_finishes_a_block_a_tick(results: tuple[Row, str]) -> None:
    case = results[0]["cases"][0]
    (joint,) = case["modes"]["joint"]
    assert joint["blocks_in_flight"] == 5
    assert joint["fps"] == pytest.approx(12e3 / joint["tick_ms"])
    block_ms = sum(row["tick_ms"] for row in case["modes"]["sequential"])
    assert joint["ratio"] == pytest.approx(block_ms / joint["tick_ms"])


def test_decoders_and_what_surrounds_a_tick(results: tuple[Row, str]) -> None:
    found, markdown = results
    assert [row["decoder"] for row in found["decoders"]] == ["vae", "taehv"]
    for row in found["decoders"]:
        assert row["fps"] == pytest.approx(12e3 / row["block_ms"])
        assert row["sessions_at_card_fps"] == pytest.approx(row["fps"] / 16)
    sizes = {row["what"]: row["megabytes"] for row in found["worker"]}
    latents = sizes["latents to the host"]
    assert latents == pytest.approx(4 * 3 * 16 * 4 * 4 / 1e6)  # float32 [3, 16, 4, 4]
    assert sizes["a clean block, packed"] > latents > sizes["a plan, packed"]
    assert sizes["an opening with a window, unpacked"] > latents
    assert all(row["ms"] > 0 for row in found["worker"])
    for title in TITLES.values():
        assert (f"## {title}" in markdown) == (title != TITLES["engine"])


def test_the_engine_with_its_rank_processes() -> None:
    row = asyncio.run(measure_engine("demo", CPU, (1, 1), repeats=2))
    assert row["ranks"] == row["stagger"] == 1
    assert row["fps"] == pytest.approx(12e3 / row["block_ms"])
    assert row["start_s"] > 0
    assert row["first_block_s"] > 0


def test_the_engine_uses_what_gpus_there_are() -> None:
    assert engine_setups(5, 0) == engine_setups(5, 1) == [(1, 5), (1, 1)]
    assert engine_setups(5, 3) == [(1, 5), (3, 1), (2, 1), (1, 1)]
    assert engine_setups(5, 8) == [(1, 5), (5, 1), (4, 1), (3, 1), (2, 1), (1, 1)]


def test_tables_grow_with_each_measurement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A failure loses what it interrupts, no more."""

    def fails(*arguments: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr("benchmarks.gpu.modes.measure_joint", fails)
    with pytest.raises(RuntimeError, match="no memory"):
        main(["--tiny", "--passes", "1", "--out", str(tmp_path), "--only", "models"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu-tiny.json", "gpu-tiny.md"]
    (case,) = json.loads((tmp_path / "gpu-tiny.json").read_text())["cases"]
    assert list(case["modes"]) == ["sequential", "rank"]
    assert case["summary"]["ratio"] > 0


def test_a_quantized_model_has_a_table_of_its_own(tmp_path: Path) -> None:
    options = ["--passes", "1", "--only", "models", "--modes", "sequential"]
    assert main(["--tiny", "--quantize", "fp8", "--out", str(tmp_path), *options]) == 0
    (case,) = json.loads((tmp_path / "gpu-fp8-tiny.json").read_text())["cases"]
    assert case["modes"]["sequential"]


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
    assert [case.card.window.window_frames for case in make_cases(["krea-14b"], "trained")] == [21]
    assert [case.card.window.window_frames for case in make_cases(["krea-14b"], "own")] == [6]
    assert len(make_cases(["self-forcing-1.3b"], "trained")) == 1


@pytest.mark.parametrize("rank", [0, 2, 4])
def test_emulated_ranks_keep_the_own_part(rank: int) -> None:
    exchange = EmulatedExchange(5, rank, CPU)
    for count in (1, 2, 1):
        key, value = torch.randn(2, count, 12, 2, 8)
        keys, values = exchange.gather(key, value, count).wait()
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
