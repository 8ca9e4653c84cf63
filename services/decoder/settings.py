"""Settings of the decoder: `CASCADE_DECODER_<FIELD>`, or `[decoder]` in the settings file."""

import math
from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from cascade_core.config import RANDOM, STRICT, ModelCard
from services.common.settings import MIB, GpuSettings, PeerGrpcSettings, Port, Seconds, ServerSettings
from services.decoder.video_settings import Preset

WARMUP_BLOCK_FRAMES = 3
"""Latent frames of a block that `warmup_blocks` counts."""


@dataclass(frozen=True, config=STRICT)
class DecoderSettings(GpuSettings):
    """What decodes, what encodes, and how much of it."""

    model: str = "demo"
    """Card whose latents it reads, or a path to a `.toml` card."""
    weights: str | None = None
    """Folder or file of the decoder, hub id, `random`, or None: the VAE where the card says (an installed
    package, or the hub and its cache)."""
    kind: Literal["vae", "taehv"] = "vae"
    """vae: the model's own. taehv: the tiny preview decoder, whose file `weights` then names; it only
    decodes, so a session begins from a picture or clip where another decoder of the model is of kind vae."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the first GPU where there is one."""
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """CPU threads that decode; None: OMP_NUM_THREADS, else one for each core this process may run on, which
    does not see a container's CPU limit: set it there. Another number can round differently, so set it alike
    where decoders on CPUs have to make the same bytes."""
    max_sessions: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Sessions of the card's size at once; one of twice the pixels takes two places. None: as many as fit
    into memory, at most 64."""
    max_pixels: Annotated[int, Field(ge=256)] | None = None
    """Largest width x height of a session; None: four times the card's."""
    max_pending_blocks: Annotated[int, Field(ge=1, le=16)] = 4
    """Blocks that a session may have unanswered; bounds the memory of a client that does not read."""
    block_deadline_s: Seconds = 60.0
    """A worker that answers nothing for that long while it has work is killed, and all sessions are lost.
    Keep it above the slowest honest block (the Wan VAE at 832x480 takes about 20 s on one CPU core), and
    above `health.stall_after_s`, so that health tells first."""
    start_deadline_s: Seconds = 900.0
    """Time the worker has to load the decoder, a download included; the start-up probe must allow more."""
    preset: Preset = "veryfast"
    """How x264 trades time for size. All decoders of an installation need the same, or the init segments of
    one session differ."""
    crf: Annotated[int, Field(ge=1, le=51)] = 20
    """Quality of profiles without a bitrate, lower is better; alike on all decoders, as `preset`."""
    encoder_threads: Annotated[int, Field(ge=1, le=16)] = 1
    """Slices of a picture that x264 encodes at once; alike on all decoders, as `preset`."""
    warmup_blocks: Annotated[int, Field(ge=0, le=64)] = 2
    """Blocks of 3 latent frames that a client should send before the first one after a loss; of a model with
    other blocks as many as hold as many frames. Told in DecoderStatus. Measured on 2026-11-21 with the demo
    model (96x96, VAE, over a prompt switch): the worst first block after 0, 1, 2, 3, 4 warm-up blocks is 29,
    44, 59, 71, 84 dB PSNR from the undisturbed decode in float32, and 31, 36, 55, 58, 58 dB in bfloat16,
    whose rounding allows no more. From 50 dB on no difference is seen. Other models' decoders may look back
    further: measure (`python -m benchmarks.warm_up`, a clip is all it needs), and set it."""

    max_encodings: Annotated[int, Field(ge=1, le=16)] = 2
    """Pictures and clips made into latents at once, each of another tenant; others wait for their turn. Each
    may take `start_memory_bytes` beside the sessions."""
    max_waiting_encodings: Annotated[int, Field(ge=0, le=1024)] = 8
    """Of one tenant; more are refused as retryable."""
    encode_deadline_s: Seconds = 60.0
    """Time for a picture or clip from its arrival to its last latents, waiting included; a caller may allow
    less."""
    start_max_pixels: Annotated[int, Field(ge=256, le=400_000_000)] = 50_000_000
    """Width x height of a picture that a video begins with; a clip may have 4K."""
    start_max_s: Seconds = 600.0
    """Length of a clip that a video begins with, from its first picture to its last."""
    start_cpu_s: Seconds = 20.0
    """Time of one core that opening a picture or clip may take."""
    start_memory_bytes: Annotated[int, Field(ge=64 * MIB, le=64 * 1024 * MIB)] = 640 * MIB
    """Memory that opening a picture or clip may take, in a process of its own; count it into the container's,
    once for each of `max_encodings`."""

    @model_validator(mode="after")
    def _check(self) -> "DecoderSettings":
        if self.kind == "taehv" and self.weights is None:
            raise ValueError(f"kind = taehv needs weights: the file of taew2_1 or taew2_2, or `{RANDOM}`")
        return self

    def num_warmup_blocks(self, card: ModelCard) -> int:
        """Of this model's blocks."""
        return math.ceil(self.warmup_blocks * WARMUP_BLOCK_FRAMES / card.window.block_frames)


@dataclass(frozen=True, config=STRICT)
class DecoderGrpcSettings(PeerGrpcSettings):
    """As PeerGrpcSettings, on a port of its own."""

    port: Port = 50071


@dataclass(frozen=True, config=STRICT)
class Settings(ServerSettings):
    """All sections of a decoder."""

    grpc: DecoderGrpcSettings = field(default_factory=DecoderGrpcSettings)
    decoder: DecoderSettings = field(default_factory=DecoderSettings)
