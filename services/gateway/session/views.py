"""What the public contract shows of a journal record."""

from fractions import Fraction
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status

from cascade.v1 import common_pb2, session_pb2, stage_pb2
from services.common.durations import to_duration
from services.gateway.journal import Prompt, Record
from services.gateway.journal.lora_sets import lora_choices, lora_set
from services.gateway.journal.record import BRIEF_NOTES, MAX_BLOCK

MODEL, STATE, PAUSED, STARTED, EPOCH, UNKNOWN_WORDS, PROMPT = BRIEF_NOTES
MOVED = "moved"
"""Names of the journal's notes."""
INIT = "init/"
"""How the names of notes with a profile's MediaInit begin."""
MAX_SHOWN = 200
"""Characters of a prompt in its receipt, and in lists."""


def name_of(session: str) -> str:
    return f"sessions/{session}"


def timestamp(milliseconds: int) -> Timestamp:
    """Wall clock, since 1970."""
    moment = Timestamp()
    moment.FromMilliseconds(milliseconds)
    return moment


def first_frame(block: int, block_frames: int, num_given_blocks: int = 0) -> int:
    """Pictures before this block, of a model with `block_frames` latent frames per block: the very first
    becomes one picture, each other four. It is not among them where blocks that are not sent came before."""
    return 4 * block_frames * block - (0 if num_given_blocks else 3) if block else 0


def model_of(record: Record) -> stage_pb2.ModelInfo:
    """The model that makes this session; empty before its first start."""
    return stage_pb2.ModelInfo.FromString(record.notes.get(MODEL, b""))


def asked_of(record: Record) -> session_pb2.SessionSpec:
    """What was asked, but for the bytes of the file that it begins from."""
    spec = session_pb2.SessionSpec.FromString(record.origin.specification)
    if kind := spec.start.WhichOneof("file"):
        setattr(spec.start, kind, b"")
    return spec


def spec_of(record: Record) -> session_pb2.SessionSpec:
    """What was asked, with the defaults of the model, and of its first stage, once they are known."""
    spec, model = asked_of(record), model_of(record)
    spec.width, spec.height = spec.width or model.width, spec.height or model.height
    spec.fps = spec.fps or model.fps
    spec.stagger = spec.stagger or model.default_stagger
    spec.inflight_attention = spec.inflight_attention or model.default_inflight_attention
    return spec


def state_of(record: Record) -> "session_pb2.SessionState.ValueType":
    """As it was noted last."""
    if record.end:
        return session_pb2.SESSION_STATE_ENDED
    noted = record.notes.get(STATE, b"SESSION_STATE_QUEUED")
    return session_pb2.SessionState.Value(noted.decode())


def session_of(record: Record, epoch: int, **live: Any) -> session_pb2.Session:
    """`live`: fields that only the owner knows, such as `queue` and `has_controller`."""
    model = model_of(record)
    session = session_pb2.Session(
        name=name_of(record.session),
        spec=spec_of(record),
        tenant=record.tenant,
        state=state_of(record),
        paused=PAUSED in record.notes,
        epoch=(epoch or int(record.notes.get(EPOCH, 0))) if record.notes.get(MODEL) else 0,
        num_blocks=record.next_decoder_block,
        last_sequence=record.next_decoder_block,
        acked_sequence=record.num_acked,
        block_frames=model.block_frames,
        model_licence=model.licence,
        create_time=timestamp(record.created_ms),
        num_given_blocks=record.num_given_blocks,
    )
    first = session.spec.prompts.get(0, "")
    session.prompt = record.notes.get(PROMPT, b"").decode() or first[:MAX_SHOWN]
    session.loras.extend(loras_of(record))
    session.MergeFromString(record.notes.get(UNKNOWN_WORDS, b""))
    if started := record.notes.get(STARTED):
        session.start_time.CopyFrom(timestamp(int(started)))
    if record.end:
        session.end.ParseFromString(record.end)
    for field, value in live.items():
        if value is not None:
            session.MergeFrom(session_pb2.Session(**{field: value}))
    return session


def loras_of(record: Record) -> list[common_pb2.LoraChoice]:
    """Of the newest prompt that has taken effect."""
    return lora_choices(record.loras_at(MAX_BLOCK))


def receipt_of(prompt: Prompt, record: Record) -> session_pb2.PromptReceipt:
    """Where a prompt switch stands."""
    receipt = session_pb2.PromptReceipt(
        request_id="" if prompt.request_id.startswith("create/") else prompt.request_id,
        state=session_pb2.SWITCH_STATE_ACCEPTED,
        accept_time=timestamp(prompt.accepted_ms),
        unknown_words=prompt.unknown_words,
        text=prompt.prompt[:MAX_SHOWN],
    )
    if prompt.refused:
        receipt.state = session_pb2.SWITCH_STATE_REFUSED
        receipt.status.CopyFrom(Status.FromString(prompt.refused))
    if prompt.first_block_touched is not None and prompt.first_block_full is not None:
        receipt.state = session_pb2.SWITCH_STATE_APPLIED
        receipt.apply_time.CopyFrom(timestamp(prompt.applied_ms or 0))
        receipt.first_block_touched = prompt.first_block_touched
        receipt.first_block_full = prompt.first_block_full
        if prompt.last_block_mixed is not None:
            receipt.last_block_mixed = prompt.last_block_mixed
        receipt.touched_presentation_time.CopyFrom(presentation_time(prompt.first_block_touched, record))
        receipt.full_presentation_time.CopyFrom(presentation_time(prompt.first_block_full, record))
    if prompt.loras is not None:
        receipt.loras.CopyFrom(lora_set(prompt.loras))
    return receipt


def presentation_time(block: int, record: Record) -> Duration:
    """When the block is due on the session's clock."""
    frame = first_frame(block, model_of(record).block_frames, record.num_given_blocks)
    return to_duration(Fraction(frame) / Fraction(spec_of(record).fps).limit_denominator(1001))


def pending_receipts(record: Record, limit: int = 64) -> list[session_pb2.PromptReceipt]:
    """Switches that have not taken effect, and the last ones that have, oldest first."""
    asked = [prompt for prompt in record.prompts if not prompt.request_id.startswith("create/")]
    asked.sort(key=lambda prompt: prompt.accepted_ms)
    return [receipt_of(prompt, record) for prompt in asked[-limit:]]


def media_inits(record: Record) -> dict[str, common_pb2.MediaInit]:
    """By profile, as far as a decoder has sent them."""
    return {
        name.removeprefix(INIT): common_pb2.MediaInit.FromString(value)
        for name, value in record.notes.items()
        if name.startswith(INIT)
    }
