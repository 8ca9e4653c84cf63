"""Making one video: what is refused early, what the figures mean, and a decoder that hangs."""

import asyncio
import io
import os
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from cascade_core.commands.generate import (
    GenerateOptions,
    Run,
    check_options,
    locate_decoder,
    share_cores,
    unknown_words_warning,
    write,
)
from cascade_core.config import EngineConfig, find_card
from cascade_core.engine.session import MAX_UNREAD_EVENTS, BlockTiming, LatentBlock
from cascade_core.errors import CascadeError, InvalidConfig
from cascade_core.media.decoding import DecodeJob, Decoding
from cascade_core.media.media import Mp4Writer
from cascade_core.weights.locate import locate_part
from tests.paths import ROOT

CONFIG = EngineConfig("demo", weights="random")
DEMO = find_card("demo")


def test_the_cores_are_shared_between_ranks_and_decoder() -> None:
    assert share_cores(CONFIG, 16).threads_per_rank == 8
    assert share_cores(replace(CONFIG, num_ranks=3), 16).threads_per_rank == 2
    assert share_cores(CONFIG, 1).threads_per_rank == 1
    assert share_cores(replace(CONFIG, threads_per_rank=5), 16).threads_per_rank == 5


@pytest.mark.parametrize("keeps_latents", [False, True])
def test_denoising_speed_leaves_out_blocks_that_may_have_waited_for_the_decoder(keeps_latents: bool) -> None:
    run = Run(DEMO, keeps_latents)
    for block in range(100):  # one block a second, later one in ten seconds
        finished_s = block + 1.0 if block < MAX_UNREAD_EVENTS else 10.0 * block
        run.note(LatentBlock(block, np.zeros((3, 16, 4, 4), np.float32), BlockTiming(1.0, finished_s, 0.1)))
    run.written_s = 1000.0
    assert len(run.latents) == (100 if keeps_latents else 0)
    assert run.num_frames == 12 * 100 - 3
    with_video = run.figures(GenerateOptions(CONFIG, "a", 100, output=Path("x.mp4")), CONFIG)
    assert with_video["fps_denoise"] == pytest.approx(12 - 3 / MAX_UNREAD_EVENTS, abs=0.01)
    assert with_video["fps_with_decode"] == pytest.approx(1.2, abs=0.01)
    latents_only = run.figures(GenerateOptions(CONFIG, "a", 100, latents=Path("x")), CONFIG)
    assert latents_only["fps_denoise"] == pytest.approx(1197 / 990, abs=0.01)
    assert latents_only["fps_with_decode"] is None


def test_a_tiny_autoencoder_without_weights_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    card = find_card("self-forcing-1.3b")
    engine = EngineConfig("self-forcing-1.3b")
    options = GenerateOptions(engine, "a", 2, output=tmp_path / "x.mp4", decoder="taehv")
    with pytest.raises(InvalidConfig, match="needs --decoder-weights"):
        check_options(options, card)


def test_a_video_is_decoded_with_the_models_own_weights(tmp_path: Path) -> None:
    """Those that are named come first; without a video, or with random weights, there are none."""
    options = GenerateOptions(EngineConfig("demo"), "a", 2, output=tmp_path / "x.mp4")
    assert locate_decoder(options, DEMO) == locate_part(DEMO, None, "vae")
    named = replace(options, decoder_weights=tmp_path / "own")
    assert locate_decoder(named, DEMO) == tmp_path / "own"
    assert locate_decoder(replace(options, output=None, latents=tmp_path / "x"), DEMO) is None
    random = replace(options, engine=EngineConfig("demo", weights="random"))
    assert locate_decoder(random, DEMO) is None


def test_unknown_words_are_told_in_one_sentence() -> None:
    assert unknown_words_warning("a big dragon", ["big", "dragon"]) == (
        'prompt "a big dragon": the model does not know "big", "dragon", which it ignores'
    )


def test_two_names_of_one_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "x")
    options = GenerateOptions(CONFIG, "a", 2, output=tmp_path / "x", latents=tmp_path / "link")
    with pytest.raises(InvalidConfig, match="-o names the same file"):
        check_options(options, DEMO)


def test_a_write_that_fails_leaves_the_former_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("former")

    def fail(partial: Path) -> None:
        partial.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(CascadeError, match=r"cannot write .*x\.json: No space left"):
        write(path, fail)
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]


async def append_to_a_stopped_process(job: DecodeJob) -> None:
    async with Decoding(job) as decoding:
        (partial,) = job.output.parent.iterdir()
        os.kill(int(partial.name.split(".")[-2]), signal.SIGSTOP)
        decoding._job = replace(job, deadline_s=0.5)  # loading was allowed to take longer
        await decoding.append(torch.zeros(3, 16, 4, 4))


def test_a_decoder_that_hangs_is_killed_at_its_deadline(tmp_path: Path) -> None:
    job = DecodeJob(DEMO, "taehv", None, tmp_path / "x.mp4", 32, 32, "cpu", 1)
    with pytest.raises(CascadeError, match=r"did not answer within 0\.5 s"):
        asyncio.run(append_to_a_stopped_process(job))
    assert list(tmp_path.iterdir()) == []


async def test_a_decoder_that_dies_between_two_blocks_is_told_in_one_sentence(tmp_path: Path) -> None:
    """Then it is the handing over, not the answer, that fails."""
    job = DecodeJob(DEMO, "vae", None, tmp_path / "x.mp4", 32, 32, "cpu", 1)
    async with Decoding(job) as decoding:
        assert decoding._process is not None
        decoding._process.kill()
        async with asyncio.timeout(30):
            while not decoding._pool._broken:  # noqa: ASYNC110 (the pool tells nobody)
                await asyncio.sleep(0.01)
        with pytest.raises(CascadeError, match=r"^the decoding process died$"):
            await decoding.append(torch.zeros(DEMO.latent_shape(32, 32)))
    assert os.listdir(tmp_path) == []


WRITE_TWO_PICTURES = """
import torch
from pathlib import Path
from cascade_core.media.media import Mp4Writer
with Mp4Writer(Path("-"), 32, 32, 16) as writer:
    writer.append(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))
"""


def test_a_video_to_standard_output_plays(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITE_TWO_PICTURES], cwd=tmp_path, capture_output=True, timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with av.open(io.BytesIO(done.stdout)) as video:
        assert len(list(video.decode(video=0))) == 2
    assert os.listdir(tmp_path) == []


def test_devices_stay_what_they_are() -> None:
    write(Path("/dev/null"), lambda place: place.write_text("figures"))
    with pytest.raises(CascadeError, match="cannot write /dev/full: No space left"):
        write(Path("/dev/full"), lambda place: place.write_text("figures"))
    with pytest.raises((CascadeError, InvalidConfig)), Mp4Writer(Path("/dev/full"), 32, 32, 16) as writer:
        writer.append(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))
    for name in ("/dev/null", "/dev/full"):
        assert stat.S_ISCHR(os.stat(name).st_mode)


def test_ctrl_c_while_torch_is_still_being_imported() -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "cascade_core.commands.entry", "bench"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stderr
    for line in process.stderr:
        if line.split("|")[-1].strip().startswith("torch."):
            process.send_signal(signal.SIGINT)
            break
    assert "Traceback" not in process.communicate(timeout=120)[1]
    assert process.returncode == 130
