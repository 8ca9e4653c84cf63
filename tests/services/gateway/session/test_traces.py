"""One trace per block, whose spans lie where the work was."""

from itertools import pairwise

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cascade.v1 import common_pb2, decoder_pb2, stage_pb2
from services.common.durations import to_duration
from services.gateway.session import traces
from services.gateway.session.traces import BlockTraces


def made(index: int) -> stage_pb2.GenerateResponse.Block:
    block = stage_pb2.GenerateResponse.Block(block=common_pb2.LatentBlock(index=index))
    block.latency.CopyFrom(to_duration(0.5))
    block.tick_time.CopyFrom(to_duration(0.1))
    return block


def segment(index: int) -> decoder_pb2.DecodeResponse.Segment:
    return decoder_pb2.DecodeResponse.Segment(
        media=common_pb2.MediaSegment(block=index),
        queue_time=to_duration(0.01),
        decode_time=to_duration(0.02),
        encode_time=to_duration(0.005),
    )


def recording() -> tuple[BlockTraces, InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return BlockTraces(provider), exporter


def test_each_block_is_one_chain() -> None:
    blocks, exporter = recording()
    for index in range(2):
        blocks.made("s-1", made(index))
        blocks.delivered("s-1", 3, [segment(index), segment(index)])
    spans = exporter.get_finished_spans()
    roots = [span for span in spans if span.parent is None]
    assert [root.attributes["cascade.block"] for root in roots if root.attributes] == [0, 1]
    for root in roots:
        assert root.context
        chain = [span for span in spans if span.parent and span.parent.span_id == root.context.span_id]
        assert [span.name for span in chain] == ["stage", "decoder queue", "decode", "encode", "encode"]
        assert {span.context.trace_id for span in chain if span.context} == {root.context.trace_id}
        lengths = [span.end_time - span.start_time for span in chain if span.end_time and span.start_time]
        assert lengths == [500_000_000, 10_000_000, 20_000_000, 5_000_000, 5_000_000]
        assert root.start_time == chain[0].start_time
        assert all(a.end_time == b.start_time for a, b in pairwise(chain[1:]))


def test_blocks_that_never_reach_a_client_are_forgotten() -> None:
    blocks, exporter = recording()
    for index in range(traces.MAX_OPEN + 1):
        blocks.made("s-1", made(index))
    blocks.delivered("s-1", 1, [segment(0)])
    assert not exporter.get_finished_spans()
    blocks.delivered("s-1", 1, [segment(1)])
    assert len(exporter.get_finished_spans()) == 5


def test_without_a_collector_nothing_is_kept() -> None:
    blocks = BlockTraces(None)
    blocks.made("s-1", made(0))
    blocks.delivered("s-1", 1, [segment(0)])
    assert not blocks._made
