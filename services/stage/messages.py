"""The engine's words in the contract's."""

from collections.abc import Iterable
from typing import Final

from cascade.v1 import common_pb2, stage_pb2
from cascade_core.engine.engine import Engine
from cascade_core.engine.session import Ended, EndReason, LatentBlock, PromptApplied, Session, TickTiming
from services.common.durations import to_duration
from services.stage.tensors import to_tensor

Response = stage_pb2.GenerateResponse
MAX_WORDS = 64
MAX_WORD_CHARACTERS = 128
MAX_PASSES = 64
REASONS: Final[dict[EndReason, stage_pb2.GenerateResponse.Ended.Reason.ValueType]] = {
    "closed": Response.Ended.REASON_CLOSED,
    "complete": Response.Ended.REASON_COMPLETE,
    "positions_exhausted": Response.Ended.REASON_POSITIONS_EXHAUSTED,
}


def opened(
    message: stage_pb2.GenerateRequest.Open, session: Session, engine: Engine, revision: str
) -> Response:
    request = session.request
    unknown = (
        common_pb2.UnknownWords(block=block, words=words_of(words))
        for block, words in sorted(session.unknown_words.items())
    )
    return Response(
        opened=Response.Opened(
            epoch=message.epoch,
            revision=revision,
            width=request.width,
            height=request.height,
            latent_shape=engine.card.latent_shape(request.height, request.width),
            unknown_words=unknown,
        )
    )


def block(event: LatentBlock, dtype: common_pb2.DataType.ValueType) -> Response:
    latents = common_pb2.LatentBlock(index=event.index, latents=to_tensor(event.array, dtype))
    return Response(
        block=Response.Block(
            block=latents,
            latency=to_duration(event.timing.latency_s),
            tick_time=to_duration(event.timing.tick_s),
            ticks=map(tick, event.timing.ticks),
        )
    )


def tick(timing: TickTiming) -> common_pb2.Tick:
    """A priming one may have more passes than the contract allows: it has the first of them then. Those that
    block 0 makes besides a block's usual ones count as its noisiest."""
    passes = (
        common_pb2.Tick.Pass(block=work.block, pass_index=max(0, work.pass_index), rank=rank)
        for work, rank in timing.passes[:MAX_PASSES]
    )
    return common_pb2.Tick(index=timing.index, compute_time=to_duration(timing.compute_s), passes=passes)


def prompt_applied(event: PromptApplied) -> Response:
    return Response(
        prompt_applied=Response.PromptApplied(
            request_id=event.request_id,
            first_block_touched=event.first_block_touched,
            first_block_full=event.first_block_full,
            unknown_words=words_of(event.unknown_words),
            loras=common_pb2.LoraSet(
                loras=[common_pb2.LoraChoice(name=each.name, scale=each.scale) for each in event.loras]
            ),
            last_block_mixed=event.last_block_mixed,
        )
    )


def ended(event: Ended) -> Response:
    return Response(ended=Response.Ended(reason=REASONS[event.reason]))


def draining(time_left_s: float) -> Response:
    return Response(draining=Response.Draining(time_left=to_duration(time_left_s)))


def words_of(words: Iterable[str]) -> list[str]:
    """As many as the contract allows, cut to its length."""
    return [word[:MAX_WORD_CHARACTERS] for word in words][:MAX_WORDS]
