"""The client of Cascade: an async SDK, and the command `cascade`. Imports no torch and no services.

    from cascade_client import Client, save

    async with Client("localhost:50051") as client:
        session = await client.create("a red circle moves left", num_blocks=40)
        async with client.connect(session) as stream:
            await save(stream, "video.mp4")

`SyncClient` is the same without `async`. What can go wrong is in `cascade_client.errors`, what a stream tells
in `cascade_client.events`; all of it can be imported from here.
"""

from cascade_client.channel import Tls
from cascade_client.client import Client
from cascade_client.errors import (
    AlreadyExists,
    CannotPush,
    CannotSave,
    CascadeClientError,
    EndedEarly,
    Exhausted,
    InvalidRequest,
    MissingExtra,
    NotAllowed,
    NotFound,
    Replaced,
    SequenceGap,
    ServerFault,
    Unavailable,
    Violation,
    WrongState,
)
from cascade_client.events import (
    Attached,
    Ended,
    Event,
    MediaInit,
    Part,
    PromptReceipt,
    QueueChanged,
    Reconnected,
    RecoveryDone,
    RecoveryStarted,
    Segment,
    Skipped,
    StateChanged,
)
from cascade_client.frames import Frame
from cascade_client.playback import Playback
from cascade_client.prompts import Prompt, Transition
from cascade_client.save import Saved, save
from cascade_client.session import Session
from cascade_client.stream import Stream
from cascade_client.sync import SyncClient, SyncStream

__all__ = [
    "AlreadyExists",
    "Attached",
    "CannotPush",
    "CannotSave",
    "CascadeClientError",
    "Client",
    "Ended",
    "EndedEarly",
    "Event",
    "Exhausted",
    "Frame",
    "InvalidRequest",
    "MediaInit",
    "MissingExtra",
    "NotAllowed",
    "NotFound",
    "Part",
    "Playback",
    "Prompt",
    "PromptReceipt",
    "QueueChanged",
    "Reconnected",
    "RecoveryDone",
    "RecoveryStarted",
    "Replaced",
    "Saved",
    "Segment",
    "SequenceGap",
    "ServerFault",
    "Session",
    "Skipped",
    "StateChanged",
    "Stream",
    "SyncClient",
    "SyncStream",
    "Tls",
    "Transition",
    "Unavailable",
    "Violation",
    "WrongState",
    "save",
]
