"""A session as the gateway described it, and the specification that asks for one."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from cascade.v1 import common_pb2, session_pb2
from cascade_client.prompts import Prompt, Transition, mix_message, text_of, transition_message

SwitchMode = Literal["immediate", "boundary", "recache", "cut"]
Priority = Literal["low", "normal", "high"]
InflightAttention = Literal["bidirectional", "causal"]
Role = Literal["controller", "viewer"]
FIRST_BLOCK_SHORT = 3
"""Block 0 has 4F - 3 pictures, the others 4F; see `Session.num_missing_frames`."""


@dataclass(frozen=True)
class Session:
    """A session when it was last heard of; `client.get(session)` brings it up to date."""

    message: session_pb2.Session
    """All the contract says about it."""
    resume_token: str = field(default="", repr=False)
    """A secret that opens this session in `connect`; empty where the caller's own credential does."""

    def __repr__(self) -> str:
        return f"Session({self.name!r}, state={self.state!r}, model={self.message.spec.model!r})"

    @property
    def name(self) -> str:
        """`sessions/{session_id}`."""
        return self.message.name

    @property
    def state(self) -> str:
        """QUEUED, STARTING, ACTIVE, PAUSED, RECOVERING or ENDED."""
        return name_of(session_pb2.SessionState, self.message.state)

    @property
    def end_reason(self) -> str:
        """DELETED, COMPLETE, POSITIONS_EXHAUSTED, IDLE, EVICTED or FAILED; empty while it lives."""
        return name_of(session_pb2.EndReason, self.message.end.reason) if self.message.HasField("end") else ""

    @property
    def fps(self) -> float:
        """Pictures per second of playback; 0 until STARTING."""
        return self.message.spec.fps

    @property
    def block_frames(self) -> int:
        """Latent frames per block; 0 until STARTING."""
        return self.message.block_frames

    @property
    def num_frames(self) -> int | None:
        """Pictures of the whole video; None: endless, or not known yet."""
        if not self.message.spec.HasField("num_blocks") or not self.block_frames:
            return None
        return 4 * self.block_frames * self.message.spec.num_blocks - self.num_missing_frames

    @property
    def num_missing_frames(self) -> int:
        """How many pictures block 0 has less than the others; none where it goes on from a clip that is not
        sent."""
        return 0 if self.message.num_given_blocks else FIRST_BLOCK_SHORT

    def to_dict(self) -> dict[str, Any]:
        """JSON as protobuf maps it, without the token."""
        return MessageToDict(self.message, preserving_proto_field_name=True)


def build_spec(
    prompts: str | Mapping[str, float] | Mapping[int, Prompt],
    *,
    model: str = "",
    switch_mode: SwitchMode | None = None,
    seed: int | None = None,
    width: int = 0,
    height: int = 0,
    fps: float = 0,
    profiles: Sequence[common_pb2.MediaProfile] = (),
    num_blocks: int | None = None,
    idle_timeout_s: float | None = None,
    priority: Priority | None = None,
    labels: Mapping[str, str] | None = None,
    stagger: int = 0,
    inflight_attention: InflightAttention | None = None,
    loras: Mapping[str, float] | None = None,
    start: common_pb2.StartFile | None = None,
    include_start: bool = False,
    transitions: Mapping[int, Transition] | None = None,
) -> session_pb2.SessionSpec:
    """A SessionSpec; the server checks the ranges. Raises ValueError for numbers no message can hold."""
    entries = timeline(prompts)
    mixes = {block: mix for block, prompt in entries.items() if (mix := mix_message(prompt))}
    gradual = {block: transition_message(each) for block, each in (transitions or {}).items()}
    return session_pb2.SessionSpec(
        model=model,
        prompts={block: text for block, prompt in entries.items() if isinstance(text := prompt, str)},
        mixes=mixes,
        transitions={block: message for block, message in gradual.items() if message},
        switch_mode=mode_value(switch_mode),
        seed=seed,
        width=width,
        height=height,
        fps=fps,
        profiles=profiles,
        num_blocks=num_blocks,
        idle_timeout=None if idle_timeout_s is None else duration(idle_timeout_s),
        priority=session_pb2.Priority.Value(f"PRIORITY_{(priority or 'unspecified').upper()}"),
        labels=labels,
        stagger=stagger,
        inflight_attention=attention_value(inflight_attention),
        loras=lora_choices(loras or {}),
        start=start,
        include_start=include_start,
    )


def timeline(prompts: str | Mapping[str, float] | Mapping[int, Prompt]) -> dict[int, Prompt]:
    """By block; one prompt, a text or a mix, is the one of block 0."""
    if isinstance(prompts, str):
        return {0: prompts}
    entries, mix = {}, {}
    for key, value in prompts.items():
        if isinstance(key, str):
            mix[key] = cast("float", value)
        else:
            entries[key] = cast("Prompt", value)
    return {0: mix, **entries} if mix else entries


def build_switch(
    prompt: Prompt,
    mode: SwitchMode | None,
    at_block: int | None,
    loras: Mapping[str, float] | None = None,
    transition: Transition | None = None,
) -> session_pb2.PromptSwitch:
    chosen = None if loras is None else common_pb2.LoraSet(loras=lora_choices(loras))
    return session_pb2.PromptSwitch(
        text=text_of(prompt),
        mode=mode_value(mode),
        at_block=at_block,
        mix=mix_message(prompt),
        transition=transition_message(transition),
        loras=chosen,
    )


def lora_choices(loras: Mapping[str, float]) -> list[common_pb2.LoraChoice]:
    return [common_pb2.LoraChoice(name=name, scale=scale) for name, scale in loras.items()]


def mode_value(mode: SwitchMode | None) -> common_pb2.SwitchMode.ValueType:
    return common_pb2.SwitchMode.Value(f"SWITCH_MODE_{(mode or 'unspecified').upper()}")


def attention_value(attention: InflightAttention | None) -> common_pb2.InflightAttention.ValueType:
    return common_pb2.InflightAttention.Value(f"INFLIGHT_ATTENTION_{(attention or 'unspecified').upper()}")


def role_value(role: Role) -> session_pb2.ConnectRole.ValueType:
    return session_pb2.ConnectRole.Value(f"CONNECT_ROLE_{role.upper()}")


def resource_name(session: Session | str) -> str:
    """`sessions/{id}` of a session, its name or its id."""
    name = session.name if isinstance(session, Session) else session
    return name if name.startswith("sessions/") or not name else f"sessions/{name}"


def name_of(kind: Any, value: int) -> str:
    """`ACTIVE` for SESSION_STATE_ACTIVE of the enum `kind`; a value of a later version as a number."""
    names = kind.DESCRIPTOR.values_by_number
    if value not in names:
        return str(value)
    prefix = kind.DESCRIPTOR.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return str(names[value].name).removeprefix(prefix)


def make_request_id() -> str:
    """One per intent; a repeat of the intent uses it again."""
    return uuid.uuid4().hex


def duration(seconds: float) -> Duration:
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message


def seconds(message: Duration) -> float:
    return message.seconds + message.nanos / 1e9


def moment(message: Timestamp) -> datetime:
    return message.ToDatetime(UTC)
