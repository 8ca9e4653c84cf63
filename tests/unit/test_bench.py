"""What the benchmark's figures mean, on a tiny card; how large they are is for the benchmark."""

from cascade_core.commands.bench import (
    Bench,
    cell,
    measure_length,
    measure_switch,
    measure_window,
    run_blocks,
    table,
)
from tests.support import tiny_card


def test_cache_memory_grows_with_the_window_and_not_with_the_session() -> None:
    card = tiny_card(window_blocks=3)
    small, large = (measure_window(card, frames, num_ticks=2) for frames in (6, 12))
    assert large["cache_mib"] == 2 * small["cache_mib"]  # of 2 and of 4 blocks
    rows = measure_length(card, num_frames=210, sample=5)
    assert [row["latent_frames"] for row in rows] == [150, 210]
    assert len({row["cache_mib"] for row in rows}) == 1


def test_a_switch_shows_where_its_mode_says() -> None:
    card = tiny_card(window_blocks=3)
    rows = {mode: measure_switch(card, mode, blocks_after=4, repeats=1) for mode in ("immediate", "boundary")}
    assert rows["immediate"]["blocks_until_touched"] == 1
    assert rows["boundary"]["blocks_until_touched"] == rows["boundary"]["blocks_until_full"]
    assert rows["immediate"]["blocks_until_full"] == rows["boundary"]["blocks_until_full"] > 1


def test_blocks_are_counted_when_they_become_clean() -> None:
    bench = Bench(tiny_card(window_blocks=3))
    assert run_blocks(bench.ticks(), 6) > 0
    assert bench.timeline.next_block == 6 + 3  # those behind it in flight have started


def test_table_rounds_to_three_digits() -> None:
    assert [cell(value) for value in (0.123456, 12.3456, 1234.4, 7, "x")] == [
        "0.123",
        "12.3",
        "1234",
        "7",
        "x",
    ]
    assert table([{"a": 1, "b": 2.0}]).splitlines() == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]
