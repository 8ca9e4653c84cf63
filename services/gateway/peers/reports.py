"""The status stream of one stage or decoder, and when it counts as lost."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Literal

import grpc

from cascade.v1 import decoder_pb2, decoder_pb2_grpc, stage_pb2, stage_pb2_grpc
from services.common.race import may_fail

Kind = Literal["stage", "decoder"]
Metadata = tuple[tuple[str, str], ...]
NUM_SILENT_INTERVALS = 3


class Lost(Exception):
    """The stream is over, or silent."""


async def reports(
    kind: Kind, channel: grpc.aio.Channel, interval_s: float, metadata: Metadata
) -> AsyncGenerator[Any, None]:
    """StageStatus or DecoderStatus, as they come. Raises Lost; close it (`aclosing`)."""
    call = watch_status(kind, channel, interval_s, metadata)
    try:
        while (response := await next_response(call, interval_s)) is not grpc.aio.EOF:
            yield response.status
        raise Lost("ended its status stream")
    except grpc.aio.AioRpcError as error:
        raise Lost(f"{error.code().name}: {error.details()}") from None
    finally:
        call.cancel()


def watch_status(kind: Kind, channel: grpc.aio.Channel, interval_s: float, metadata: Metadata) -> Any:
    request: Any
    watch: Any
    if kind == "stage":
        request = stage_pb2.StageServiceWatchStatusRequest()
        watch = stage_pb2_grpc.StageServiceStub(channel).WatchStatus
    else:
        request = decoder_pb2.DecoderServiceWatchStatusRequest()
        watch = decoder_pb2_grpc.DecoderServiceStub(channel).WatchStatus
    request.interval.FromMilliseconds(round(interval_s * 1000))
    return watch(request, metadata=metadata)


async def next_response(call: Any, interval_s: float) -> Any:
    """The next message, or EOF. Intervals are waited for one by one, so that a pause of this process counts
    as one at most, and what came in meanwhile is still read."""
    reading = asyncio.ensure_future(call.read())
    may_fail(reading)
    try:
        for _ in range(NUM_SILENT_INTERVALS):
            done, _ = await asyncio.wait({reading}, timeout=interval_s)
            if done:
                return reading.result()
        raise Lost(f"silent for {NUM_SILENT_INTERVALS * interval_s:g} s")
    finally:
        reading.cancel()
