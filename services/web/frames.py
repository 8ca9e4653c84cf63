"""WebSocket messages: text is JSON, binary is JSON with media behind it.

    text     {"stateChanged": {...}}
    binary   | length of the header, 4 bytes, big-endian | header: JSON, UTF-8 | media |

The header of a segment or a part is the event without its `media.data`, that of a media init without its
`data`: the rest of the message is what to append to a SourceBuffer. Of a segment that came in parts it is
empty.
"""

import json
import struct
from typing import Any

from cascade.v1 import session_pb2
from services.web.mapping import json_of

Response = session_pb2.ConnectResponse
LENGTH = struct.Struct(">I")


def frame_of(event: Response) -> str | bytes:
    """What is sent. The event is used up: its media is taken out."""
    holder = media_of(event)
    if holder is None:
        return text_of(json_of(event))
    data = holder.data
    holder.ClearField("data")
    header = text_of(json_of(event)).encode()
    return b"".join((LENGTH.pack(len(header)), header, data))


def media_of(event: Response) -> Any:
    """The message whose `data` is media; None: it has none."""
    match event.WhichOneof("message"):
        case "segment":
            return event.segment.media
        case "part":
            return event.part.media
        case "media_init":
            return event.media_init
    return None


def text_of(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
