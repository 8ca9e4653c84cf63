"""`push`: a stream goes to a receiver until the session ends; a receiver that goes away is sought again."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Self

from cascade_client.errors import CannotPush, MissingExtra
from cascade_client.events import Ended, Event, MediaInit, Segment
from cascade_client.processes.child import Child
from cascade_client.processes.restarts import Restarts
from cascade_client.push.messages import INIT, SEGMENT, pack, pack_target
from cascade_client.push.target import Target
from cascade_client.stream import Stream

CONNECT_DEADLINE_S = 30.0
"""The first picture is sent within this."""
STALL_DEADLINE_S = 10.0
"""A segment takes its own time, and no more than this beside it."""
GIVE_UP_AFTER_S = 60.0
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 10.0
END_WITHIN_S = 6.0


@dataclass(frozen=True)
class Pushed:
    """What a receiver got."""

    num_segments: int = 0
    duration_s: float = 0.0
    num_reconnects: int = 0
    ended: Ended | None = None
    """How the session ended; None: it has not."""


Progress = Callable[[Event, Pushed], Any]
"""Called with every event, after a segment was sent."""
TellLost = Callable[[str], Any]
"""Called with a sentence when the receiver is lost."""


class RelayLost(Exception):
    """It says why."""


class Relay:
    """Our end of the process that sends."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._deadline_s = CONNECT_DEADLINE_S

    @classmethod
    async def start(cls, target: Target, init: MediaInit) -> Self:
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-m", "cascade_client.push.relay"]
        child = await Child.start(command, stdin=pipe, stdout=pipe)
        child.stdin.write(pack_target(target) + pack(INIT, init.data))
        return cls(child)

    async def send(self, segment: Segment) -> None:
        """Returns when it is sent, at the speed of its pictures. Raises RelayLost."""
        try:
            async with asyncio.timeout(segment.duration_s + self._deadline_s):
                self._child.stdin.write(pack(SEGMENT, segment.data))
                with suppress(ConnectionError):  # it says why it ended
                    await self._child.stdin.drain()
                answer = await self._child.stdout.readline()
        except TimeoutError:
            raise RelayLost(f"it has taken nothing for {self._deadline_s:g} s") from None
        if text := answer.decode(errors="replace").strip():
            raise RelayLost(text)
        if not answer:
            raise RelayLost(f"the sending process ended with status {await self._child.wait()}")
        self._deadline_s = STALL_DEADLINE_S

    async def end(self) -> None:
        """Close the connection in good order where that is possible."""
        self._child.stdin.close()
        await self._child.end(lambda: None, self._child.terminate, within_s=END_WITHIN_S / 2)


async def push(
    stream: Stream,
    target: Target,
    progress: Progress | None = None,
    tell_lost: TellLost | None = None,
    *,
    give_up_after_s: float = GIVE_UP_AFTER_S,
) -> Pushed:
    """Send the video to a receiver, at the speed of playback, until the session ends.

        async with client.connect(session, role="viewer") as stream:
            await push(stream, Target("rtmp://localhost/live/key"))

    A segment is acknowledged when its last picture was sent. A receiver that is lost is sought again with
    the same segment; raises CannotPush where the first attempt fails, or none succeeds for
    `give_up_after_s`, and MissingExtra without `pip install 'cascade-client[push]'`.
    """
    check_installed(target)
    sender = Sender(target, tell_lost, give_up_after_s)
    pushed = Pushed()
    try:
        async for event in stream:
            if isinstance(event, Segment):
                assert stream.media_init, "the gateway sends it before the first segment"
                await sender.send(stream.media_init, event)
                pushed = replace(
                    pushed,
                    num_segments=pushed.num_segments + 1,
                    duration_s=pushed.duration_s + event.duration_s,
                    num_reconnects=sender.num_reconnects,
                )
            elif isinstance(event, Ended):
                pushed = replace(pushed, ended=event)
            if progress:
                progress(event, pushed)
    finally:
        await sender.close()
    return pushed


class Sender:
    """Has a relay as often as it takes."""

    def __init__(self, target: Target, tell_lost: TellLost | None, give_up_after_s: float) -> None:
        self._target = target
        self._tell_lost = tell_lost
        self._give_up_after_s = give_up_after_s
        self._relay: Relay | None = None
        self._init: MediaInit | None = None
        self._is_proven = False
        self.num_reconnects = 0

    async def send(self, init: MediaInit, segment: Segment) -> None:
        """Raises CannotPush."""
        if init is not self._init:
            await self.close()
            self._init = init
        loop = asyncio.get_running_loop()
        restarts, lost_at = Restarts(FIRST_WAIT_S, LONGEST_WAIT_S), None
        while True:
            try:
                self._relay = self._relay or await Relay.start(self._target, init)
                await self._relay.send(segment)
            except (RelayLost, OSError) as error:
                await self.close()
                lost_at = lost_at or loop.time()
                wait_s = restarts.wait_s(0.0)
                is_over = loop.time() + wait_s - lost_at > self._give_up_after_s
                if is_over or not self._is_proven:
                    raise CannotPush(f"cannot send to {self._target.shown}: {error}") from None
                if self._tell_lost:
                    self._tell_lost(f"{self._target.shown} is lost ({error}); again in {wait_s:g} s")
                await asyncio.sleep(wait_s)
                self.num_reconnects += 1
            else:
                self._is_proven = True
                return

    async def close(self) -> None:
        relay, self._relay = self._relay, None
        if relay:
            await relay.end()


def check_installed(target: Target) -> None:
    """Raises MissingExtra."""
    names = ("av", "aiortc") if target.is_whip else ("av",)
    if missing := [name for name in names if find_spec(name) is None]:
        raise MissingExtra("push", f"sending to {target.shown} needs {' and '.join(missing)}")
