"""What the service and its worker process say to each other; how it travels: `cascade_core/ranks/pipe.py`."""

from dataclasses import dataclass
from typing import Literal

from cascade_core.config import ModelCard
from services.decoder.settings import DecoderSettings
from services.decoder.video_settings import VideoSettings


@dataclass(frozen=True)
class LoadDecoder:
    """First of all: load the decoder. Answered by DecoderReady or DecoderUnusable."""

    card: ModelCard
    settings: DecoderSettings


@dataclass(frozen=True)
class OpenSession:
    """Make encoders and a fresh picture state. Answered by SessionOpened or SessionRefused."""

    session: int
    profiles: tuple[VideoSettings, ...]


@dataclass(frozen=True)
class DecodeBlock:
    """Answered by BlockWarmed, BlockEncoded (after a PartEncoded for each latent frame), or SessionFailed."""

    session: int
    block: int
    dtype: Literal["float32", "bfloat16"]
    shape: tuple[int, ...]
    """[F, C, h, w], as many numbers as `data` has."""
    data: bytes
    is_warmup: bool
    """Decode only to fill the decoder's memory."""
    arrived_s: float
    """time.monotonic, which all processes of a machine share."""
    origin: int = 0
    """The block that segments and their times count from."""


@dataclass(frozen=True)
class EncodePictures:
    """The next latent frame of a clip. Answered by PicturesEncoded."""

    session: int
    """Clips count with the sessions; the first of these opens one."""
    shape: tuple[int, int, int, int]
    """[T, H, W, 3]: one picture at a clip's beginning, then four at a time."""
    data: bytes
    """RGB."""


@dataclass(frozen=True)
class DropSession:
    """Forget the session or clip. Not answered."""

    session: int


@dataclass(frozen=True)
class Ping:
    """Are you there? Answered by Pong."""


Job = OpenSession | DecodeBlock | EncodePictures | Ping
"""Every job is answered once."""
Command = LoadDecoder | Job | DropSession


@dataclass(frozen=True)
class DecoderReady:
    """The decoder is loaded and has run."""

    device: str
    num_fitting: int
    """Sessions of the card's size that fit into the free memory."""
    has_nvenc: bool
    can_encode: bool
    """Whether it makes latents of pictures."""


@dataclass(frozen=True)
class DecoderUnusable:
    """The decoder cannot be loaded; the process ends."""

    reason: str


@dataclass(frozen=True)
class SessionOpened:
    session: int
    inits: tuple[tuple[str, bytes], ...]
    """(MIME type, init segment) of each profile."""


@dataclass(frozen=True)
class SessionRefused:
    """The session asks for what cannot be done: an encoding, or a block that no message can hold."""

    session: int
    field: str
    """Of the request, as in google.rpc.BadRequest."""
    reason: str
    is_media: bool = True
    """False: a field of a message is wrong, not what is asked of the encoders."""


@dataclass(frozen=True)
class BlockWarmed:
    session: int
    block: int


@dataclass(frozen=True)
class PartEncoded:
    """No answer yet: the pictures of one latent frame."""

    session: int
    block: int
    """Counted from the origin."""
    index: int
    first_frame: int
    num_frames: int
    pieces: tuple[bytes, ...]
    """One for each profile."""


@dataclass(frozen=True)
class Piece:
    """One profile of one block, or of a part of it."""

    data: bytes
    encode_s: float

    def __add__(self, following: "Piece") -> "Piece":
        return Piece(self.data + following.data, self.encode_s + following.encode_s)


@dataclass(frozen=True)
class BlockEncoded:
    session: int
    block: int
    """Counted from the origin."""
    first_frame: int
    num_frames: int
    pieces: tuple[Piece, ...]
    queue_s: float
    decode_s: float


@dataclass(frozen=True)
class PicturesEncoded:
    """One latent frame."""

    session: int
    data: bytes
    """bfloat16 [1, C, h, w]."""


@dataclass(frozen=True)
class SessionFailed:
    """This session cannot go on; the others can."""

    session: int
    reason: str


@dataclass(frozen=True)
class Pong:
    pass


Answer = (
    SessionOpened
    | SessionRefused
    | BlockWarmed
    | PartEncoded
    | BlockEncoded
    | PicturesEncoded
    | SessionFailed
)
"""What concerns one session."""
Reply = DecoderReady | DecoderUnusable | Answer | Pong
