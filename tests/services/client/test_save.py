# ruff: noqa: ASYNC240 - small files
"""Files that are whole at every moment, whatever breaks off."""

import asyncio
from pathlib import Path

import pytest

from cascade.v1 import session_pb2
from cascade_client import CannotSave, Client, EndedEarly, Event, Saved, Segment, SequenceGap, save
from cascade_client.save import Mp4File
from tests.services.support.fake_gateway import BLOCK_FRAMES, Code, Script, encoder, failure, serving
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


TOO_LONG = failure(Code.INVALID_ARGUMENT, "INVALID_PROMPT", "the prompt has 900 tokens")


@pytest.mark.parametrize("reason", ["FAILED", "EVICTED"])
async def test_a_session_that_fails_raises_and_its_part_plays(tmp_path: Path, reason: str) -> None:
    end = session_pb2.SessionEnd(reason=session_pb2.EndReason.Value(f"END_REASON_{reason}"), status=TOO_LONG)
    with pytest.raises(EndedEarly, match=r"900 tokens.*video\.mp4 holds the first") as caught:
        await saved_from(Script(end_with=end), tmp_path / "video.mp4", num_blocks=2)
    error = caught.value
    assert (error.end_reason, error.reason, error.code) == (reason, "INVALID_PROMPT", Code.INVALID_ARGUMENT)
    assert len(decode((tmp_path / "video.mp4").read_bytes())) == 2 * BLOCK_FRAMES - 3


@pytest.mark.parametrize("reason", ["FAILED", "DELETED", "IDLE"])
async def test_an_end_before_the_first_segment_raises(tmp_path: Path, reason: str) -> None:
    end = session_pb2.SessionEnd(reason=session_pb2.EndReason.Value(f"END_REASON_{reason}"))
    async with asyncio.timeout(WAIT_S), serving() as gateway, Client(gateway.address) as client:
        session = await client.create("a red circle", num_blocks=6)
        await client.pause(session)
        async with client.connect(session) as stream:
            gateway.sessions[session.name].end(end)
            with pytest.raises(EndedEarly, match="nothing was stored"):
                await save(stream, tmp_path / "video.mp4")
    assert list(tmp_path.iterdir()) == []


async def test_so_many_seconds_and_then_the_next_file(tmp_path: Path) -> None:
    """Each has what a player needs first, though the stream brings it once."""
    async with asyncio.timeout(WAIT_S), serving() as gateway, Client(gateway.address) as client:
        session = await client.create("a red circle")
        async with client.connect(session) as stream:
            files = [await save(stream, tmp_path / f"{part}.mp4", seconds=2.0) for part in "ab"]
            assert (await client.get(stream.name)).state == "ACTIVE"
    assert [saved.num_segments for saved in files] == [3, 3]
    assert all(saved.duration_s >= 2.0 and saved.ended is None for saved in files)
    pictures = [len(decode(saved.path.read_bytes())) for saved in files]
    assert pictures == [3 * BLOCK_FRAMES - 3, 3 * BLOCK_FRAMES]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CannotSave, match="is a folder"):
        Mp4File(tmp_path)
    with pytest.raises(CannotSave, match="there is no folder "):
        Mp4File(tmp_path / "nothing" / "video.mp4")
