"""Whatever a client sends, its stream ends as the contract says and the stage is unharmed."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascade.v1 import stage_pb2
from tests.engine_support import wait_until, write_card
from tests.services.support.stage_support import Request, Running, Stream, serving, stage_settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
REASONS = {
    "INVALID_FIELD", "INVALID_PROMPT", "UNKNOWN_MODEL", "UNSUPPORTED_MEDIA", "PROTOCOL_VIOLATION",
    "FIRST_MESSAGE_LATE", "OUT_OF_CAPACITY", "NOT_READY", "DRAINING", "SESSION_LOST", "FENCED", "MALFORMED",
}  # fmt: skip
PATH = "/cascade.v1.StageService/Generate"

small = st.integers(0, 8)
anything = st.one_of(small, st.integers(0, 2**63 - 1))
texts = st.one_of(st.sampled_from(["a red circle", "a", " ", "\u00a0", "x" * 300]), st.text(max_size=40))
ids = st.one_of(st.sampled_from(["a", "b", "c"]), st.text(max_size=5))
tensors = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([1, 2, 2, 1, 0, 9]),
        "shape": st.sampled_from([[1, 16, 4, 4], [1, 16, 4, 4], [1, 16, 4], [3, 1, 8192, 8192]]),
        "data": st.one_of(
            st.just(bytes(1024)), st.just(b"\xff" * 1024), st.just(bytes(512)), st.binary(max_size=64)
        ),
    }
)
contexts = st.fixed_dictionaries(
    {"context_block": st.fixed_dictionaries({"index": small, "latents": tensors})}
)
opens = st.fixed_dictionaries(
    {
        "open": st.fixed_dictionaries(
            {
                "session": st.one_of(st.sampled_from(["one", "two"]), st.text(max_size=8)),
                "epoch": st.integers(0, 1000),
                "model": st.sampled_from(["tiny"] * 9 + ["other"]),
                "prompts": st.one_of(st.just({0: "a"}), st.dictionaries(small, texts, max_size=3)),
            },
            optional={
                "width": st.sampled_from([32, 64, 17, 4096]),
                "height": st.sampled_from([32, 64, 4096]),
                "seed": anything,
                "start_block": st.one_of(st.just(0), small),
                "num_context_blocks": small,
                "num_blocks": st.one_of(st.integers(0, 4), anything),
                "credit_end_block": st.one_of(small, anything),
                "fps": st.one_of(st.sampled_from([16.0, 24.0]), st.floats(allow_nan=True)),
                "latent_dtype": st.integers(0, 3),
                "switch_mode": st.integers(0, 4),
            },
        )
    }
)
switches = st.fixed_dictionaries(
    {
        "switch_prompt": st.fixed_dictionaries(
            {"request_id": ids, "text": texts}, optional={"mode": st.integers(0, 4), "at_block": anything}
        )
    }
)
credits = st.fixed_dictionaries({"credit": st.fixed_dictionaries({"end_block": st.one_of(small, anything)})})
others = st.one_of(switches, switches, credits, credits, contexts, opens, st.just({"close": {}}), st.just({}))
valid_open = {"session": "one", "epoch": 1, "model": "tiny", "prompts": {0: "a"}, "credit_end_block": 2}
sequences = st.one_of(
    st.lists(others, max_size=6),
    st.tuples(opens, st.lists(contexts, max_size=4), st.lists(others, max_size=8)).map(
        lambda parts: [parts[0], *parts[1], *parts[2]]
    ),
    st.lists(st.one_of(switches, credits), max_size=12).map(lambda rest: [{"open": valid_open}, *rest]),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    card = write_card(tmp_path_factory.mktemp("card"))
    async with serving(stage_settings(card, stage={"max_sessions": 2})) as running:
        yield running
        assert running.engine.status.num_restarts == 0


epochs = iter(range(1000, 10**9))


async def ends_well(stage: Running, stream: Stream) -> None:
    """It ends with OK or a reason of the contract, and leaves nothing behind."""
    await stream.call.done_writing()
    await stream.rest()
    if await stream.code() is not grpc.StatusCode.OK:
        assert (await stream.details())["ErrorInfo"].reason in REASONS
    await wait_until(lambda: not stage.stage.occupancy.requests, "the slot is free")
    assert stage.engine.status.num_sessions == 0
    assert not codes(stage) & {"INTERNAL", "UNKNOWN"}


def codes(stage: Running) -> set[str]:
    """How calls ended here so far, as the server saw it."""
    families = stage.server.telemetry.registry.collect()
    samples = (sample for family in families for sample in family.samples)
    return {sample.labels["grpc_code"] for sample in samples if "grpc_code" in sample.labels}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(messages=sequences)
async def test_messages_in_any_order(stage: Running, messages: list[dict[str, Any]]) -> None:
    stream = stage.generate()
    for message in messages:
        if "open" in message and message["open"]["epoch"] == 1:
            message = {"open": message["open"] | {"epoch": next(epochs)}}
        await stream.send(**message)
    await ends_well(stage, stream)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(chunks=st.lists(st.binary(max_size=64), max_size=4), opened=st.booleans())
async def test_bytes_that_are_no_messages(stage: Running, chunks: list[bytes], opened: bool) -> None:
    call = stage.channel.stream_stream(PATH, None, stage_pb2.GenerateResponse.FromString)()
    stream = Stream(call)
    first: Message = Request(open=valid_open | {"epoch": next(epochs)})
    for chunk in [first.SerializeToString()] * opened + chunks:
        try:
            await call.write(chunk)
        except (asyncio.InvalidStateError, grpc.aio.AioRpcError, grpc.aio.UsageError):  # it has ended
            break
    await ends_well(stage, stream)


async def test_a_good_session_after_all_that(stage: Running) -> None:
    stream = await stage.opened(num_blocks=3, credit_end_block=3)
    await stream.blocks(3)
    await stream.expect("ended")
    assert await stream.read() is None
    assert {"OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION"} <= codes(stage)


async def test_a_message_that_is_too_large(stage: Running) -> None:
    stream = stage.generate()
    await stream.send(context_block={"latents": {"data": bytes(18 * 2**20)}})
    await stream.rest()
    assert await stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stage.engine.status.ready
