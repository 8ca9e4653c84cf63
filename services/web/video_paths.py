"""What the OpenAPI document says of paths that are no method of the contract: WebSocket, HLS, download."""

from dataclasses import dataclass
from typing import Any

from services.web.backend import RESUME_PARAMETER
from services.web.hls import (
    INIT_TYPE,
    MAX_DIGITS,
    NEXT_PART,
    NEXT_SEQUENCE,
    PLAYLIST_TYPE,
    PREFIX,
    SEGMENT_TYPE,
)
from services.web.recording import MP4
from services.web.videos import PROFILE, PROFILE_ID
from services.web.websocket import PROTOCOL

Schema = dict[str, Any]
SESSION: Schema = {
    "name": "session",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"},
}
TOKEN: Schema = {"type": "string", "maxLength": 2048}
RESUME: tuple[Schema, ...] = (
    {
        "name": RESUME_PARAMETER,
        "in": "query",
        "description": "A resume token instead of a credential, for players that cannot send headers.",
        "schema": TOKEN,
    },
    {"name": "X-Resume-Token", "in": "header", "description": "The same, as a header.", "schema": TOKEN},
)
PROFILE_PARAMETER: Schema = {
    "name": PROFILE,
    "in": "query",
    "description": "Which form of the video; by default the first of the session's.",
    "schema": {"type": "string", "maxLength": 32, "pattern": f"^{PROFILE_ID.pattern}$"},
}
DIGEST: Schema = {
    "name": "digest",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[0-9a-f]{12}$"},
}
SEQUENCE: Schema = {
    "name": "sequence",
    "in": "path",
    "required": True,
    "schema": {"type": "integer", "format": "int64", "minimum": 1, "maximum": 2**63 - 1},
}
PART: tuple[Schema, ...] = tuple(
    {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "integer", "format": "int64", "minimum": least, "maximum": 2**63 - 1},
    }
    for name, least in (("epoch", 1), ("index", 0))
)
RELOAD: tuple[Schema, ...] = tuple(
    {
        "name": name,
        "in": "query",
        "description": f"Wait until {what} is there.",
        "schema": {"type": "integer", "minimum": least, "maximum": 10**MAX_DIGITS - 1},
    }
    for name, what, least in (
        (NEXT_SEQUENCE, "this segment", 1),
        (NEXT_PART, "this part of that segment, from 0,", 0),
    )
)
UPGRADE: tuple[Schema, ...] = (
    {
        "name": "Sec-WebSocket-Protocol",
        "in": "header",
        "description": "The subprotocol of these messages.",
        "required": True,
        "schema": {"type": "string", "const": PROTOCOL},
    },
)
RANGES: tuple[Schema, ...] = (
    {
        "name": "Range",
        "in": "header",
        "description": "Which bytes; several ranges, or what is no range, are answered with all of them.",
        "schema": {"type": "string", "maxLength": 64},
    },
    {
        "name": "If-Range",
        "in": "header",
        "description": "The ETag of the file that was begun; without its segments the file begins anew.",
        "schema": {"type": "string", "maxLength": 128},
    },
)
CONNECT = (
    "A WebSocket. The client's messages are JSON text, each a ConnectRequest; the first is `attach`, within "
    "10 s, and may have a `credential` (an API key or a JWT) beside it. The gateway's are ConnectResponses: "
    "JSON text, or binary where they carry media: the length of a JSON header in 4 bytes, big-endian, that "
    'header, and the media. A stream that cannot go on ends with the text `{"problem": {...}}`, a Problem, '
    "and the close code 4000 + its status."
)


@dataclass(frozen=True)
class VideoPath:
    """One path, always GET."""

    path: str
    name: str
    """The operation's."""
    summary: str
    parameters: tuple[Schema, ...]
    """Beside the session and the resume token."""
    media_type: str = ""
    """Of success; empty: there is no content, the protocol is switched."""
    has_ranges: bool = False
    """Whether parts of it can be had."""

    def operation(self, failures: dict[str, Schema]) -> Schema:
        """`failures`: answers by status."""
        content: Schema = {"description": "OK", "content": {self.media_type: {}}}
        success: Schema = (
            {"200": content} if self.media_type else {"101": {"description": "Switching Protocols"}}
        )
        if self.has_ranges:
            success["206"] = {"description": "Partial Content", "content": {self.media_type: {}}}
            success["416"] = {"$ref": "#/components/responses/Problem"}
        ranges = RANGES if self.has_ranges else ()
        return {
            "operationId": self.name,
            "tags": ["Video"],
            "description": self.summary,
            "parameters": [SESSION, *self.parameters, *ranges, *RESUME],
            "security": [{"bearer": []}, {}],
            "responses": success | failures,
        }


VIDEO_PATHS = (
    VideoPath("/v1/sessions/{session}/connect", "connect", CONNECT, UPGRADE),
    VideoPath(
        f"{PREFIX}/index.m3u8",
        "getPlaylist",
        "HLS: live, and a recording of what is kept once the session has ended. Waits for the first segment.",
        (PROFILE_PARAMETER,),
        PLAYLIST_TYPE,
    ),
    VideoPath(
        f"{PREFIX}/low-latency.m3u8",
        "getLowLatencyPlaylist",
        "The same as Low-Latency HLS, in parts. A reload may wait, at most 3 s, for what is not there yet.",
        (PROFILE_PARAMETER, *RELOAD),
        PLAYLIST_TYPE,
    ),
    VideoPath(
        f"{PREFIX}/{{sequence}}.{{epoch}}.{{index}}.m4s",
        "getPart",
        "The pictures of one latent frame, as long as players at the live edge may want them. The part that "
        "the playlist names ahead may be asked for before it is there.",
        (SEQUENCE, *PART, PROFILE_PARAMETER),
        SEGMENT_TYPE,
    ),
    VideoPath(
        f"{PREFIX}/init-{{digest}}.mp4",
        "getInit",
        "The initialisation segment that the playlist names.",
        (DIGEST, PROFILE_PARAMETER),
        INIT_TYPE,
    ),
    VideoPath(
        f"{PREFIX}/{{sequence}}.m4s",
        "getSegment",
        "One block of video, as long as it is kept.",
        (SEQUENCE, PROFILE_PARAMETER),
        SEGMENT_TYPE,
    ),
    VideoPath(
        "/v1/sessions/{session}/video.mp4",
        "getVideo",
        "What is kept, as one file to download.",
        (PROFILE_PARAMETER,),
        MP4,
        has_ranges=True,
    ),
)
