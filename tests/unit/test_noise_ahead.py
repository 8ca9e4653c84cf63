"""Noise that is drawn ahead: the values of `block_noise`, bounded, and all that can be foreseen."""

import json
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.noise import main
from cascade_core.config import SwitchMode
from cascade_core.model.sampler import block_noise
from cascade_core.ranks import noise as noise_module
from cascade_core.ranks.noise import Name, NoiseThread, SessionNoise, first_noise, following_noise
from cascade_core.schedule import Shape, Timeline, Work, context_blocks, plan_tick, switch_prompt
from tests.support import CPU, STEPS, UNIPC_STEPS, Drive, make_runner, tiny_card

SHAPE = (3, 4, 8, 8)
MODES: tuple[SwitchMode, ...] = ("immediate", "boundary", "recache")


@pytest.fixture
def noise() -> SessionNoise:
    return SessionNoise(NoiseThread(CPU), 7, SHAPE)


class Draws:
    """Where noise was drawn: on the main thread a device would have waited for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.in_place: list[Name] = []
        self.ahead: list[Name] = []

        def draw(seed: int, block: int, number: int, *rest: object, **named: object) -> torch.Tensor:
            on_main = threading.current_thread() is threading.main_thread()
            (self.in_place if on_main else self.ahead).append((block, number))
            assert on_main or self.may_go_on.wait(10)
            return block_noise(seed, block, number, *rest, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(noise_module, "block_noise", draw)


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Draws]:
    made = Draws(monkeypatch)
    yield made
    made.may_go_on.set()


def test_its_values_are_those_of_block_noise(noise: SessionNoise) -> None:
    names = [(block, number) for block in range(3) for number in range(4)]
    noise.expect(names)
    for name in [*reversed(names), (9, 9)]:
        assert torch.equal(noise.take(*name), block_noise(7, *name, SHAPE))


def test_what_is_not_begun_is_drawn_in_place(noise: SessionNoise, draws: Draws) -> None:
    """The thread is busy with the first: nobody waits for it to come to the third."""
    draws.may_go_on.clear()
    noise.expect([(0, 0), (0, 1), (0, 2)])
    assert torch.equal(noise.take(0, 2), block_noise(7, 0, 2, SHAPE))
    assert draws.in_place == [(0, 2)]
    draws.may_go_on.set()
    noise.take(0, 0)
    assert draws.in_place == [(0, 2)]


def test_nothing_is_drawn_twice_nor_kept_unasked(noise: SessionNoise, draws: Draws) -> None:
    noise.expect([(0, 0), (0, 1)])
    noise.expect([(0, 1), (0, 2)])
    taken = noise.take(0, 1), noise.take(0, 2)
    assert len(taken) == 2
    noise.expect(())
    assert sorted(draws.in_place + draws.ahead) in ([(0, 0), (0, 1), (0, 2)], [(0, 1), (0, 2)])
    assert not noise._drawn


class NoiseOfRank:
    """What a rank takes in a plan, restated from the schedule alone, against what it was told to expect."""

    def __init__(self, shape: Shape, rank: int) -> None:
        self.shape, self.rank = shape, rank
        self.coming: dict[int, int] = {}
        self.expected: list[Name] = []

    def open(self, block: int) -> None:
        self.expected = first_noise(block, self.shape, self.rank)

    def take(self, works: tuple[Work, ...]) -> Iterator[Name]:
        for work in works:
            if work.pass_index == self.shape.context_pass:
                continue
            coming = self.coming.get(work.block, 0)
            if work.pass_index == 0:
                yield work.block, 0
            elif coming > work.pass_index:
                yield work.block, self.shape.num_passes + work.pass_index
            self.coming[work.block] = work.pass_index + 1
            if work.pass_index + 1 < self.shape.context_pass:
                yield work.block, work.pass_index + 1


@pytest.mark.parametrize("num_ranks", [1, 2, 5])
@pytest.mark.parametrize("stagger", [1, 2, 3, 5])
def test_a_rank_foresees_all_but_switches_that_set_back(stagger: int, num_ranks: int) -> None:
    chance = random.Random(stagger + 10 * num_ranks)
    shape = Shape(5, stagger, num_ranks, tiny_card(window_blocks=4, sink_blocks=1).window, set_back=2)
    for start in (0, 1, 7):
        primed = tuple(Work(block, 4, 0) for block in context_blocks(shape.window, start))
        timeline = Timeline(0, next_block=start, end_block=start + 20, to_prime=primed)
        ranks = [NoiseOfRank(shape, rank) for rank in range(num_ranks)]
        for each in ranks:
            each.open(start)
        prompt = 0
        set_back = False
        while True:
            if chance.random() < 0.2:
                prompt, before = prompt + 1, timeline
                timeline, _ = switch_prompt(timeline, shape, prompt, chance.choice(MODES))
                set_back = timeline.settled_from != before.settled_from
            plan, timeline = plan_tick(timeline, shape)
            if plan is None:
                break
            for each in ranks:
                taken = list(each.take(plan.ranks[each.rank]))
                assert set_back or set(taken) <= set(each.expected)
                each.expected = following_noise(plan, shape, each.rank)
                assert len(each.expected) <= shape.max_in_flight // num_ranks + 3
            set_back = False


@pytest.mark.parametrize(
    ("values", "first", "later"),
    [
        ({}, 4, 4),
        ({"solver": "unipc", "steps": UNIPC_STEPS}, 1, 1),
        ({"steps": (1000, 500), "first_steps": STEPS}, 4, 2),
    ],
)
def test_a_session_takes_what_was_drawn_ahead(
    draws: Draws, values: dict[str, Any], first: int, later: int
) -> None:
    """Every noise is drawn once, and none is left when the session is closed. `first`, `later`: how much a
    block takes."""
    card = tiny_card(**values)
    runner = make_runner(card, 1)
    drive = Drive.open(runner)
    state = runner.sessions[0]
    drive.timeline = replace(drive.timeline, end_block=6)
    while not drive.timeline.finished:
        state.noise.wait()
        drive.tick()
    assert draws.in_place == []
    foreseen = {(block, number) for block in range(6) for number in range(later if block else first)}
    assert foreseen <= set(draws.ahead)
    assert len(draws.ahead) == len(set(draws.ahead)) <= len(foreseen) + 2
    runner.close(0)
    assert not state.noise._drawn


def test_a_switch_that_sets_back_changes_no_noise() -> None:
    """Against a run whose noise is all drawn in place."""
    switches: dict[int, tuple[int, SwitchMode]] = {4: (1, "immediate"), 9: (2, "recache")}
    ahead = Drive.open(make_runner(tiny_card(), 1, set_back=2)).finish(6, switches)
    runner = make_runner(tiny_card(), 1, set_back=2)
    drive = Drive.open(runner)
    runner.sessions[0].noise.expect = lambda names: None  # type: ignore[method-assign]
    runner.sessions[0].noise._drawn.clear()
    in_place = drive.finish(6, switches)
    assert list(ahead) == list(in_place)
    assert all(torch.equal(ahead[block], in_place[block]) for block in ahead)


def test_the_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "demo", "--out", str(tmp_path), "--repeats", "3"]) == 0
    text = (tmp_path / "noise.md").read_text()
    assert text in capsys.readouterr().out
    found = json.loads((tmp_path / "noise.json").read_text())
    assert [row["noise is drawn"] for row in found["rows"]] == ["in the tick", "ahead"]
    assert f"`python -m benchmarks.noise --model demo --out {tmp_path} --repeats 3`" in text
