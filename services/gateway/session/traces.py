"""One trace per block: at the stage, at the decoder, at the gateway. Without a collector it costs nothing.

Stage and decoder tell with each block how long they took, so the gateway, which sees both ends, writes all of
its spans: the chain is whole without a trace id in every message.
"""

import time
from collections import OrderedDict
from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration
from opentelemetry import trace

from cascade.v1 import decoder_pb2, stage_pb2

MAX_OPEN = 10_000
"""Blocks between stage and decoder, of all sessions; the oldest are forgotten."""


class BlockTraces:
    """Spans `block` > `stage`, `decoder queue`, `decode`, `encode`."""

    def __init__(self, provider: trace.TracerProvider | None) -> None:
        self._tracer = trace.get_tracer("cascade.gateway", tracer_provider=provider) if provider else None
        self._made: OrderedDict[tuple[str, int], tuple[int, stage_pb2.GenerateResponse.Block]] = OrderedDict()

    def made(self, session: str, block: stage_pb2.GenerateResponse.Block) -> None:
        """Latents have arrived."""
        if self._tracer is None:
            return
        times = stage_pb2.GenerateResponse.Block(latency=block.latency, tick_time=block.tick_time)
        self._made[session, block.block.index] = time.time_ns(), times
        if len(self._made) > MAX_OPEN:
            self._made.popitem(last=False)

    def delivered(
        self, session: str, epoch: int, segments: Iterable[decoder_pb2.DecodeResponse.Segment]
    ) -> None:
        """Its segments have arrived, one per profile, and are on their way to the clients."""
        if self._tracer is None:
            return
        first, *others = segments
        index, now = first.media.block, time.time_ns()
        if (session, index) not in self._made:
            return
        made_ns, times = self._made.pop((session, index))
        start_ns = made_ns - times.latency.ToNanoseconds()
        parent = self._tracer.start_span("block", start_time=start_ns)
        parent.set_attributes({"cascade.session": session, "cascade.epoch": epoch, "cascade.block": index})
        context = trace.set_span_in_context(parent)

        def child(name: str, start: int, length: Duration) -> int:
            end = start + length.ToNanoseconds()
            span = self._tracer.start_span(name, context, start_time=start)  # type: ignore[union-attr]
            span.end(end)
            return end

        child("stage", start_ns, times.latency)
        took = sum(part.ToNanoseconds() for part in (first.queue_time, first.decode_time, first.encode_time))
        at = child("decoder queue", now - took, first.queue_time)
        at = child("decode", at, first.decode_time)
        for segment in (first, *others):
            at = child("encode", at, segment.encode_time)
        parent.end(now)
