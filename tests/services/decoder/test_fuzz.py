"""Whatever is sent in whatever order: an answer of the contract, and a decoder that goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc
import numpy as np
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascade.v1 import common_pb2
from tests.services.support.decoder_support import (
    CLOSE,
    MEDIA,
    QUICK,
    WAIT_S,
    Request,
    Serving,
    block,
    opening,
    serving,
    whole,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
NUM_EXAMPLES = 60
SMALL = np.zeros((3, 16, 2, 2), np.float32)
PLANNED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
}

profiles = st.lists(
    st.builds(
        common_pb2.MediaProfile,
        id=st.sampled_from(["a", "b", "", "A"]),
        codec=st.integers(0, 2),
        encoder=st.integers(0, 2),
        bitrate_kbps=st.sampled_from([0, 49, 50, 100_000, 2**32 - 1]),
    ),
    max_size=5,
)
opens = st.one_of(
    st.builds(
        opening,
        session=st.sampled_from(["x", "y"]),
        epoch=st.integers(1, 1000),
        width=st.just(16),
        height=st.just(16),
        start_block=st.integers(0, 3),
        num_warmup_blocks=st.integers(0, 3),
        profiles=st.just([MEDIA]),
        fps=st.sampled_from([1.0, 16.0, 120.0, 29.97]),
    ),
    st.builds(
        opening,
        session=st.text(max_size=130),
        epoch=st.integers(0, 2**64 - 1),
        model=st.sampled_from(["demo", "", "x"]),
        width=st.sampled_from([0, 15, 16, 4096]),
        height=st.sampled_from([0, 15, 16, 4096]),
        start_block=st.sampled_from([0, 2**31 - 1, 2**64 - 1]),
        num_warmup_blocks=st.integers(0, 100),
        profiles=profiles,
        fps=st.floats(),
    ),
)
blocks = st.one_of(
    st.builds(block, st.integers(0, 4), st.just(SMALL)),
    st.builds(
        lambda index, shape, dtype, data: Request(
            block=common_pb2.LatentBlock(
                index=index, latents=common_pb2.Tensor(dtype=dtype, shape=shape, data=data)
            )
        ),
        st.integers(0, 2**64 - 1),
        st.lists(st.integers(0, 2**32 - 1), max_size=5),
        st.integers(0, 3),
        st.binary(max_size=64),
    ),
)
messages = st.one_of(opens, blocks, blocks, st.just(CLOSE), st.just(Request()))
sequences = st.one_of(
    st.lists(messages, max_size=8),
    st.tuples(opens, st.lists(st.one_of(blocks, st.just(CLOSE)), max_size=8)).map(
        lambda pair: [pair[0], *pair[1]]
    ),
    st.tuples(opens, st.integers(0, 6)).map(
        lambda pair: [pair[0], *(block(index, SMALL) for index in range(pair[1]))]
    ),
)
ends = st.sampled_from(["half-close", "cancel", "wait"])


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def decoder() -> AsyncIterator[Serving]:
    async with serving(decoder=QUICK | {"max_sessions": 2}) as decoder:
        yield decoder


@settings(
    max_examples=NUM_EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(requests=sequences, end=ends)
async def test_any_sequence_gets_an_answer_of_the_contract(
    decoder: Serving, requests: list[Request], end: str
) -> None:
    call = decoder.call()
    await call.send(*requests)
    if end == "half-close" or not requests:
        await call.half_close()
    if end != "half-close":
        call.stream.cancel()
        return
    with suppress(grpc.aio.AioRpcError, AssertionError):
        await call.rest()
    async with asyncio.timeout(WAIT_S):
        code, details = await call.stream.code(), await call.stream.details()
    assert code in PLANNED, (code, details)


async def test_the_decoder_is_well_after_it(decoder: Serving) -> None:
    status = await decoder.idle()
    assert status.num_restarts == 0
    codes = {
        sample.labels["grpc_code"]: sample.value
        for metric in decoder.server.telemetry.registry.collect()
        for sample in metric.samples
        if sample.name == "grpc_server_handled_total" and sample.labels["grpc_method"] == "Decode"
    }
    assert sum(codes.values()) >= NUM_EXAMPLES
    assert codes.keys() <= {code.name for code in PLANNED} | {"CANCELLED"}
    _, segments = await whole(decoder.stub, range(2))
    assert [segment.num_frames for segment in segments] == [9, 12]
