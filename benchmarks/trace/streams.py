"""Streams and events of a device that is not there: everything is done as soon as it is asked."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch

OnWait = Callable[[str], None]
"""Told what makes the host wait for the device."""


def stream_stand_ins(on_wait: OnWait) -> dict[tuple[Any, str], Callable[..., Any]]:
    """What stands in for parts of `torch.cuda`."""

    def synchronize(device: object = None) -> None:
        on_wait("torch.cuda.synchronize")

    def event(**options: bool) -> Event:
        return Event(on_wait)

    def stream(device: object = None, priority: int = 0) -> Stream:
        return Stream(on_wait)

    return {
        (torch.cuda, "synchronize"): synchronize,
        (torch.cuda, "Event"): event,
        (torch.cuda, "Stream"): stream,
        (torch.cuda, "current_stream"): stream,
        (torch.cuda, "default_stream"): stream,
        (torch.cuda, "stream"): lambda stream: stream or Stream(on_wait),
    }


class Event:
    """A point in a stream."""

    def __init__(self, on_wait: OnWait) -> None:
        self._on_wait = on_wait

    def record(self, stream: object = None) -> None: ...

    def wait(self, stream: object = None) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: "Event") -> float:
        return 0.0

    def synchronize(self) -> None:
        self._on_wait("torch.cuda.Event.synchronize")


class Stream:
    """An order of work."""

    def __init__(self, on_wait: OnWait) -> None:
        self._on_wait = on_wait

    def record_event(self, event: Event | None = None) -> Event:
        return event or Event(self._on_wait)

    def wait_event(self, event: Event) -> None: ...

    def wait_stream(self, stream: object) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self._on_wait("torch.cuda.Stream.synchronize")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
