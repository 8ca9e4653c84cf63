"""What a Stream tells, in the order it happens. Times are seconds, moments are in UTC.

async for event in stream:
    match event:
        case MediaInit() | Segment():
            player.feed(event.data)
        case PromptReceipt(state="APPLIED"):
            print("seen from", event.touched_time_s, "s on")
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from cascade.v1 import common_pb2, session_pb2
from cascade_client.errors import CascadeClientError, from_status
from cascade_client.session import Session, moment, name_of, seconds


@dataclass(frozen=True)
class Attached:
    """The first event: the session as it is now."""

    session: Session
    role: str
    """CONTROLLER or VIEWER."""
    next_sequence: int
    """Of the first segment that comes."""
    max_unacked_segments: int
    """The credit: how far the server works ahead of the last ack."""
    receipts: tuple["PromptReceipt", ...]
    """Switches that have not taken effect yet, and the last that have, oldest first."""
    just_in_time: bool = False
    """Whether the gateway wants to know what your player has (`Playback`)."""


@dataclass(frozen=True)
class MediaInit:
    """What a player needs before the segments that follow; comes again only if it differs."""

    profile_id: str
    mime_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Segment:
    """One block of video. `data` of MediaInit and of all segments in order are one MP4 file."""

    sequence: int
    """From 1, each once and without gaps, whatever was lost on the way."""
    block: int
    epoch: int
    first_frame: int
    num_frames: int
    time_s: float
    """When its first picture is due, on the session's clock."""
    duration_s: float
    create_time: datetime
    profile_id: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Part:
    """Some pictures of the segment that comes next, as soon as they are made; only with `with_parts`.

    The parts of a segment in order are its data. They begin with `index` 0 and an IDR picture; where that
    comes again for the same sequence, or a segment of another epoch, it was made anew after a loss, and what
    had come of it is void.
    """

    sequence: int
    """Of its segment."""
    block: int
    epoch: int
    index: int
    """Which of its segment, from 0."""
    first_frame: int
    num_frames: int
    time_s: float
    """When its first picture is due, on the session's clock."""
    duration_s: float
    profile_id: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class PromptReceipt:
    """A prompt switch got further."""

    request_id: str
    """Of the switch; empty for an entry of the timeline."""
    state: str
    """ACCEPTED, APPLIED or REFUSED."""
    first_block_touched: int | None
    """The first block whose picture the new prompt changes; None until APPLIED."""
    first_block_full: int | None
    """The first block made under the new prompt alone; None until APPLIED."""
    touched_time_s: float | None
    """When the former block is due, on the session's clock; None until APPLIED."""
    full_time_s: float | None
    """When the latter block is due."""
    unknown_words: tuple[str, ...]
    """Words that the model does not know and ignored."""
    error: CascadeClientError | None
    """Why it was REFUSED."""
    loras: Mapping[str, float] | None = None
    """From then on, name -> scale; None: the switch named none and has not taken effect."""
    last_block_mixed: int | None = None
    """The last block made under a mix of both prompts; None until APPLIED, and without a transition."""


@dataclass(frozen=True)
class StateChanged:
    """The session is in another state."""

    state: str
    epoch: int
    paused: bool
    """The wish to pause; `state` shows whether it has come true."""


@dataclass(frozen=True)
class QueueChanged:
    """The session's place in the queue."""

    position: int
    """1 is next."""
    queue_length: int
    eta_s: float | None
    """Estimated wait; None: nothing to estimate from."""
    message: str = ""
    """What no stage offers now; empty: it waits for a place alone."""


@dataclass(frozen=True)
class RecoveryStarted:
    """Something was lost under the session and is being rebuilt; segments pause."""

    cause: str
    """STAGE_LOST, DECODER_LOST, STAGE_AND_DECODER_LOST, GATEWAY_LOST or MIGRATION."""
    start_time: datetime


@dataclass(frozen=True)
class RecoveryDone:
    """The session goes on."""

    cause: str
    recovery_class: str
    """UNAFFECTED or REBUILT: what it means for the picture."""
    epoch: int
    first_sequence: int
    gap_s: float
    """Between the last segment before and the first after, measured by the gateway."""


@dataclass(frozen=True)
class Skipped:
    """A viewer fell behind: segments `first_sequence` to `next_sequence` - 1 were left out."""

    first_sequence: int
    next_sequence: int


@dataclass(frozen=True)
class Reconnected:
    """The stream was lost or moved, and this client has attached again; nothing is missing."""

    gap_s: float
    """From the last message of the old stream to the first of the new one."""
    attempts: int
    """Including the one that succeeded."""
    reason: str
    """Why the old stream ended, for people."""


@dataclass(frozen=True)
class Ended:
    """The last event of a session."""

    reason: str
    """DELETED, COMPLETE, POSITIONS_EXHAUSTED, IDLE, EVICTED or FAILED."""
    last_sequence: int
    error: CascadeClientError | None
    """Details where it is FAILED or EVICTED."""


Event: TypeAlias = (
    Attached
    | MediaInit
    | Segment
    | Part
    | PromptReceipt
    | StateChanged
    | QueueChanged
    | RecoveryStarted
    | RecoveryDone
    | Skipped
    | Reconnected
    | Ended
)


def attached(message: session_pb2.ConnectResponse.Attached) -> Attached:
    return Attached(
        session=Session(message.session, message.resume_token),
        role=name_of(session_pb2.ConnectRole, message.role),
        next_sequence=message.next_sequence,
        max_unacked_segments=message.max_unacked_segments,
        receipts=tuple(receipt(each) for each in message.receipts),
        just_in_time=message.just_in_time,
    )


def receipt(message: session_pb2.PromptReceipt) -> PromptReceipt:
    is_applied = message.HasField("first_block_touched")
    return PromptReceipt(
        request_id=message.request_id,
        state=name_of(session_pb2.SwitchState, message.state),
        first_block_touched=message.first_block_touched if is_applied else None,
        first_block_full=message.first_block_full if message.HasField("first_block_full") else None,
        touched_time_s=seconds(message.touched_presentation_time) if is_applied else None,
        full_time_s=seconds(message.full_presentation_time) if is_applied else None,
        unknown_words=tuple(message.unknown_words),
        error=from_status(message.status) if message.HasField("status") else None,
        loras=loras_of(message.loras.loras) if message.HasField("loras") else None,
        last_block_mixed=message.last_block_mixed if message.HasField("last_block_mixed") else None,
    )


def loras_of(choices: Iterable[common_pb2.LoraChoice]) -> dict[str, float]:
    return {each.name: each.scale if each.HasField("scale") else 1.0 for each in choices}


def queue_changed(message: session_pb2.QueueStatus) -> QueueChanged:
    eta_s = seconds(message.eta) if message.HasField("eta") else None
    return QueueChanged(message.position, message.queue_length, eta_s, message.message)


def ended(message: session_pb2.SessionEnd) -> Ended:
    error = from_status(message.status) if message.HasField("status") else None
    return Ended(name_of(session_pb2.EndReason, message.reason), message.last_sequence, error)


def segment(message: session_pb2.ConnectResponse.Segment, data: bytes) -> Segment:
    """`data`: the video, which came with it or before it."""
    media = message.media
    return Segment(
        sequence=message.sequence,
        block=media.block,
        epoch=message.epoch,
        first_frame=media.first_frame,
        num_frames=media.num_frames,
        time_s=seconds(media.presentation_time),
        duration_s=seconds(media.duration),
        create_time=moment(message.create_time),
        profile_id=media.profile_id,
        data=data,
    )


def part(message: session_pb2.ConnectResponse.Part) -> Part:
    media = message.media
    return Part(
        sequence=message.sequence,
        block=media.block,
        epoch=message.epoch,
        index=message.index,
        first_frame=media.first_frame,
        num_frames=media.num_frames,
        time_s=seconds(media.presentation_time),
        duration_s=seconds(media.duration),
        profile_id=media.profile_id,
        data=media.data,
    )


def notice(message: session_pb2.ConnectResponse) -> Event | None:
    """The event of a message that needs no bookkeeping; None: nothing to tell, or of a later version."""
    match message.WhichOneof("message"):
        case "state_changed":
            state = message.state_changed
            return StateChanged(name_of(session_pb2.SessionState, state.state), state.epoch, state.paused)
        case "queue_changed":
            return queue_changed(message.queue_changed)
        case "recovery_started":
            cause = name_of(session_pb2.RecoveryCause, message.recovery_started.cause)
            return RecoveryStarted(cause, moment(message.recovery_started.start_time))
        case "recovery_done":
            return _recovery_done(message.recovery_done)
    return None


def _recovery_done(message: session_pb2.ConnectResponse.RecoveryDone) -> RecoveryDone:
    return RecoveryDone(
        cause=name_of(session_pb2.RecoveryCause, message.cause),
        recovery_class=name_of(session_pb2.RecoveryClass, message.recovery_class),
        epoch=message.epoch,
        first_sequence=message.first_sequence,
        gap_s=seconds(message.gap),
    )
