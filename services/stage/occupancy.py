"""The sessions that are here, from the moment their stream is let in."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from cascade_core.engine.engine import Engine
from cascade_core.errors import InvalidRequest
from cascade_core.request import SessionRequest
from services.common.errors import UnsupportedMedia


class Occupancy:
    """Counted here and not in the engine, so that streams that still send their context count."""

    def __init__(self) -> None:
        self.empty = asyncio.Event()
        self.empty.set()
        self._held: list[SessionRequest] = []

    def __len__(self) -> int:
        return len(self._held)

    @property
    def requests(self) -> list[SessionRequest]:
        return self._held

    @contextmanager
    def hold(self, request: SessionRequest, engine: Engine) -> Iterator[None]:
        """A place for as long as the block lasts; raises OutOfCapacity, or UnsupportedMedia where the session
        never fits."""
        try:
            engine.check_room(request, self._held)
        except InvalidRequest as error:
            raise UnsupportedMedia(str(error), field="open.width") from None
        self._held.append(request)
        self.empty.clear()
        try:
            yield
        finally:
            self._held = [held for held in self._held if held is not request]
            if not self._held:
                self.empty.set()
