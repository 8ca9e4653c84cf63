"""The way out: announced in-band, idempotent, ended at its time, and by SIGTERM the same."""

import asyncio
import signal
import sys
from typing import Any

import grpc
import pytest

from cascade.v1 import common_pb2, decoder_pb2
from tests.services.support.decoder_support import (
    CLOSE,
    QUICK,
    READY,
    WAIT_S,
    Peer,
    block,
    gone,
    opening,
    process,
    reason,
    serving,
)

DRAINING = common_pb2.SERVING_STATE_DRAINING


async def drain(peer: Peer, request_id: str, timeout_s: float, why: str = "") -> Any:
    request = decoder_pb2.DecoderServiceDrainRequest(
        request_id=request_id, timeout={"seconds": int(timeout_s)}, reason=why
    )
    return (await peer.stub.Drain(request, timeout=WAIT_S)).drain


async def test_a_drain_lets_sessions_go_in_their_own_time() -> None:
    async with serving(decoder=QUICK) as decoder:
        call = decoder.call()
        await call.send(opening())
        await call.opened()
        for bad in ("", "no spaces"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await drain(decoder, bad, 60)
            assert reason(caught.value) == "INVALID_FIELD"
        assert (await decoder.until(lambda status: True)).state == READY
        answer = await drain(decoder, "d1", 3600, "upgrade")
        assert (answer.num_sessions, answer.safe_to_delete, answer.reason) == (1, False, "upgrade")
        assert 3500 < answer.time_left.ToSeconds() <= 3600
        told = await call.expect("draining")
        assert 3500 < told.time_left.ToSeconds() <= 3600
        status = await decoder.until(lambda status: status.state == DRAINING)
        assert status.message == "upgrade"
        late = decoder.call()
        await late.send(opening())
        assert await late.fails() == "DRAINING"
        await call.ask(0)
        nearer = await drain(decoder, "d2", 60)
        assert nearer.time_left.ToSeconds() <= 60
        assert (await drain(decoder, "d3", 600)).time_left.ToSeconds() <= 60
        await call.ask(1)  # not told again
        repeat = await drain(decoder, "d1", 3600, "upgrade")
        assert repeat.time_left.ToSeconds() <= 60
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await drain(decoder, "d1", 3599, "upgrade")
        assert reason(caught.value) == "REQUEST_ID_REUSED"
        await call.send(CLOSE)
        await call.rest()
        status = await decoder.until(lambda status: status.drain.safe_to_delete)
        assert (status.drain.num_sessions, status.state) == (0, DRAINING)


@pytest.mark.slow
async def test_streams_that_stay_end_at_the_deadline() -> None:
    async with serving(decoder=QUICK) as decoder:
        call, warming = decoder.call(), decoder.call()
        await call.send(opening())
        await call.opened()
        await warming.send(opening(start_block=2, num_warmup_blocks=2), block(0))
        await decoder.until(lambda status: status.num_sessions == 2)
        await drain(decoder, "d1", 3600)
        await warming.send(block(1))
        await warming.opened()
        await warming.expect("draining")
        await drain(decoder, "now", 0)
        assert [await each.fails() for each in (call, warming)] == ["DRAINING"] * 2
        await decoder.until(lambda status: status.drain.safe_to_delete)


async def test_sigterm_drains_in_band_and_ends_the_watch() -> None:
    async with process(CASCADE_DRAIN_DEADLINE_S="50") as decoder:
        await decoder.ready()
        worker = decoder.worker
        watch = decoder.stub.WatchStatus(decoder_pb2.DecoderServiceWatchStatusRequest(), timeout=WAIT_S)
        assert (await anext(aiter(watch))).status.state == READY
        call = decoder.call()
        await call.send(opening())
        await call.opened()
        decoder.process.send_signal(signal.SIGTERM)
        told = await call.expect("draining")
        assert 0 < told.time_left.ToSeconds() <= 50
        await call.ask(0)
        late = decoder.call()
        await late.send(opening())
        assert await late.fails() == "DRAINING"
        await call.send(CLOSE)
        await call.rest()
        seen = [answer.status async for answer in watch]
        assert seen[-1].drain.safe_to_delete
        assert await asyncio.wait_for(decoder.process.wait(), WAIT_S) == 0
        await gone(worker)


async def test_sigterm_ends_streams_that_stay() -> None:
    async with process(CASCADE_DRAIN_DEADLINE_S="0.5") as decoder:
        await decoder.ready()
        call = decoder.call()
        await call.send(opening())
        await call.opened()
        decoder.process.send_signal(signal.SIGTERM)
        assert await call.fails() == "DRAINING"
        assert await asyncio.wait_for(decoder.process.wait(), WAIT_S) == 0


async def test_the_service_reaches_no_torch() -> None:
    """Decoding is the worker's: the service must answer while torch loads and works."""
    heavy = "{'torch', 'av', 'diffusers'}"
    code = f"import sys, services.decoder.__main__; print(sorted({heavy} & set(sys.modules)))"
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    said, _ = await asyncio.wait_for(child.communicate(), WAIT_S)
    assert said.decode().strip() == "[]"
