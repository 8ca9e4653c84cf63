"""The evaluation's sums, on clips that the world itself draws instead of a model."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cascade_core.config import EngineConfig
from cascade_core.engine.session import PromptApplied
from demo_world import evaluate
from demo_world.clips import Clip, Take, first_frame
from demo_world.configurations import Amounts, plan
from demo_world.experiments import (
    SWITCH_BLOCK,
    SWITCH_CLIP_BLOCKS,
    even_scenes,
    shown_blocks,
    steady_takes,
    sum_up_drift,
    sum_up_steady,
    sum_up_switches,
    switch_takes,
)
from demo_world.score import measure
from demo_world.sheets import contact_sheet, video_rows
from demo_world.statistics import mean, paired_shares, paired_values, share
from demo_world.world import Frames, Scene, World, block_frames

BEFORE = Scene("red", "square", "right", "gray")
AFTER = Scene("blue", "circle", "up", "gray")


def made(take: Take, script: Sequence[Scene], keeps_frames: bool = True) -> Clip:
    frames = World(take.seed).video(script)
    receipts = [PromptApplied("", SWITCH_BLOCK - 2, SWITCH_BLOCK)] if len(take.scenes) > 1 else []
    return Clip(take, measure(frames), receipts, frames if keeps_frames else None)


def steady_clip(asked: Scene, shown: Scene, num_blocks: int = 2) -> Clip:
    return made(Take({0: asked}, {0: "words"}, 0, num_blocks), [shown] * num_blocks)


def switch_clip(script: Sequence[Scene]) -> Clip:
    take = Take({0: BEFORE, SWITCH_BLOCK: AFTER}, {0: "before", SWITCH_BLOCK: "after"}, 0, SWITCH_CLIP_BLOCKS)
    return made(take, script)


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
    assert paired_shares(here, here)["p"] == 1


def test_wilcoxon_needs_a_difference() -> None:
    assert paired_values([1, 2, 3], [1, 2, 3])["p"] == 1
    assert paired_values([1.0 + i for i in range(10)], [0.0] * 10)["p"] < 0.01


def test_scenes_are_balanced() -> None:
    scenes = even_scenes(84, Random(0))
    for name in ("colour", "shape", "motion", "background"):
        counts = Counter(getattr(scene, name) for scene in scenes)
        assert len(set(counts.values())) == 1


@pytest.mark.parametrize("count", [1, 2, 50])
def test_a_switch_changes_something(count: int) -> None:
    takes = switch_takes(count, "recache")
    assert len(takes) == count
    assert all(take.scenes[0] != take.scenes[SWITCH_BLOCK] for take in takes)


def test_every_mode_and_call_films_the_same() -> None:
    assert steady_takes(5, 2) == steady_takes(5, 2)
    assert len({take.seed for take in steady_takes(5, 2)}) == 10
    others = [replace(take, switch_mode="immediate") for take in switch_takes(5, "boundary")]
    assert others == switch_takes(5, "immediate")


def test_what_a_configuration_films() -> None:
    amounts = Amounts(evaluate.EXPERIMENTS, 3, 2, 4, 1, 60)
    assert {name: len(takes) for name, takes in plan("bidirectional-1", amounts).items()} == {
        "steady": 6,
        "switch immediate": 4,
        "switch boundary": 4,
        "switch recache": 4,
        "drift": 1,
    }
    assert plan("bidirectional-1", amounts)["drift"][0].num_blocks == 80
    assert list(plan("causal-2", amounts)) == ["steady"]


def test_frames_of_blocks() -> None:
    assert [first_frame(block) for block in range(4)] == [0, 9, 21, 33]


def test_steady_sums() -> None:
    right, wrong = steady_clip(BEFORE, BEFORE), steady_clip(BEFORE, replace(BEFORE, shape="circle"))
    summary = sum_up_steady([right, wrong], [right, right])
    assert (summary["shape"]["share"], summary["colour"]["share"]) == (0.5, 1)
    assert summary["prompt"]["share"] == 0.5
    assert summary["prompt"]["paired"]["only_there"] == 1
    assert summary["clips"][1]["shape"] == 0
    json.dumps(summary)


def test_where_a_switch_shows() -> None:
    halfway = replace(AFTER, motion="right")
    script = [BEFORE] * 4 + [halfway] * 2 + [AFTER] * 4
    assert shown_blocks(switch_clip(script)) == {"colour": 4, "shape": 4, "motion": 6, "prompt": 6}
    assert shown_blocks(switch_clip([BEFORE] * 10))["prompt"] is None


def test_switch_sums() -> None:
    prompt = [BEFORE] * 4 + [AFTER] * 6
    summary = sum_up_switches([switch_clip(prompt), switch_clip([BEFORE] * 10)])
    assert summary["since_asked"]["prompt"] == {
        "soon": share([True, False]),
        "mean_blocks": 0,
        "num_never": 1,
    }
    assert summary["since_touched"]["prompt"]["mean_blocks"] == 2
    assert summary["since_asked"]["background"]["soon"]["num"] == 0
    assert summary["settled"]["motion"]["share"] == 0.5
    assert summary["settled"]["background"]["share"] == 1


def test_drift_sums() -> None:
    changed = replace(BEFORE, shape="circle")
    script = [BEFORE] * 4 + [changed] * 4
    clip = made(Take({0: BEFORE}, {0: "words"}, 0, 8), script)
    summary = sum_up_drift([clip, clip], 30)
    assert summary["shape"]["change"]["mean"] == -1
    assert summary["motion"]["change"]["mean"] == 0


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


async def draw_instead(
    config: EngineConfig,
    decoder: object,
    batches: Mapping[str, Sequence[Take]],
    num_kept: int,
    report: Callable[[], object],
) -> dict[str, list[Clip]]:
    """Stands for `film`: the world draws what is asked for, without a model."""

    def script(take: Take) -> list[Scene]:
        starts = sorted(take.scenes)
        return [take.scenes[max(s for s in starts if s <= block)] for block in range(take.num_blocks)]

    return {
        name: [made(take, script(take), number < num_kept) for number, take in enumerate(takes)]
        for name, takes in batches.items()
    }


def test_everything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "film", draw_instead)
    monkeypatch.setattr(evaluate, "open_decoder", lambda card, weights: SimpleNamespace())
    figures = tmp_path / "scores.json"
    names = ["sequential", "bidirectional-1", "causal-1"]
    amounts = ["--prompts", "2", "--switches", "1", "--long", "1", "--seconds", "10"]
    evaluate.main(["--json", str(figures), *amounts, "--configurations", *names])
    results = json.loads(figures.read_text())
    assert list(results["steady"]) == names
    assert all(run["prompt"]["share"] == 1 for run in results["steady"].values())
    assert len(results["switch"]) == 4
    assert all(run["since_asked"]["prompt"]["mean_blocks"] == 0 for run in results["switch"].values())
    assert results["drift"]["sequential"]["motion"]["last"]["mean"] == 1
    assert figures.with_suffix(".md").read_text() in capsys.readouterr().out
    assert len(list((tmp_path / "scores").glob("*.png"))) == 3 + 4 + 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--prompts", "0"], "--prompts: 0 is not a whole number in 1..10000"),
        (["--seconds", "5"], "--seconds: 5 is not a whole number in 10..3600"),
        (["--configurations", "causal-9"], "--configurations: 'causal-9' is not one of sequential,"),
        (["--model", "nothing"], "'nothing' is unknown"),
        (["--only", "drift", "--configurations", "causal-2"], "--only: of causal-2 none runs drift"),
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
    card = evaluate.find_card("demo")
    assert [card.num_frames(block) for block in (0, 1)] == [block_frames(0), block_frames(1)]
