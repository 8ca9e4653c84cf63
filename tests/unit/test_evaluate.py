"""The evaluation's sums, on clips that the world itself draws instead of a model."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import multinomial

from cascade_core.config import find_card
from cascade_core.engine.session import PromptApplied
from cascade_core.errors import CascadeError, InvalidConfig
from demo_world import evaluate, filming
from demo_world.clips import Clip, Take, first_frame
from demo_world.configurations import (
    Amounts,
    all_configurations,
    baseline_of,
    choose,
    engine_config,
    plan,
    twin,
)
from demo_world.darkroom import Picture
from demo_world.experiments import (
    DRIFT_BLOCKS,
    ROUND,
    SWITCH_BLOCK,
    SWITCH_CLIP_BLOCKS,
    drift_takes,
    even_scenes,
    record,
    shown_blocks,
    steady_takes,
    sum_up_drift,
    sum_up_steady,
    sum_up_switches,
    switch_takes,
)
from demo_world.rows import Row
from demo_world.score import measure
from demo_world.sheets import contact_sheet, video_rows
from demo_world.statistics import (
    MARGIN,
    Z,
    mean,
    paired_shares,
    paired_values,
    share,
    tango_interval,
    tango_z,
)
from demo_world.verdicts import inside, verdicts
from demo_world.world import MOTIONS, Frames, Scene, World, block_frames

ATTENTIONS = ("bidirectional", "causal")
BEFORE = Scene("red", "square", "right", "gray")
AFTER = Scene("blue", "circle", "up", "gray")


def made(take: Take, script: Sequence[Scene], keeps_frames: bool = True) -> Clip:
    """A clip that shows the script; of a long one, the script is all of what is looked at; one that goes on
    from given blocks begins with the last picture of these."""
    frames = World(take.seed).video([*take.given, *script])[max(0, first_frame(len(take.given)) - 1) :]
    receipts = [PromptApplied("", SWITCH_BLOCK - 2, SWITCH_BLOCK)] if len(take.scenes) > 1 else []
    parts = np.array_split(frames, max(1, len(take.stretches)))
    pictures = [Picture(measure(part), part if keeps_frames else None) for part in parts]
    return Clip(take, pictures, receipts)


def steady_clip(asked: Scene, shown: Scene, num_blocks: int = 2) -> Clip:
    return made(Take({0: asked}, {0: "words"}, 0, num_blocks), [shown] * num_blocks)


def switch_clip(script: Sequence[Scene]) -> Clip:
    take = Take({0: BEFORE, SWITCH_BLOCK: AFTER}, {0: "before", SWITCH_BLOCK: "after"}, 0, SWITCH_CLIP_BLOCKS)
    return made(take, script)


def drift_clip(first: Scene, last: Scene) -> Clip:
    take = Take({0: BEFORE}, {0: "words"}, 0, 40, stretches=(range(4), range(36, 40)))
    return made(take, [first] * 4 + [last] * 4)


def rows(*clips: Clip) -> dict[int, Row]:
    """As they come back from their file."""
    return {number: json.loads(json.dumps(record(clip))) for number, clip in enumerate(clips)}


def test_wilsons_interval() -> None:
    assert share([True] * 36)["low"] == pytest.approx(0.9036, abs=1e-4)
    assert share([])["share"] is None


def test_a_mean_lies_in_its_interval() -> None:
    estimate = mean([0.0, 1.0, 2.0, 3.0])
    assert 0 <= estimate["low"] < estimate["mean"] == 1.5 < estimate["high"] <= 3


def test_mcnemar_counts_the_clips_that_differ() -> None:
    here, there = [True] * 10 + [False] * 8, [True] * 10 + [True] * 8
    paired = paired_shares(here, there)
    assert (paired["only_here"], paired["only_there"]) == (0, 8)
    assert paired["p"] == pytest.approx(2 * 0.5**8)
    assert paired["difference"]["mean"] == pytest.approx(-8 / 18)
    assert not paired["non_inferior"]
    assert paired_shares(here, here)["p"] == 1


@pytest.mark.parametrize("num", [10, 84, 504])
def test_pairs_that_do_not_differ_leave_doubt(num: int) -> None:
    """Where the score interval has a closed form; the margin needs 189 such pairs."""
    width = pytest.approx(Z**2 / (num + Z**2), rel=1e-6)
    low, high = tango_interval(0, 0, num)
    assert (-low, high) == (width, width)
    assert paired_shares([True] * num, [True] * num)["non_inferior"] == (num >= 189)


@pytest.mark.parametrize(
    ("only_here", "only_there", "num"),
    [(12, 2, 50), (0, 5, 504), (3, 3, 10), (1, 0, 1), (0, 50, 50), (50, 0, 50), (0, 1, 2)],
)
def test_the_interval_holds_what_its_own_test_does_not_reject(
    only_here: int, only_there: int, num: int
) -> None:
    low, high = tango_interval(only_here, only_there, num)
    assert -1 <= low <= (only_here - only_there) / num <= high <= 1
    for difference in np.linspace(-0.999, 0.999, 200):
        if min(abs(difference - low), abs(difference - high)) > 1e-6:
            is_inside = abs(tango_z(only_here, only_there, num, difference)) <= Z
            assert is_inside == (low <= difference <= high)
    assert tango_interval(only_there, only_here, num) == pytest.approx((-high, -low))


@pytest.mark.parametrize("only_here", [0.0, 0.005, 0.02])
def test_what_is_inferior_by_the_margin_passes_as_rarely_as_said(only_here: float) -> None:
    """All outcomes of 504 pairs, weighed by how likely they are: not above 2.5 % where the difference is the
    margin, and mostly where there is no difference."""
    num = 504
    outcomes = [(b, c) for b in range(45) for c in range(60)]
    passing = [(b, c) for b, c in outcomes if tango_z(b, c, num, -MARGIN) > Z]

    def chance(here: float, there: float) -> float:
        table = np.array([(b, c, num - b - c) for b, c in passing])
        return float(multinomial.pmf(table, num, [here, there, 1 - here - there]).sum())

    assert chance(only_here, only_here + MARGIN) < 0.026
    assert chance(only_here, only_here) > 0.5


def test_wilcoxon_needs_a_difference() -> None:
    assert paired_values([1, 2, 3], [1, 2, 3])["p"] == 1
    assert paired_values([1.0 + i for i in range(10)], [0.0] * 10)["p"] < 0.01


def test_scenes_are_balanced() -> None:
    scenes = even_scenes(Random(0))
    for name in ("colour", "shape", "motion", "background"):
        counts = Counter(getattr(scene, name) for scene in scenes)
        assert len(set(counts.values())) == 1
    assert {scene.motion for scene in scenes[:7]} == set(MOTIONS)


def test_a_switch_changes_something() -> None:
    takes = switch_takes(3 * ROUND, "recache")
    assert len(takes) == 3 * ROUND
    assert all(take.scenes[0] != take.scenes[SWITCH_BLOCK] for take in takes)


def test_every_mode_and_call_films_the_same_and_more_begin_with_fewer() -> None:
    takes = steady_takes(2 * ROUND)
    assert takes[:5] == steady_takes(5)
    assert len({take.seed for take in takes}) == len(takes)
    assert len({take.prompts[0] for take in takes}) > ROUND
    others = [replace(take, switch_mode="immediate") for take in switch_takes(100, "boundary")]
    assert others[:5] == switch_takes(5, "immediate")


def test_what_a_configuration_films() -> None:
    configurations = all_configurations(find_card("demo"))
    cascades = [f"{a}-{s}" for s in (1, 2, 3) for a in ATTENTIONS]
    assert list(configurations) == [
        "sequential",
        *cascades,
        *(f"{a}-{s}-back-{n}" for s, n in ((1, 1), (1, 2), (2, 2)) for a in ATTENTIONS),
    ]
    amounts = Amounts(evaluate.EXPERIMENTS, 3, 2, 1)
    plans = {name: plan(configuration, amounts) for name, configuration in configurations.items()}
    assert {name: len(takes) for name, takes in plans["bidirectional-2"].items()} == {
        "steady": 3,
        "switch immediate": 3,
        "switch boundary": 3,
        "switch recache": 3,
        "drift 60": 2,
        "drift 600": 1,
        "start clip": 3,
        "start switch": 3,
        "start picture": 3,
    }
    assert list(plans["causal-1-back-1"]) == ["switch immediate"]
    assert plans["sequential"].keys() == plans["causal-3"].keys() - {"switch boundary"}
    assert [take.num_blocks for take in (plans["causal-3"]["drift 60"][0], drift_takes(1, 600)[0])] == [
        80,
        800,
    ]


def test_a_window_that_does_not_count_the_blocks_behind_is_asked_for_by_name() -> None:
    chosen = choose(["bidirectional-1", "bidirectional-1-uncounted"], find_card("demo"))
    assert [engine_config("demo", None, each).window_counts_behind for each in chosen.values()] == [
        True,
        False,
    ]
    with pytest.raises(InvalidConfig, match="'causal-1-uncounted' is not one of"):
        choose(["causal-1-uncounted"], find_card("demo"))


def test_fp8_is_asked_for_by_name_and_compared_with_the_same_without() -> None:
    card = find_card("demo")
    assert choose(None, card) == all_configurations(card)
    chosen = choose(["bidirectional-1-fp8", "sequential-fp8", "sequential"], card)
    assert list(chosen) == ["sequential", "sequential-fp8", "bidirectional-1-fp8"]
    assert [engine_config("demo", None, each).quantize for each in chosen.values()] == ["none", "fp8", "fp8"]
    against = {name: baseline_of(name) for name in (*chosen, "causal-2")}
    assert list(against.values()) == [None, "sequential", "bidirectional-1", "sequential"]
    assert twin("causal-2", "switch boundary") == "switch immediate"
    assert twin("causal-2-fp8", "switch boundary") == "switch boundary"
    with pytest.raises(
        InvalidConfig, match=r"'fast' is not one of sequential, .*, nor one of them with -fp8"
    ):
        choose(["fast"], card)


def test_frames_of_blocks() -> None:
    assert [first_frame(block) for block in range(4)] == [0, 9, 21, 33]


def test_steady_sums() -> None:
    right, wrong = steady_clip(BEFORE, BEFORE), steady_clip(BEFORE, replace(BEFORE, shape="circle"))
    summary = sum_up_steady(rows(right, wrong, right), rows(right, right))
    assert summary["shape"]["share"] == pytest.approx(2 / 3)
    assert summary["colour"]["share"] == 1
    assert summary["prompt"]["paired"]["only_there"] == 1
    assert summary["prompt"]["paired"]["difference"]["num"] == 2
    assert summary["by"]["motion"].keys() == {"right"}
    assert summary["by"]["shape"]["square"]["shape"]["share"] == summary["shape"]["share"]
    json.dumps(summary)


def test_where_a_switch_shows() -> None:
    halfway = replace(AFTER, motion="right")
    script = [BEFORE] * 4 + [halfway] * 2 + [AFTER] * 4
    assert shown_blocks(switch_clip(script)) == {"colour": 4, "shape": 4, "motion": 6, "prompt": 6}
    assert shown_blocks(switch_clip([BEFORE] * 10))["prompt"] is None


def test_switch_sums() -> None:
    prompt = [BEFORE] * 4 + [AFTER] * 6
    clips = rows(switch_clip(prompt), switch_clip([BEFORE] * 10))
    summary = sum_up_switches(clips, rows(switch_clip(prompt), switch_clip(prompt)))
    assert summary["since_asked"]["prompt"] == {
        "soon": share([True, False]),
        "mean_blocks": 0,
        "num_never": 1,
    }
    assert summary["since_touched"]["prompt"]["mean_blocks"] == 2
    assert summary["since_asked"]["background"]["soon"]["num"] == 0
    assert summary["settled"]["motion"]["share"] == 0.5
    assert summary["settled"]["background"]["share"] == 1
    assert summary["settled"]["by"]["motion"]["up"]["motion"]["share"] == 0.5
    assert summary["soon"]["share"] == 0.5
    assert summary["soon"]["paired"]["only_there"] == 1


def test_drift_sums() -> None:
    changed, steady = drift_clip(BEFORE, replace(BEFORE, shape="circle")), drift_clip(BEFORE, BEFORE)
    summary = sum_up_drift(rows(changed, changed), rows(steady))
    assert summary["shape"]["change"]["mean"] < -0.9  # the ends are not cut where a block begins
    assert summary["shape"]["paired"]["difference"]["mean"] < -0.9
    assert summary["motion"]["change"]["mean"] == 0
    assert summary["by"]["colour"]["red"]["shape"]["mean"] < 0.1


def test_a_contact_sheet(tmp_path: Path) -> None:
    frames = World(0).frames(BEFORE, 20)
    contact_sheet([("one", frames), ("two", frames[:7])], tmp_path / "sheet.png", every=5, title="title")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 4 * 96
        assert sheet.height > 2 * 96


def test_a_long_video_wraps_at_prompts_and_at_the_row_end() -> None:
    frames: Frames = np.zeros((100, 96, 96, 3), np.uint8)
    rows = video_rows(frames, {0: "first", 70: "second"}, per_row=32)
    assert [(caption, len(part)) for caption, part in rows] == [
        ("0.0 s   first", 32),
        ("2.0 s   first", 32),
        ("4.0 s   first", 6),
        ("4.4 s   second", 30),
    ]


def script(take: Take) -> list[Scene]:
    """What was asked for."""
    num_blocks = 2 * DRIFT_BLOCKS if take.stretches else take.num_blocks
    starts = sorted(take.scenes)
    return [take.scenes[max(s for s in starts if s <= block)] for block in range(num_blocks)]


class Drawn:
    """Stands for engines and darkroom: the world draws what is asked for, without a model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_made = 0
        self.lasts: int | None = None
        """Clips until it fails."""
        for name in ("engines", "darkroom", "film"):
            monkeypatch.setattr(filming, name, getattr(self, name))

    @asynccontextmanager
    async def engines(self, *_: object) -> AsyncIterator[None]:
        yield

    @contextmanager
    def darkroom(self, *_: object) -> Iterator[None]:
        yield

    async def film(
        self,
        running: object,
        room: object,
        takes: Mapping[int, Take],
        num_kept: int,
        report: Callable[[int, Clip], object],
    ) -> None:
        for number, take in takes.items():
            if self.num_made == self.lasts:
                raise CascadeError("the lamp went out")
            report(number, made(take, script(take), number < num_kept))
            self.num_made += 1


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    return Drawn(monkeypatch)


def scores(figures: Path, *options: str) -> dict[str, Any]:
    evaluate.main(["--json", str(figures), *options])
    results: dict[str, Any] = json.loads(figures.read_text())
    return results


FEW = ["--quick", "--clips", "2", "--long", "1", "--longest", "1"]


@pytest.mark.slow
def test_everything_is_written(drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "scores.json"
    names = ["sequential", "bidirectional-1", "causal-1"]
    results = scores(figures, *FEW, "--modes", "boundary", "immediate", "--configurations", *names)
    assert list(results["steady"]) == names
    assert all(run["prompt"]["share"] == 1 for run in results["steady"].values())
    assert len(results["switch"]) == 1 + 2 * 2
    assert all(run["since_asked"]["prompt"]["mean_blocks"] == 0 for run in results["switch"].values())
    assert "paired" in results["switch"]["causal-1 boundary"]["soon"]
    assert results["drift 600"]["sequential"]["motion"]["last"]["mean"] > 0.95
    tables = figures.with_suffix(".md").read_text()
    assert tables in capsys.readouterr().out
    assert "causal-1, steady: not inferior to sequential by 2 points on every score: **not shown**" in tables
    assert "over 600 s: **met**" in tables
    assert len(list((tmp_path / "scores").glob("*.png"))) == 3 + 5 + 3 * 2 + 3 * 3


def test_it_goes_on_where_it_was_stopped(
    drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a line that was not written to its end, and with more clips than before."""
    figures, options = tmp_path / "scores.json", ["--only", "steady", "--configurations", "sequential"]
    drawn.lasts = 14
    with pytest.raises(SystemExit):
        scores(figures, *options, "--clips", "15")
    assert "the lamp went out" in capsys.readouterr().err
    drawn.lasts = None
    (tmp_path / "scores" / "sequential-steady.png").touch()  # it was not made yet, and is not needed here
    kept = figures.with_suffix(".rows.jsonl")
    kept.write_text(kept.read_text()[:-20])
    assert scores(figures, *options, "--clips", "15")["steady"]["sequential"]["prompt"]["num"] == 15
    assert drawn.num_made == 14 + 2
    assert scores(figures, *options, "--clips", "16")["steady"]["sequential"]["prompt"]["num"] == 16
    assert scores(figures, *options, "--clips", "3")["steady"]["sequential"]["prompt"]["num"] == 3
    assert drawn.num_made == 14 + 2 + 1
    (tmp_path / "scores" / "sequential-steady.png").unlink()
    scores(figures, *options, "--clips", "16")
    assert drawn.num_made == 14 + 2 + 1 + 12


def test_rows_of_another_model_are_refused(
    drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, options = tmp_path / "scores.json", ["--only", "steady", "--configurations", "sequential"]
    scores(figures, *options, "--clips", "1")
    kept = figures.with_suffix(".rows.jsonl")
    kept.write_text(kept.read_text().replace('"model": "demo"', '"model": "other"'))
    with pytest.raises(SystemExit):
        scores(figures, *options, "--clips", "1")
    assert "holds clips of another model" in capsys.readouterr().err


def shares(value: float, difference: float = 0.0, is_fine: bool = True) -> dict[str, Any]:
    paired = {"non_inferior": is_fine, "difference": {"mean": difference, "low": difference, "high": 1.0}}
    return {"share": value, "low": value - 0.01, "high": value + 0.01, "paired": paired}


def figures_of(**changed: dict[str, Any]) -> dict[str, Any]:
    """Of a sequential run and a cascade, good but for what is named."""
    good = dict.fromkeys(("prompt", "colour", "shape", "motion", "background", "one_object"), shares(1.0))
    moved = {"mean": 0.0, "low": 0.0, "high": 0.0}
    drift = {key: {"change": moved, "paired": {"difference": moved}} for key in good}
    run = good | {name: value for name, value in changed.items() if name in good}
    switch = {"soon": changed.get("soon", shares(0.96)), "settled": good | changed.get("settled", {})}
    return {
        "steady": {"sequential": good, "bidirectional-1": run},
        "switch": {"sequential immediate": switch, "bidirectional-1 immediate": switch},
        "drift 60": {"sequential": drift, "bidirectional-1": drift | changed.get("drift", {})},
    }


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, []),
        ({"shape": shares(0.97, -0.03, False)}, ["points on every score: **missed**"]),
        ({"shape": shares(0.99, -0.01, False)}, ["points on every score: **not shown**"]),
        ({"soon": shares(0.94)}, ["the whole prompt shows"]),
        ({"settled": {"motion": shares(0.975)}}, ["Sequential: at least 98% on every score"]),
        ({"settled": {"motion": shares(0.96, -0.01)}}, ["Sequential: at least 98% on every score"]),
        (
            {"settled": {"motion": shares(0.96, -0.03)}},
            ["Sequential: at least 98%", "every score right in the"],
        ),
        (
            {"drift": {"motion": {"paired": {"difference": {"mean": -0.04, "low": 0, "high": 0}}}}},
            ["after 60 s"],
        ),
    ],
)
def test_targets(changed: dict[str, Any], missed: list[str]) -> None:
    found = verdicts(figures_of(**changed))
    assert len(found) == 6
    for verdict, wanted in zip([v for v in found if not v.is_met], missed, strict=True):
        assert wanted in str(verdict)


def test_fp8_has_targets_of_its_own() -> None:
    figures = figures_of(shape=shares(0.97, -0.03, False), settled={"motion": shares(0.9, -0.1, False)})
    figures["steady"]["sequential-fp8"] = figures["steady"]["bidirectional-1"]
    figures["switch"]["sequential-fp8 recache"] = figures["switch"]["bidirectional-1 immediate"]
    figures["drift 60"]["causal-1-fp8"] = figures["drift 60"]["bidirectional-1"]
    found = {verdict.target: verdict.is_met for verdict in verdicts(figures) if "-fp8" in verdict.target}
    inferior = "not inferior to sequential by 2 points on every score"
    assert found == {
        "causal-1-fp8, after 60 s: within 3 points of causal-1 on every score": True,
        f"sequential-fp8, steady: {inferior}": False,
        f"sequential-fp8, switch, recache, last 3 blocks: {inferior}": False,
    }


def test_two_trainings() -> None:
    one = figures_of()
    assert inside(one, one)[0].is_met
    verdict = inside(one, figures_of(motion=shares(0.97)))[0]
    assert not verdict.is_met
    assert "motion, bidirectional-1, steady: 100.0% and 97.0%" in str(verdict)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--clips", "0"], "--clips: 0 is not a whole number in 1..10000"),
        (["--configurations", "causal-9"], "--configurations: 'causal-9' is not one of sequential,"),
        (["--model", "nothing"], "'nothing' is unknown"),
        (["--only", "drift", "--long", "0", "--longest", "0"], "--only drift: there is nothing to film"),
        (["--checkpoint", "/nowhere"], "--checkpoint /nowhere: there is no such folder"),
        (["--other", "/nowhere.json"], "--other /nowhere.json: "),
        (["--json", "scores.txt"], "must end in .json"),
        (["--json", "/nowhere/scores.json"], "/nowhere does not exist"),
    ],
)
def test_bad_arguments_are_named(
    arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        evaluate.main(["--json", str(tmp_path / "scores.json"), *arguments])
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err


def test_blocks_have_the_frames_of_the_card() -> None:
    card = find_card("demo")
    assert [card.num_frames(block) for block in (0, 1)] == [block_frames(0), block_frames(1)]
