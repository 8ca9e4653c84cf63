"""How going on from a given clip is judged, on clips that the world draws instead of a model."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cascade_core.config import find_card
from cascade_core.media.vae import load_vae
from cascade_core.weights.locate import locate_part
from demo_world import darkroom
from demo_world.clips import Clip, Take
from demo_world.darkroom import Picture
from demo_world.report import render
from demo_world.rows import Row
from demo_world.score import measure
from demo_world.starts import BEGINNINGS, NUM_BLOCKS, continuation, record, start_takes, sum_up_starts
from demo_world.verdicts import verdicts
from demo_world.world import Frames, Scene, World

SCENE = Scene("red", "square", "right", "gray")


def take(before: Scene = SCENE, after: Scene = SCENE) -> Take:
    return Take({0: after}, {0: "words"}, 3, NUM_BLOCKS, given=(before,) * 4, given_prompt="first words")


def row(of: Take, shown: Frames) -> Row:
    """Of a clip that shows these pictures after the given ones."""
    frames = np.concatenate([World(of.seed).video(of.given)[-1:], shown])
    return dict(json.loads(json.dumps(record(Clip(of, [Picture(measure(frames), None)], [])))))


def test_what_the_world_itself_would_show_is_right_and_in_place() -> None:
    found = row(take(), continuation(take()))
    assert found["seam"] < 0.2
    assert max(found["away"]) < 0.5
    summary = sum_up_starts({0: found}, {0: found})
    assert summary["prompt"]["share"] == summary["in_place"]["mean"] == 1


def test_a_jump_and_another_place_are_seen() -> None:
    elsewhere = np.roll(continuation(take()), 20, axis=2)
    found = row(take(), elsewhere)
    assert found["seam"] == pytest.approx(20, abs=0.5)
    assert found["away"] == pytest.approx([20] * NUM_BLOCKS, abs=0.5)
    summary = sum_up_starts({0: found}, {0: row(take(), continuation(take()))})
    assert summary["in_place"]["mean"] == 0
    assert summary["seam"]["paired"]["difference"]["mean"] == pytest.approx(20, abs=0.5)
    assert not summary["colour"]["paired"]["only_there"]


def test_another_colour_is_not_kept() -> None:
    blue = take(after=replace(SCENE, colour="blue"))
    found = row(take(), continuation(blue))
    assert found["scores"]["colour"] == 0
    assert row(blue, continuation(blue))["scores"]["colour"] == 1


def test_takes_are_balanced_and_more_begin_with_fewer() -> None:
    for beginning in BEGINNINGS:
        takes = start_takes(100, beginning, 2)
        assert takes[:5] == start_takes(5, beginning, 2)
        assert len({each.seed for each in takes}) == 100
        assert {len(each.given) for each in takes} == {2 if beginning == "picture" else 4}
        changes = [each.given[0] != each.scenes[0] for each in takes]
        assert any(changes) == (beginning != "clip")
        assert all(changes) == (beginning == "switch")


def test_tables_and_targets_tell_of_starts() -> None:
    found = {0: row(take(), continuation(take()))}
    runs = {name: sum_up_starts(found, found) for name in ("sequential", "bidirectional-1")}
    results = {"start clip": runs, "command": "c", "weights": "w"}
    results["machine"] = {"processor": "p", "cores": 1, "torch": "t", "date": "d"}
    told = [str(verdict) for verdict in verdicts(results)]
    assert any("Sequential: at least" in each for each in told)
    assert any("bidirectional-1, start clip: not inferior" in each for each in told)
    text = render(results | {"verdicts": told})
    assert "| sequential | 0.0 (0.0..0.0) |" in text


def test_what_is_given_is_encoded_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    card = find_card("demo")
    vae = load_vae(card, locate_part(card, None, "vae"), torch.device("cpu"), torch.float32)
    monkeypatch.setattr(darkroom, "_decoder", vae, raising=False)
    frames = World(3).video([SCENE] * 2)
    blocks = darkroom._encode(frames)
    assert [block.shape for block in blocks] == [(3, 16, 12, 12)] * 2
    seen = darkroom._develop(blocks, 0, keeps_frames=True)
    assert seen.frames is not None
    assert np.abs(seen.frames.astype(int) - frames).mean() < 4
