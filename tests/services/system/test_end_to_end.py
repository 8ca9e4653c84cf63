"""Video with three prompt switches through all processes: one valid file, and what was asked."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_client import Client, PromptReceipt, Segment
from cascade_client.session import SwitchMode
from demo_world.score import judge
from demo_world.world import Scene
from tests.services.support.media_support import NAL_IDR, decode, ffprobe, needs_ffprobe, samples
from tests.services.support.playing import BLOCK_FRAMES, FIRST_FRAMES, PLAY_S, Played
from tests.services.support.redis_support import needs_redis
from tests.services.support.system import System

pytest_plugins = ("tests.services.support.system_fixtures",)
pytestmark = needs_redis
NUM_BLOCKS = 57
NUM_FRAMES = 681
NUM_PASSES = 5
"""Blocks in flight, at most."""
MAX_UNACKED = 4


@dataclass(frozen=True)
class Switch:
    """After this segment, to this scene."""

    sequence: int
    scene: Scene
    mode: SwitchMode

    @property
    def prompt(self) -> str:
        return prompt_of(self.scene)


FIRST = Scene("red", "circle", "left", "white")
SWITCHES = (
    Switch(14, Scene("blue", "square", "left", "white"), "immediate"),
    Switch(28, Scene("green", "triangle", "up", "black"), "boundary"),
    Switch(42, Scene("yellow", "circle", "right", "black"), "recache"),
)


def prompt_of(scene: Scene) -> str:
    return f"a {scene.colour} {scene.shape} moves {scene.motion} on a {scene.background} background"


@dataclass(frozen=True)
class Whole:
    """The session as its client saw it."""

    played: Played
    sent_at: dict[str, int]
    """By request id: the newest block that the client had when it switched."""

    @property
    def receipts(self) -> list[PromptReceipt]:
        """The last ones of the three switches."""
        applied = [event for event in self.played.events if isinstance(event, PromptReceipt)]
        return [event for event in applied if event.state == "APPLIED" and event.request_id]


@pytest.fixture(scope="module")
def whole(processes: System) -> Whole:
    """Stored as fast as it is made."""
    processes.ready()
    return asyncio.run(asyncio.wait_for(record(processes), 2 * PLAY_S))


async def record(system: System) -> Whole:
    switches = {switch.sequence: switch for switch in SWITCHES}
    async with Client(system.target) as client:
        session = await client.create(prompt_of(FIRST), seed=5, num_blocks=NUM_BLOCKS)
        whole = Whole(Played(session.name), {})
        async with client.connect(session, max_unacked_segments=MAX_UNACKED) as stream:
            async for event in stream:
                whole.played.add(event)
                if isinstance(event, Segment) and (switch := switches.get(event.sequence)):
                    receipt = await stream.switch(switch.prompt, mode=switch.mode)
                    assert receipt.state == "ACCEPTED"
                    whole.sent_at[receipt.request_id] = event.block
    return whole


def frame_of(block: int) -> int:
    """Index of a block's first picture."""
    return FIRST_FRAMES + BLOCK_FRAMES * (block - 1) if block else 0


def test_it_is_one_valid_video(whole: Whole) -> None:
    whole.played.check(NUM_BLOCKS)
    assert sum(segment.num_frames for segment in whole.played.segments) == NUM_FRAMES
    assert whole.played.recoveries == []
    end_s = 0.0
    for segment in whole.played.segments:
        assert segment.first_frame == frame_of(segment.block)
        assert segment.time_s == pytest.approx(end_s, abs=1e-6)
        end_s = segment.time_s + segment.duration_s
    assert end_s == pytest.approx(NUM_FRAMES / 16)


def test_it_plays_from_every_segment(whole: Whole) -> None:
    pictures, init = decode(whole.played.video), whole.played.init
    segments = whole.played.segments
    for segment in segments:
        assert NAL_IDR in samples(init + segment.data)[0].nal_types
    for first in (0, 1, 14, 29, 56):
        tail = decode(init + b"".join(segment.data for segment in segments[first:]))
        assert np.array_equal(tail, pictures[segments[first].first_frame :]), f"from segment {first + 1} on"


@needs_ffprobe
def test_ffprobe_has_no_complaint(whole: Whole, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(whole.played.video)
    report = ffprobe(path)
    (stream,) = report["streams"]
    assert (stream["codec_name"], stream["width"], stream["height"]) == ("h264", 96, 96)
    assert int(stream["nb_read_frames"]) == NUM_FRAMES
    packets: list[dict[str, Any]] = report["packets"]
    keys = [index for index, packet in enumerate(packets) if "K" in packet["flags"]]
    assert keys == [frame_of(block) for block in range(NUM_BLOCKS)]
    assert [int(packet["pts"]) for packet in packets] == [
        packets[0]["pts"] + index * 5625 for index in range(NUM_FRAMES)
    ]


def test_receipts_come_before_their_pictures(whole: Whole) -> None:
    events, receipts = whole.played.events, whole.receipts
    assert [receipt.request_id for receipt in receipts] == list(whole.sent_at)
    for receipt in receipts:
        assert receipt.first_block_touched is not None
        touched = whole.played.segments[receipt.first_block_touched]
        assert events.index(receipt) < events.index(touched)
        assert receipt.touched_time_s == pytest.approx(touched.time_s)
        assert receipt.unknown_words == ()


def test_a_switch_is_soon_on_screen(whole: Whole) -> None:
    for receipt in whole.receipts:
        assert receipt.first_block_touched is not None
        latest = whole.sent_at[receipt.request_id] + MAX_UNACKED + NUM_PASSES
        assert whole.sent_at[receipt.request_id] < receipt.first_block_touched <= latest


def test_the_pictures_follow_the_prompts(whole: Whole) -> None:
    track, receipts = whole.played.track(), whole.receipts
    starts, ends = [1], []
    for receipt in receipts:
        assert receipt.first_block_touched is not None
        assert receipt.first_block_full is not None
        ends.append(receipt.first_block_touched)
        starts.append(receipt.first_block_full + 2)
    ends.append(NUM_BLOCKS)
    scenes = (FIRST, *(switch.scene for switch in SWITCHES))
    for scene, start, end in zip(scenes, starts, ends, strict=True):
        assert end - start >= 8, "enough blocks to judge by"
        scores = judge(track, scene, frame_of(start), frame_of(end))
        right = scores.right()
        assert all(right[name] for name in ("colour", "shape", "background")), f"{scene}: {scores}"
