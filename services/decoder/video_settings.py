"""How one session's video is encoded: frozen, checked once, and the encoder's options that follow from it."""

from fractions import Fraction
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from cascade_core.config import STRICT, FrameSide

Codec = Literal["h264", "h264_nvenc"]
Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium"]

MAX_DENOMINATOR = 1001


def _readable(fps: Fraction) -> Fraction:
    """23.976 as a float has a denominator of 2**43, which no container can hold."""
    return fps.limit_denominator(MAX_DENOMINATOR)


@dataclass(frozen=True, config=STRICT)
class VideoSettings:
    """Two encoders with equal settings make equal segments; recovery relies on it, so all of it is here."""

    width: Annotated[FrameSide, Field(multiple_of=2)]
    """Pixels. yuv420p halves them for colour, so they have to be even; models want multiples of 16 or 32."""
    height: Annotated[FrameSide, Field(multiple_of=2)]
    """Pixels, as `width`."""
    fps: Annotated[Fraction, Field(ge=1, le=240), AfterValidator(_readable)] = Fraction(16)
    """Playback speed: 16, 15.625 or "30000/1001"; kept as a fraction with a denominator of at most 1001."""
    codec: Codec = "h264"
    """h264: x264 on the CPU. h264_nvenc: NVIDIA's encoder, on GPUs that have it (L4, L40S, not H100)."""
    crf: Annotated[int, Field(ge=1, le=51)] = 20
    """Constant quality, lower is better; 6 less about doubles the size. Not used when `bitrate` is set."""
    bitrate: Annotated[int, Field(ge=50_000, le=100_000_000)] | None = None
    """Bits per second to aim at; None: constant quality. Every segment starts afresh with a keyframe, so
    a value that is low for the size and the picture is exceeded."""
    preset: Preset = "veryfast"
    """How x264 trades time for size; NVENC uses its own, p4."""
    threads: Annotated[int, Field(ge=1, le=16)] = 1
    """CPU threads of x264. Each encodes a slice of the picture, so another number is another segment: set it
    alike on all decoders, however many cores they have."""

    @property
    def encoder(self) -> str:
        """FFmpeg's name of the encoder."""
        return {"h264": "libx264", "h264_nvenc": "h264_nvenc"}[self.codec]

    def encoder_options(self) -> dict[str, str]:
        """FFmpeg's options: every frame leaves the encoder at once, in the order of display."""
        if self.codec == "h264_nvenc":
            quality = {"rc": "vbr", "cq": str(self.crf)} if self.bitrate is None else {"rc": "cbr"}
            timing = {"preset": "p4", "tune": "ull", "zerolatency": "1", "delay": "0", "bf": "0"}
        else:
            quality = {"crf": str(self.crf)} if self.bitrate is None else {}
            # The first: processors with other vector units round differently. The second: at a low rate x264
            # takes a change of scene for a reason to put another keyframe into the block.
            exact = "cpu-independent=1:scenecut=0"
            timing = {"preset": self.preset, "tune": "zerolatency", "x264-params": exact}
        return timing | quality | self._rate_options()

    def _rate_options(self) -> dict[str, str]:
        if self.bitrate is None:
            return {}
        return {"b": str(self.bitrate), "maxrate": str(self.bitrate), "bufsize": str(self.bitrate // 2)}
