"""A picture or clip that a video begins with: what is given, what is wanted, how large it may be."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Kind = Literal["image", "video"]
Fit = Literal["crop", "pad"]


@dataclass(frozen=True)
class StartFile:
    """What somebody gives."""

    kind: Kind
    """image: PNG, JPEG or WebP. video: MP4."""
    data: bytes
    """The file's content."""
    fit: Fit = "crop"
    """Of another shape than the video: crop cuts off what sticks out, at both sides alike; pad shows all of
    it, with black at two sides."""
    last_s: float | None = None
    """Of a clip only its last seconds, rounded to whole blocks, one at least; None: all of it."""


@dataclass(frozen=True)
class StartShape:
    """What the video wants."""

    width: int
    """Pixels, as `height`."""
    height: int
    fps: Fraction
    """At which the pictures of a clip are taken, by their times."""
    block_frames: int
    """Latent frames of a block: a clip gives 4 * block_frames * n - 3 pictures, n blocks."""
    max_blocks: int
    """Of a clip, as few blocks as that at most."""


@dataclass(frozen=True)
class StartBounds:
    """What a file may be: kept before and while it is opened. Their defaults hold any phone's pictures."""

    max_pixels: int = 50_000_000
    """Width x height of a picture."""
    max_video_pixels: int = 4096 * 2304
    """Width x height of a clip: 4K."""
    max_frames: int = 20_000
    """Pictures of a clip, those included that are not wanted."""
    max_s: float = 600.0
    """From a clip's first picture to its last."""
    max_cpu_s: float = 20.0
    """Time of one core that opening a file may take."""
