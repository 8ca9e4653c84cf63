"""The rules of the contracts, as a server enforces them."""

import math
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.v1 import common_pb2, decoder_pb2, session_pb2, stage_pb2
from services.common.validation import MAX_CHARACTERS, MAX_VIOLATIONS, InvalidField, check_tensor, validate

Spec = session_pb2.SessionSpec
Connect = session_pb2.ConnectRequest
Generate = stage_pb2.GenerateRequest
Decode = decoder_pb2.DecodeRequest
Profile = common_pb2.MediaProfile


def create(**spec: object) -> session_pb2.CreateSessionRequest:
    return session_pb2.CreateSessionRequest(
        request_id="r-1", spec=Spec(**{"prompts": {0: "a red circle"}, **spec})
    )


def mix(*parts: tuple[str, float]) -> common_pb2.PromptMix:
    return common_pb2.PromptMix(prompts=[{"text": text, "weight": weight} for text, weight in parts])


def over(num_blocks: int, interpolation: int = 0) -> common_pb2.Transition:
    return common_pb2.Transition(num_blocks=num_blocks, interpolation=interpolation)  # type: ignore[arg-type]


def switch(text: str, **fields: Any) -> session_pb2.SwitchPromptRequest:
    prompt_switch = session_pb2.PromptSwitch(text=text, **fields)
    return session_pb2.SwitchPromptRequest(name="sessions/abc", request_id="r-1", prompt_switch=prompt_switch)


def generate(**fields: object) -> Generate:
    return Generate(
        open=Generate.Open(**{"session": "s", "epoch": 1, "model": "demo", "prompts": {0: "a"}, **fields})
    )


def decode(**fields: object) -> Decode:
    given = {"session": "s", "epoch": 1, "model": "demo", "width": 96, "height": 96, "fps": 16}
    return Decode(open=Decode.Open(**{**given, "profiles": [Profile(id="default")], **fields}))


def tensor(**fields: object) -> common_pb2.Tensor:
    shape = [3, 16, 12, 12]
    return common_pb2.Tensor(**{"dtype": 1, "shape": shape, "data": bytes(4 * 3 * 16 * 144), **fields})


VALID = [
    create(),
    create(num_blocks=1, seed=2**63 - 1, width=832, height=480, fps=16, labels={"user": "a"}),
    create(profiles=[Profile(id="high", bitrate_kbps=4000), Profile(id="low", encoder=2)]),
    create(prompts=dict.fromkeys(range(1024), "x" * 1000)),
    switch("é" * 32_768),
    session_pb2.ListSessionsRequest(),
    Connect(attach=Connect.Attach(name="sessions/a-1")),
    Connect(attach=Connect.Attach(resume_token="t" * 2048)),
    Connect(ack=Connect.Ack(sequence=1)),
    generate(start_block=9, num_context_blocks=7, prompts={3: "a", 12: "b"}),
    Generate(context_block=common_pb2.LatentBlock(latents=tensor())),
    Generate(credit=Generate.Credit(end_block=8)),
    stage_pb2.StageServiceWatchStatusRequest(),
    decode(),
    decode(start_block=5, num_warmup_blocks=5),
    decoder_pb2.DecoderServiceDrainRequest(request_id="r", timeout={"seconds": 0}),
]

WRONG: list[tuple[Message, str, str]] = [
    (session_pb2.CreateSessionRequest(request_id="r"), "spec", "required"),
    (create(prompts={}), "spec", "block 0"),
    (create(prompts={1: "a"}), "spec", "block 0"),
    (create(prompts={0: "a", 3: " \n"}), "spec.prompts[3]", "not a space"),
    (create(transitions={3: over(2)}), "spec", "transitions must be of blocks above 0 that have an entry"),
    (create(transitions={0: over(2)}), "spec", "transitions must be of blocks above 0 that have an entry"),
    (create(prompts={0: "a", 3: "b"}, transitions={3: over(0)}), "spec.transitions[3].num_blocks", "64"),
    (create(prompts={0: "a", 3: "b"}, transitions={3: over(65)}), "spec.transitions[3].num_blocks", "64"),
    (create(mixes={0: mix()}), "spec.mixes[0].prompts", "at least 1"),
    (create(mixes={0: mix(*[("a", 1)] * 9)}), "spec.mixes[0].prompts", "no more than 8"),
    (create(mixes={0: mix(("a", 1), (" ", 1))}), "spec.mixes[0].prompts[1].text", "not a space"),
    (create(mixes={0: mix(("a", 0))}), "spec.mixes[0].prompts[0].weight", "greater than 0"),
    (create(mixes={0: mix(("a", math.nan))}), "spec.mixes[0].prompts[0].weight", "1000"),
    (create(mixes={0: mix(("a", 1001))}), "spec.mixes[0].prompts[0].weight", "1000"),
    (switch(""), "prompt_switch", "text or mix must be given"),
    (switch("a", transition=over(65)), "prompt_switch.transition.num_blocks", "64"),
    (switch("a", transition=over(2, 9)), "prompt_switch.transition.interpolation", "defined"),
    (generate(transitions={3: over(2)}), "open", "must be of blocks that have an entry in prompts"),
    (generate(mixes={3: mix(("a", 1))}), "open", "must be of blocks that have an entry in prompts"),
    (create(prompts={0: "x" * 32_769}), "spec.prompts[0]", "32768"),
    (create(prompts=dict.fromkeys(range(1025), "a")), "spec.prompts", "1024"),
    (create(prompts={0: "a", 2**31: "b"}), f"spec.prompts[{2**31}]", "2147483647"),
    (create(width=840, height=480), "spec.width", "multiple of 16 from 16 to 4096"),
    (create(width=8192, height=480), "spec.width", "4096"),
    (create(width=480), "spec", "both"),
    (create(fps=0.5), "spec.fps", "equal to 1 and less than or equal to 120"),
    (create(fps=float("nan")), "spec.fps", "finite"),
    (create(seed=2**63), "spec.seed", "9223372036854775807"),
    (create(num_blocks=0), "spec.num_blocks", "equal to 1"),
    (create(profiles=[Profile(id="a"), Profile(id="a")]), "spec.profiles", "different"),
    (create(profiles=[Profile(id="a", bitrate_kbps=49)]), "spec.profiles[0].bitrate_kbps", "50"),
    (create(profiles=[Profile(id="a", codec=99)]), "spec.profiles[0].codec", "defined enum"),
    (create(profiles=[Profile(id=f"p{i}") for i in range(50_000)]), "spec.profiles", "4"),
    (create(labels={"k": "v" * 64}), 'spec.labels["k"]', "63"),
    (create(idle_timeout={"seconds": 90_000}), "spec.idle_timeout", "86400s"),
    (create(priority=7), "spec.priority", "defined enum"),
    (switch("x" * 1_000_000), "prompt_switch.text", "32768"),
    (session_pb2.GetSessionRequest(name="sessions/UPPER"), "name", "sessions/"),
    (session_pb2.GetSessionRequest(), "name", "at least 1"),
    (session_pb2.DeleteSessionRequest(name="sessions/a"), "request_id", "at least 1"),
    (session_pb2.PauseSessionRequest(name="sessions/a", request_id="x" * 65), "request_id", "64"),
    (session_pb2.ListSessionsRequest(page_size=501), "page_size", "500"),
    (session_pb2.ListSessionsRequest(states=[0]), "states[0]", "0"),
    (session_pb2.IssueResumeTokenRequest(name="sessions/a"), "role", "0"),
    (Connect(), "message", "required"),
    (Connect(attach=Connect.Attach()), "attach", "name or resume_token"),
    (Connect(ack=Connect.Ack()), "ack.sequence", "1"),
    (generate(epoch=0), "open.epoch", "1"),
    (generate(start_block=3, prompts={4: "a"}), "open", "at or before start_block"),
    (generate(num_context_blocks=1), "open", "more than start_block"),
    (Generate(credit=Generate.Credit(end_block=2**31 + 1)), "credit.end_block", "2147483648"),
    (Generate(context_block=common_pb2.LatentBlock()), "context_block.latents", "required"),
    (decode(num_warmup_blocks=1), "open", "more than start_block"),
    (decode(profiles=[]), "open.profiles", "1"),
    (decode(width=0), "open.width", "16"),
    (Decode(block={"latents": tensor(shape=[3, 16, 12])}), "block.latents.shape", "4"),
    (Decode(block={"latents": tensor(dtype=0)}), "block.latents.dtype", "0"),
    (Decode(block={"latents": tensor(data=bytes(16 * 2**20 + 1))}), "block.latents.data", "16777216"),
]


@pytest.mark.parametrize("message", VALID, ids=lambda message: type(message).__name__)
def test_valid_messages_pass(message: Message) -> None:
    validate(message)


@pytest.mark.parametrize(
    ("message", "field", "allowed"),
    WRONG,
    ids=lambda value: type(value).__name__ if isinstance(value, Message) else value,
)
def test_wrong_messages_name_field_and_range(message: Message, field: str, allowed: str) -> None:
    with pytest.raises(InvalidField) as caught:
        validate(message)
    descriptions = [description for path, description in caught.value.violations if path == field]
    assert any(allowed in description for description in descriptions), caught.value.violations
    assert field in str(caught.value)


def test_every_wrong_field_is_listed() -> None:
    with pytest.raises(InvalidField) as caught:
        validate(create(fps=500, seed=2**63, labels={"k": "v" * 64}))
    assert {field for field, _ in caught.value.violations} == {"spec.fps", "spec.seed", 'spec.labels["k"]'}


def test_the_list_stays_within_what_grpc_takes() -> None:
    with pytest.raises(InvalidField) as caught:
        validate(create(prompts=dict.fromkeys(range(1000), " "), labels={"k" * 5000: "v" * 500}))
    error = caught.value
    assert len(error.violations) == MAX_VIOLATIONS
    assert error.num_more == 992
    assert all(len(text) <= MAX_CHARACTERS for violation in error.violations for text in violation)
    assert str(error).endswith("; and 992 more")


@pytest.mark.parametrize(("dtype", "width"), [(1, 4), (2, 2)])
def test_a_tensor_has_the_bytes_of_its_shape(dtype: int, width: int) -> None:
    check_tensor("block.latents", tensor(dtype=dtype, data=bytes(width * 3 * 16 * 144)))
    with pytest.raises(InvalidField, match=rf"block.latents.data: must be {width * 6912} bytes"):
        check_tensor("block.latents", tensor(dtype=dtype, data=b"x"))


REQUESTS = (session_pb2.CreateSessionRequest, session_pb2.ConnectRequest, Generate, Decode)


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(REQUESTS), data=st.binary(max_size=200))
def test_whatever_parses_is_valid_or_refused(kind: type[Message], data: bytes) -> None:
    with suppress(DecodeError):
        message = kind.FromString(data)
        with suppress(InvalidField):
            validate(message)
