"""What computes beside the ranks, at full size: both decoders, the text encoder, and the queue of ticks."""

import threading
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks.trace.cases import counting_cuda
from benchmarks.trace.fake_cuda import CUDA
from cascade_core.config import find_card
from cascade_core.media.taehv import load_taehv
from cascade_core.media.vae import load_vae
from cascade_core.model.text import Umt5Encoder
from cascade_core.model.umt5 import Umt5, Umt5Config
from cascade_core.ranks.tick_queue import CudaTicks
from cascade_core.schedule import Timeline, plan_tick
from cascade_core.weights.weights import randomize
from tests.cuda_dry.support import rank, shallow
from tests.support import Drive

WAN = find_card("self-forcing-1.3b")
HEIGHT, WIDTH = WAN.video.height, WAN.video.width
BF16 = torch.bfloat16


@pytest.mark.parametrize("name", ["vae", "taehv"])
def test_a_decoder_waits_for_its_pictures_alone(name: str) -> None:
    with counting_cuda() as counter:
        load = load_vae if name == "vae" else load_taehv
        decoder: Any = load(WAN, None, CUDA, BF16)
        state = decoder.open()
        for num_frames in (9, 12, 12):
            with counter.counting() as counts:
                pixels = decoder.decode(state, torch.zeros(WAN.latent_shape(HEIGHT, WIDTH)))
            assert (pixels.shape, pixels.dtype) == ((num_frames, HEIGHT, WIDTH, 3), torch.uint8)
            assert pixels.device.type == "cpu"
            given, taken = counts.waits
            assert given.startswith("copy from pageable")
            assert taken.startswith("copy to pageable memory of the host at media/video_decoder.py")
            held = counter.live_bytes
        assert counter.live_bytes == held


class FakeTokens:
    """As many as Wan's transformer takes."""

    def ids(self, text: str) -> list[int]:
        return [0] * 512

    def unknown(self, text: str) -> tuple[str, ...]:
        return ()


def test_umt5_xxl_waits_for_its_rows_alone() -> None:
    config = Umt5Config(
        vocab_size=256384,
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_heads=64,
        num_layers=2,
    )
    with counting_cuda() as counter:
        with torch.device("meta"):
            model = Umt5(config)
        randomize(model, 0, CUDA, BF16, lambda name: False)
        encoder = Umt5Encoder(model, FakeTokens(), 512, CUDA, BF16)
        with counter.counting() as counts:
            rows = encoder.encode("a red circle")
        assert (rows.shape, rows.dtype, rows.device.type) == ((512, 4096), BF16, "cpu")
        (wait,) = counts.waits
        assert wait.startswith("torch.cuda.Event.synchronize at model/text.py")


def test_a_tick_is_queued_and_its_latents_taken_without_a_wait() -> None:
    answered = threading.Event()
    with rank(shallow("demo"), stagger=5) as one:
        video = one.runner.card.video
        drive = Drive.open(one.runner, height=video.height, width=video.width)
        queue = CudaTicks(
            CUDA, lambda latents, compute_s: latents is not None and answered.set(), pytest.fail
        )
        timeline = Timeline(0)
        with one.counter.counting() as counts:
            for _ in range(drive.runner.shape.num_passes):
                plan, timeline = plan_tick(timeline, one.runner.shape)
                assert plan
                queue.run(partial(one.runner.tick, plan))
        assert answered.wait(60)
        assert counts.waits == []
