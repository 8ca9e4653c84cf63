"""Sends packets to a receiver that FFmpeg's writers reach: RTMP, SRT."""

import shutil
import subprocess
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

import av
from av.packet import Packet
from av.video.stream import VideoStream

from cascade_client.push.target import Target

SRT_PROGRAM = "ffmpeg"
TS_PACKET_BYTES = 188
ENDS_WITHIN_S = 5.0


VideoPacket: TypeAlias = "Packet[VideoStream]"


class Output(Protocol):
    """An open way to a receiver. Methods raise OSError, whose text is for people."""

    def send(self, packet: VideoPacket) -> None:
        """The packet's times count from 0."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class MuxedOutput:
    """By a writer of FFmpeg, without encoding anew."""

    def __init__(self, target: Target, source: VideoStream) -> None:
        """Connects. `source`: whose packets will come. Raises OSError."""
        self._program: subprocess.Popen[bytes] | None = None
        try:
            self._begin(target.url, "mpegts" if target.protocol == "srt" else "flv", source)
        except av.error.ProtocolNotFoundError:
            if target.protocol != "srt":
                raise
            self._begin(self._start_program(target), "mpegts", source)  # PyAV's wheels lack SRT

    def _begin(self, where: Any, form: str, source: VideoStream) -> None:
        # Pictures leave as they come, however small they are.
        self._container = av.open(where, "w", format=form, options={"fflags": "+flush_packets"})
        self._stream = self._container.add_stream_from_template(source)
        self._container.start_encoding()

    def _start_program(self, target: Target) -> Any:
        """Takes a stream on its standard input and passes it on as it is."""
        if not shutil.which(SRT_PROGRAM):
            raise OSError(f"srt:// needs the program {SRT_PROGRAM}, since PyAV was built without SRT")
        source = ["-f", "data", "-raw_packet_size", str(TS_PACKET_BYTES), "-i", "pipe:0", "-map", "0"]
        sink = ["-c", "copy", "-flush_packets", "1", "-f", "data", target.url]
        command = [SRT_PROGRAM, "-loglevel", "error", *source, *sink]
        self._program = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0)
        return self._program.stdin

    def send(self, packet: VideoPacket) -> None:
        if self._program and (status := self._program.poll()) is not None:
            raise OSError(f"{SRT_PROGRAM} ended with status {status}")
        packet.stream = self._stream
        self._container.mux(packet)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a receiver that is gone has been told of already
            self._container.close()
        if self._program and self._program.stdin:
            with suppress(OSError):
                self._program.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._program.wait(ENDS_WITHIN_S)
