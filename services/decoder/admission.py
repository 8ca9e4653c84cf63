"""Whether this decoder can do what an Open asks for, and what that means for encoders and memory."""

import math
from dataclasses import dataclass
from fractions import Fraction

from cascade.v1 import common_pb2, decoder_pb2
from cascade_core.config import ModelCard
from cascade_core.errors import UnknownModel
from services.common.errors import UnsupportedMedia
from services.decoder.settings import DecoderSettings
from services.decoder.video_settings import VideoSettings

Open = decoder_pb2.DecodeRequest.Open
NVENC = common_pb2.VIDEO_ENCODER_NVENC


@dataclass(frozen=True)
class Plan:
    """What an Open comes to."""

    profiles: tuple[VideoSettings, ...]
    """In the order of `open`."""
    places: int
    """Memory, in sessions of the card's size."""
    latent_shape: tuple[int, int, int, int]
    """[F, C, h, w] of every block."""

    @property
    def fps(self) -> Fraction:
        return self.profiles[0].fps


class UnknownHere(UnknownModel):
    """A model that this decoder does not read; `known` in the metadata names the one that it does."""

    def __init__(self, known: str) -> None:
        super().__init__(f"this decoder reads latents of {known} only")
        self.metadata = {"known": known}


def make_plan(opening: Open, card: ModelCard, settings: DecoderSettings) -> Plan:
    """Raises UnknownModel or UnsupportedMedia."""
    check_model(opening, card, settings, "open.")
    pixels, default = opening.width * opening.height, card.video.width * card.video.height
    return Plan(
        profiles=tuple(video_settings(opening, profile, settings) for profile in opening.profiles),
        places=math.ceil(pixels / default),
        latent_shape=card.latent_shape(opening.height, opening.width),
    )


def check_model(
    asked: Open | decoder_pb2.EncodeRequest, card: ModelCard, settings: DecoderSettings, path: str
) -> None:
    """Raise UnknownModel or UnsupportedMedia where model or size are not for this decoder. `path`: before the
    names of fields."""
    if asked.model != card.name:
        raise UnknownHere(card.name)
    for field, side in (("width", asked.width), ("height", asked.height)):
        if complaint := card.video.side_complaint(side):
            raise UnsupportedMedia(complaint, field=f"{path}{field}")
    max_pixels = settings.max_pixels or 4 * card.video.width * card.video.height
    if asked.width * asked.height > max_pixels:
        size = f"{asked.width}x{asked.height}"
        raise UnsupportedMedia(f"{size} is more than {max_pixels} pixels", field=f"{path}width")


def video_settings(
    opening: Open, profile: common_pb2.MediaProfile, settings: DecoderSettings
) -> VideoSettings:
    return VideoSettings(
        width=opening.width,
        height=opening.height,
        fps=Fraction(opening.fps),
        codec="h264_nvenc" if profile.encoder == NVENC else "h264",
        crf=settings.crf,
        bitrate=profile.bitrate_kbps * 1000 or None,
        preset=settings.preset,
        threads=settings.encoder_threads,
    )


def check_encoders(opening: Open, has_nvenc: bool) -> None:
    """Raise UnsupportedMedia where NVENC is wanted and there is none."""
    for index, profile in enumerate(opening.profiles):
        if profile.encoder == NVENC and not has_nvenc:
            field = f"open.profiles[{index}].encoder"
            raise UnsupportedMedia("this decoder has no NVENC; use SOFTWARE", field=field)
