"""What a WebRTC player has, as acks tell it: what leaves here is on its screen a moment later."""

from collections.abc import Callable
from datetime import timedelta

from cascade.v1 import session_pb2
from services.web.webrtc.track import Playing


class Playback:
    """`now`: seconds of any one clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.is_paused = False
        """Nothing comes then, and that is no stall."""
        self._now = now
        self._has = Playing()
        self._noted = now()
        self._num_stalls = 0

    def note(self, playing: Playing) -> None:
        if playing.is_waiting and not self._has.is_waiting and not self.is_paused:
            self._num_stalls += 1
        self._has, self._noted = playing, self._now()

    def message(self) -> session_pb2.ConnectRequest.Playback:
        """By now."""
        has = self._has
        since_s = 0.0 if has.is_waiting else min(self._now() - self._noted, has.buffered_s)
        message = session_pb2.ConnectRequest.Playback(num_stalls=self._num_stalls, waiting=has.is_waiting)
        message.playhead.FromTimedelta(timedelta(seconds=has.playhead_s + since_s))
        message.buffered.FromTimedelta(timedelta(seconds=has.buffered_s - since_s))
        return message
