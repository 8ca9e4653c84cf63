"""The MP4 that is written, read back with PyAV (FFmpeg)."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from cascade_core.errors import CascadeError, InvalidConfig
from cascade_core.media.media import Mp4Writer

COLOURS = torch.tensor([[200, 30, 40], [10, 220, 60], [20, 50, 230]], dtype=torch.uint8)


def coloured_frames() -> Tensor:
    """21 frames of 64x48: seven of each colour."""
    return COLOURS.repeat_interleave(7, 0)[:, None, None].expand(-1, 48, 64, -1).contiguous()


def noisy_frames() -> Tensor:
    return torch.randint(0, 256, (36, 128, 128, 3), dtype=torch.uint8)


def write(path: Path, frames: Tensor) -> None:
    with Mp4Writer(path, frames.shape[2], frames.shape[1], 16.0) as writer:
        writer.append(frames)


def interrupt_writing(path: Path) -> None:
    with Mp4Writer(path, 64, 48, 16.0) as writer:
        writer.append(coloured_frames())
        raise KeyboardInterrupt


@contextmanager
def disk_of(size_bytes: int) -> Iterator[None]:
    """No file may grow past this size; the system then fails writes as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("fps", [16.0, 23.976, 30.0])
def test_reads_back_as_written(tmp_path: Path, fps: float) -> None:
    path = tmp_path / "out.mp4"
    frames = coloured_frames()
    with Mp4Writer(path, 64, 48, fps) as writer:
        writer.append(frames[:9])
        assert not path.exists()
        writer.append(frames[9:])

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.frames) == (64, 48, 21)
        assert stream.average_rate is not None
        assert stream.duration is not None
        assert stream.time_base is not None
        assert float(stream.average_rate) == pytest.approx(fps, rel=1e-4)
        assert float(stream.duration * stream.time_base) == pytest.approx(21 / fps, rel=1e-3)
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    means = np.stack([frame.mean(axis=(0, 1)) for frame in decoded])
    np.testing.assert_allclose(means, COLOURS.repeat_interleave(7, 0).numpy(), atol=4)


def test_index_comes_first_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    write(path, coloured_frames())
    content = path.read_bytes()
    assert 0 < content.find(b"moov") < content.find(b"mdat")
    assert b"moof" not in content
    assert list(tmp_path.iterdir()) == [path]


def test_exception_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"former")
    with pytest.raises(KeyboardInterrupt):
        interrupt_writing(path)
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("size_bytes", [1000, 100_000])
def test_full_disk_is_told_and_leaves_nothing(tmp_path: Path, size_bytes: int) -> None:
    with disk_of(size_bytes), pytest.raises(CascadeError, match=r"cannot write .*out\.mp4: File too large"):
        write(tmp_path / "out.mp4", noisy_frames())
    assert not list(tmp_path.iterdir())


def test_bad_paths_fail_before_the_first_frame(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"the folder .*absent does not exist"):
        Mp4Writer(tmp_path / "absent" / "out.mp4", 64, 48, 16.0)
    with pytest.raises(InvalidConfig, match="is a folder"):
        Mp4Writer(tmp_path, 64, 48, 16.0)
    with pytest.raises(InvalidConfig, match="name too long"):
        Mp4Writer(tmp_path / f"{'x' * 300}.mp4", 64, 48, 16.0)
    assert not list(tmp_path.iterdir())


def test_no_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CascadeError, match="there are no frames"):
        write(tmp_path / "out.mp4", torch.empty(0, 48, 64, 3, dtype=torch.uint8))
    assert not list(tmp_path.iterdir())
