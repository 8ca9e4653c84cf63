"""Latents to pictures and back, inside the worker process: the one file of the decoder service that knows
torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from cascade_core.config import RANDOM, ModelCard
from cascade_core.errors import InvalidConfig
from cascade_core.machine import has_fast_bfloat16, num_threads
from cascade_core.media.taehv import load_taehv
from cascade_core.media.video_decoder import DecoderState, VideoDecoder
from cascade_core.media.video_encoder import EncoderState, VideoEncoder
from cascade_core.weights.locate import locate_part
from services.decoder.messages import DecodeBlock, EncodePictures
from services.decoder.settings import DecoderSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FREE_SHARE = 0.8
"""Share of the free memory that sessions may fill; a block's pictures and intermediate results need the
rest."""
NUM_WARMING_BLOCKS = 2


@dataclass
class PictureState:
    """What the decoder remembers of one session."""

    memory: DecoderState
    is_fresh: bool = True


class PictureDecoder:
    """The VAE or TAEHV on its device."""

    def __init__(self, card: ModelCard, settings: DecoderSettings) -> None:
        """Loads weights, perhaps over the network; raises WeightsError or InvalidConfig."""
        torch.set_num_threads(settings.threads or num_threads())
        torch.backends.cudnn.deterministic = True  # the same latents give the same pictures
        self._card = card
        self.device = pick_device(settings.device)
        dtype = torch.bfloat16 if self.device.type == "cuda" or has_fast_bfloat16() else torch.float32
        self._decoder, self._encoder = load(card, settings, self.device, dtype)

    @property
    def can_encode(self) -> bool:
        return self._encoder is not None

    def open(self) -> PictureState:
        return PictureState(self._decoder.open())

    def decode(self, state: PictureState, block: DecodeBlock) -> Iterator[NDArray[np.uint8]] | None:
        """The pictures of each latent frame, RGB [T, H, W, 3], as they are made; None where a number is not
        finite.

        A session that does not start with block 0 begins with a still: the decoder makes one picture of the
        first latent frame it sees, where four belong.
        """
        latents = to_tensor(block)
        return self._decode(state, block, latents) if torch.isfinite(latents).all() else None

    def _decode(
        self, state: PictureState, block: DecodeBlock, latents: Tensor
    ) -> Iterator[NDArray[np.uint8]]:
        if state.is_fresh and block.block > 0:
            self._decoder.decode(state.memory, latents[:1])
        state.is_fresh = False
        for index in range(len(latents)):
            yield self._decoder.decode(state.memory, latents[index : index + 1]).numpy()

    def open_encoder(self) -> EncoderState:
        """The state of a new clip; only where `can_encode`."""
        assert self._encoder
        return self._encoder.open_encoder()

    def encode(self, state: EncoderState, job: EncodePictures) -> bytes:
        """Latents in bfloat16 [F, C, h, w] of the clip's next pictures."""
        assert self._encoder
        pictures = torch.frombuffer(bytearray(job.data), dtype=torch.uint8).reshape(job.shape)
        latents = self._encoder.encode(state, pictures)
        return latents.bfloat16().view(torch.uint8).numpy().tobytes()

    def warm_up(self, max_encodings: int) -> int:
        """Run at the card's size, so that no session pays for kernels; returns how many such sessions fit,
        beside so many clips that are encoded, of which each is taken to need as much."""
        video = self._card.video
        latents = torch.zeros(self._card.latent_shape(video.height, video.width))
        memory = self._decoder.open()
        for _ in range(NUM_WARMING_BLOCKS * len(latents)):
            self._decoder.decode(memory, latents[:1])
        num_bytes = sum(part.nbytes for part in memory.memory if isinstance(part, Tensor))
        num_fitting = int(FREE_SHARE * free_bytes(self.device) // max(1, num_bytes))
        reserved = min(max_encodings, num_fitting - 1) if self.can_encode else 0
        return num_fitting - max(0, reserved)


def to_tensor(block: DecodeBlock) -> Tensor:
    """The bytes of a message, as float32 [F, C, h, w]."""
    numbers = torch.frombuffer(bytearray(block.data), dtype=DTYPES[block.dtype])
    return numbers.reshape(block.shape).float()


def load(
    card: ModelCard, settings: DecoderSettings, device: torch.device, dtype: torch.dtype
) -> tuple[VideoDecoder, VideoEncoder | None]:
    """What decodes, and what encodes, if it can."""
    if settings.kind == "taehv":
        file = None if settings.weights == RANDOM else Path(settings.weights or "")
        return load_taehv(card, file, device, dtype), None
    from cascade_core.media.vae import load_vae  # takes seconds, and TAEHV does without

    uses_random = settings.weights == RANDOM or (settings.weights is None and not card.has_weights)
    vae = load_vae(card, None if uses_random else locate_part(card, settings.weights, "vae"), device, dtype)
    return vae, vae


def pick_device(wanted: str) -> torch.device:
    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise InvalidConfig("decoder.device: cuda is wanted, but there is no GPU that torch can use")
    return torch.device("cuda", 0) if has_gpu and wanted != "cpu" else torch.device("cpu")


def free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)
