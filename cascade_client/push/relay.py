"""The process that sends: `python -m cascade_client.push.relay`, started by `sender.py`.

Pictures leave when they are due, so that a receiver gets them evenly. One that hangs holds this process up,
which its parent then ends.
"""

import signal
import sys
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from io import BytesIO

import av
from av.video.stream import VideoStream

from cascade_client.push.messages import DONE, INIT, TARGET, read, unpack_target
from cascade_client.push.output import MuxedOutput, Output, VideoPacket
from cascade_client.push.target import Target

LATE_S = 1.0
"""Whatever comes later than this moves all that follows, instead of being made up for in a burst."""


@dataclass
class Pace:
    """When pictures are due: the first at once."""

    _start_s: float | None = None

    def wait(self, time_s: float) -> None:
        now = time.monotonic()
        if self._start_s is None or now - (self._start_s + time_s) > LATE_S:
            self._start_s = now - time_s
        time.sleep(max(0.0, self._start_s + time_s - now))


class Relay:
    """Sends the segments of one video to one receiver."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._open = ExitStack()
        self._output: Output | None = None
        self._pace = Pace()
        self._first_tick = 0
        self._init = b""

    def begin(self, init: bytes) -> None:
        """What comes is of this form."""
        self.close()
        self._init = init

    def send(self, segment: bytes) -> None:
        """Returns when the last picture has been sent. Raises OSError, whose text is for people."""
        try:
            with av.open(BytesIO(self._init + segment), "r") as container:
                source = container.streams.video[0]
                for packet in container.demux(source):
                    if packet.size:  # the last is none, but a sign of the end
                        self._send(packet, source)
        except av.FFmpegError as error:
            raise OSError(error.strerror) from None

    def _send(self, packet: VideoPacket, source: VideoStream) -> None:
        assert packet.pts is not None
        assert packet.time_base
        if self._output is None:
            self._output = self._open.enter_context(connect(self._target, source))
            self._first_tick = packet.pts
        packet.pts = packet.dts = packet.pts - self._first_tick  # no picture refers to a later one
        self._pace.wait(float(packet.pts * packet.time_base))
        self._output.send(packet)

    def close(self) -> None:
        self._open.close()
        self._output, self._pace = None, Pace()


def connect(target: Target, source: VideoStream) -> AbstractContextManager[Output]:
    """Raises OSError, or av.FFmpegError."""
    if target.is_whip:
        from cascade_client.push.whip import WhipOutput

        return WhipOutput(target, source)
    return MuxedOutput(target, source)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that what is open is closed
    av.logging.set_level(None)
    source, answers = sys.stdin.buffer, sys.stdout.buffer
    first = read(source)
    if first is None or first[0] != TARGET:
        return 2
    target = unpack_target(first[1])
    relay = Relay(target)
    try:
        while message := read(source):
            kind, data = message
            if kind == INIT:
                relay.begin(data)
            else:
                relay.send(data)
                answers.write(DONE)
                answers.flush()
    except (OSError, EOFError) as error:
        answers.write(f"{target.hide_in(str(error))}\n".encode())
        answers.flush()
        return 1
    finally:
        relay.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
