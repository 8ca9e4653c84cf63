"""The client of Cascade: an async SDK, and the command `cascade`. Imports no torch and no services.

    from cascade_client import Client, Segment, save

    async with Client("localhost:50051") as client:
        session = await client.create("a red circle moves left", num_blocks=40)
        async with client.connect(session) as stream:
            await save(stream, "video.mp4")

What can go wrong is in `cascade_client.errors`, what a stream tells in `cascade_client.events`.
"""

from cascade_client.channel import Tls
from cascade_client.client import Client
from cascade_client.errors import CascadeClientError, SequenceGap
from cascade_client.events import (
    Attached,
    Ended,
    Event,
    MediaInit,
    PromptReceipt,
    QueueChanged,
    Reconnected,
    RecoveryDone,
    RecoveryStarted,
    Segment,
    Skipped,
    StateChanged,
)
from cascade_client.save import Saved, save
from cascade_client.session import Session
from cascade_client.stream import Stream

__all__ = [
    "Attached",
    "CascadeClientError",
    "Client",
    "Ended",
    "Event",
    "MediaInit",
    "PromptReceipt",
    "QueueChanged",
    "Reconnected",
    "RecoveryDone",
    "RecoveryStarted",
    "Saved",
    "Segment",
    "SequenceGap",
    "Session",
    "Skipped",
    "StateChanged",
    "Stream",
    "Tls",
    "save",
]
