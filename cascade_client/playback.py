"""What your player has, as acks tell it."""

from dataclasses import dataclass
from math import isfinite

from google.protobuf.duration_pb2 import Duration

from cascade.v1.session_pb2 import ConnectRequest

MAX_PLAYHEAD_S, MAX_BUFFERED_S = 2.0**31, 3600.0
MAX_STALLS = 2**32 - 1


@dataclass(frozen=True)
class Playback:
    """For `Stream.ack`: blocks are then made right before your player needs them, and a switch is that much
    closer. Raises ValueError for what no player can have."""

    playhead_s: float
    """What is on the screen, on the session's clock (`Segment.time_s`)."""
    buffered_s: float = 0.0
    """What can be played from there without receiving more; an hour at most."""
    num_stalls: int = 0
    """How often the picture has stood still for want of video so far."""
    waiting: bool = False
    """It stands still now, for want of video, or has not begun."""

    def __post_init__(self) -> None:
        for name, value, most in (
            ("playhead_s", self.playhead_s, MAX_PLAYHEAD_S),
            ("buffered_s", self.buffered_s, MAX_BUFFERED_S),
            ("num_stalls", self.num_stalls, MAX_STALLS),
        ):
            if not (isfinite(value) and 0 <= value <= most):
                raise ValueError(f"{name}: {value} is not from 0 to {most:g}")

    def message(self) -> ConnectRequest.Playback:
        playhead, buffered = Duration(), Duration()
        playhead.FromNanoseconds(round(self.playhead_s * 1e9))
        buffered.FromNanoseconds(round(self.buffered_s * 1e9))
        return ConnectRequest.Playback(
            playhead=playhead, buffered=buffered, num_stalls=self.num_stalls, waiting=self.waiting
        )
