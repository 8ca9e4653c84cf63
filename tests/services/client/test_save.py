# ruff: noqa: ASYNC240 - small files
"""Files that are whole at every moment, whatever breaks off."""

import asyncio
from pathlib import Path

import pytest

from cascade_client import Client, Event, Saved, Segment, save
from cascade_client.errors import CannotSave, SequenceGap
from cascade_client.save import Mp4File
from tests.services.support.fake_gateway import BLOCK_FRAMES, Script, encoder, serving
from tests.services.support.media_support import assert_gapless, decode

WAIT_S = 30.0


async def saved_from(script: Script, path: Path, num_blocks: int = 6, **options: object) -> Saved:
    async with asyncio.timeout(WAIT_S), serving(script) as gateway, Client(gateway.address) as client:
        session = await client.create("a red circle", num_blocks=num_blocks)
        async with client.connect(session) as stream:
            return await save(stream, path, **options)  # type: ignore[arg-type]


async def test_the_file_is_the_whole_video(tmp_path: Path) -> None:
    seen: list[tuple[type[Event], int]] = []
    segments: list[Segment] = []

    def note(event: Event, saved: Saved) -> None:
        seen.append((type(event), saved.num_segments))
        if isinstance(event, Segment):
            segments.append(event)
            assert not (tmp_path / "video.mp4").exists(), "it gets its name at the end"

    saved = await saved_from(Script(lose_before=[3, 5]), tmp_path / "video.mp4", progress=note)
    assert (saved.num_segments, saved.num_frames) == (6, 6 * BLOCK_FRAMES - 3)
    assert saved.duration_s == pytest.approx((6 * BLOCK_FRAMES - 3) / 16)
    assert saved.ended is not None
    assert saved.ended.reason == "COMPLETE"
    data = (tmp_path / "video.mp4").read_bytes()
    assert len(data) == saved.num_bytes
    assert data == encoder().init_segment + b"".join(segment.data for segment in segments)
    frames = [segment.num_frames for segment in segments]
    assert_gapless(
        encoder().init_segment, [segment.data for segment in segments], frames, encoder().settings.fps
    )
    assert [count for kind, count in seen if kind is Segment] == [1, 2, 3, 4, 5, 6]
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]


async def test_what_was_stored_before_an_error_plays(tmp_path: Path) -> None:
    with pytest.raises(SequenceGap):
        await saved_from(Script(skip=[4]), tmp_path / "video.mp4")
    assert len(decode((tmp_path / "video.mp4").read_bytes())) == 3 * BLOCK_FRAMES - 3


async def test_a_part_does_not_replace_a_former_file(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"whole")
    with pytest.raises(SequenceGap):
        await saved_from(Script(skip=[4]), path)
    assert path.read_bytes() == b"whole"
    assert len(decode((tmp_path / "video.partial.mp4").read_bytes())) == 3 * BLOCK_FRAMES - 3
    await saved_from(Script(), path)
    assert len(decode(path.read_bytes())) == 6 * BLOCK_FRAMES - 3


async def test_cancelling_keeps_the_part(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    counted = asyncio.Event()

    def note(event: Event, saved: Saved) -> None:
        if saved.num_segments == 2:
            counted.set()

    saving = asyncio.create_task(saved_from(Script(pace_s=0.05), path, num_blocks=500, progress=note))
    await asyncio.wait_for(counted.wait(), WAIT_S)
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert len(decode(path.read_bytes())) >= 2 * BLOCK_FRAMES - 3
    assert [each.name for each in tmp_path.iterdir()] == ["video.mp4"]


async def test_nothing_stored_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SequenceGap):
        await saved_from(Script(skip=[1]), tmp_path / "video.mp4")
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CannotSave, match="is a folder"):
        Mp4File(tmp_path)
    with pytest.raises(CannotSave, match="there is no folder "):
        Mp4File(tmp_path / "nothing" / "video.mp4")
