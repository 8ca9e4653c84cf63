"""Pictures out of segments, for programs that look at them: PyAV and numpy, the extra `frames`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

from cascade_client.errors import MissingExtra
from cascade_client.events import Event, MediaInit, Segment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Tell = Callable[[Event], Any]


@dataclass(frozen=True)
class Frame:
    """One picture."""

    image: "NDArray[np.uint8]" = field(repr=False)
    """[H, W, 3], red, green, blue."""
    time_s: float
    """When it is due, on the session's clock."""
    sequence: int
    """The segment that it comes from."""


def check_installed() -> None:
    """Raises MissingExtra."""
    missing = [name for name in ("av", "numpy") if find_spec(name) is None]
    if missing:
        raise MissingExtra("frames", f"frames() needs {' and '.join(missing)}")


async def decoded(
    events: AsyncIterator[Event], init: MediaInit | None, tell: Tell | None
) -> AsyncIterator[Frame]:
    """The pictures of all segments, one segment decoded at a time, in a thread. `init`: what came before."""
    async for event in events:
        if tell:
            tell(event)
        if isinstance(event, MediaInit):
            init = event
        elif isinstance(event, Segment):
            assert init, "the gateway sends it before the first segment"
            for frame in await asyncio.to_thread(decode, init, event):
                yield frame


def decode(init: MediaInit, segment: Segment) -> list[Frame]:
    """Each segment starts with an IDR picture, so it needs no other."""
    import av

    with av.open(BytesIO(init.data + segment.data), "r") as video:
        pictures = [(each.to_ndarray(format="rgb24"), each.time) for each in video.decode(video=0)]
    return [Frame(cast("NDArray[np.uint8]", image), time_s, segment.sequence) for image, time_s in pictures]
