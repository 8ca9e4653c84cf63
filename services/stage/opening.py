"""What comes before a session: its `open`, checked against the model, and its context blocks."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from cascade.v1 import common_pb2, stage_pb2
from cascade_core.arrays import Latents
from cascade_core.config import InflightAttention, ModelCard, SwitchMode, load_cards
from cascade_core.engine.engine import Engine
from cascade_core.errors import InvalidRequest, UnknownModel
from cascade_core.loras import Choices, LoraChoice
from cascade_core.request import (
    SessionRequest,
    check_cuts,
    check_loras,
    check_mode,
    check_schedule,
    with_defaults,
)
from services.common.errors import ProtocolViolation, UnsupportedMedia, with_details
from services.common.prompts import mix_of, transition_of
from services.common.streams import next_message
from services.common.validation import InvalidField
from services.stage.tensors import from_tensor

Requests = AsyncIterator[stage_pb2.GenerateRequest]
Open = stage_pb2.GenerateRequest.Open
MODES: Final[dict[int, SwitchMode]] = {
    common_pb2.SWITCH_MODE_UNSPECIFIED: "immediate",
    common_pb2.SWITCH_MODE_IMMEDIATE: "immediate",
    common_pb2.SWITCH_MODE_BOUNDARY: "boundary",
    common_pb2.SWITCH_MODE_RECACHE: "recache",
    common_pb2.SWITCH_MODE_CUT: "cut",
}
ATTENTIONS: Final[dict["common_pb2.InflightAttention.ValueType", InflightAttention]] = {
    common_pb2.INFLIGHT_ATTENTION_BIDIRECTIONAL: "bidirectional",
    common_pb2.INFLIGHT_ATTENTION_CAUSAL: "causal",
}


async def read_open(requests: Requests) -> Open:
    """The first message. Raises FirstMessageLate or ProtocolViolation."""
    message = await next_message(requests, "open")
    return message.open


def check_open(message: Open, engine: Engine) -> SessionRequest:
    """The session to open, its context still to come. Raises UnknownModel, UnsupportedMedia or
    InvalidField."""
    card = engine.card
    if message.model != card.name:
        known = sorted({card.name, *load_cards()})
        error = UnknownModel(f"this stage runs {card.name!r}, not {message.model!r}")
        raise with_details(error, metadata={"known": ", ".join(known)})
    request = with_defaults(to_request(message), engine.config, card)
    try:
        check_schedule(request, engine.config, card)
        check_loras(request, engine.config)
        check_cuts(request, card)
        check_mode("switch_mode", request.switch_mode, card, bool(request.transitions))
    except InvalidRequest as error:
        field, _, wrong = str(error).partition(": ")
        raise InvalidField([(f"open.{field}", wrong)]) from None
    for field, side in (("width", request.width), ("height", request.height)):
        if complaint := card.video.side_complaint(side):
            raise InvalidField([(f"open.{field}", complaint)])
    if request.width * request.height > engine.max_pixels:
        size = f"{request.width}x{request.height} has more than {engine.max_pixels} pixels"
        raise UnsupportedMedia(size, field="open.width")
    end = engine.shape.window.max_blocks
    if end is not None and request.start_block >= end:
        raise InvalidField([("open.start_block", f"must be below {end}, where the model's positions end")])
    needed = len(engine.context_blocks(request.start_block, request.cuts))
    if message.num_context_blocks != needed:
        wrong = f"must be {needed} for start_block {request.start_block}, not {message.num_context_blocks}"
        raise InvalidField([("open.num_context_blocks", wrong)])
    return with_first_frame(message, request, card)


def with_first_frame(message: Open, request: SessionRequest, card: ModelCard) -> SessionRequest:
    """With the picture that the video begins with, if there is one. Raises InvalidField."""
    if not message.HasField("first_frame"):
        return request
    if card.image_start != "first_frame" or request.start_block:
        wrong = "is only for a model that was made for it, and for start_block 0"
        raise InvalidField([("open.first_frame", wrong)])
    shape = (1, *card.latent_shape(request.height, request.width)[1:])
    return replace(request, first_frame=from_tensor("open.first_frame", message.first_frame, shape))


def to_request(message: Open) -> SessionRequest:
    """The engine's words for it; credit as the number of blocks that may be sent."""
    return SessionRequest(
        prompts=dict(message.prompts) | {block: mix_of(mix) for block, mix in message.mixes.items()},
        transitions={
            block: transition
            for block, given in message.transitions.items()
            if (transition := transition_of(given))
        },
        seed=message.seed,
        width=message.width,
        height=message.height,
        start_block=message.start_block,
        num_blocks=message.num_blocks if message.HasField("num_blocks") else None,
        credit=max(0, message.credit_end_block - message.start_block),
        switch_mode=MODES[message.switch_mode],
        cuts=tuple(message.cuts),
        fps=message.fps,
        stagger=message.stagger,
        inflight_attention=ATTENTIONS.get(message.inflight_attention),
        loras={block: to_choices(each) for block, each in message.loras.items()},
    )


def to_choices(message: common_pb2.LoraSet) -> Choices:
    """The engine's words for them; an unset scale is 1."""
    return tuple(
        LoraChoice(each.name, each.scale if each.HasField("scale") else 1.0) for each in message.loras
    )


async def read_context(requests: Requests, request: SessionRequest, engine: Engine) -> SessionRequest:
    """The request with its context blocks. Raises FirstMessageLate, ProtocolViolation or InvalidField."""
    shape = engine.card.latent_shape(request.height, request.width)
    context: dict[int, Latents] = {}
    for index in engine.context_blocks(request.start_block, request.cuts):
        block = (await next_message(requests, "context_block")).context_block
        if block.index != index:
            raise ProtocolViolation(f"context block {block.index} came where {index} must come")
        context[index] = from_tensor("context_block.latents", block.latents, shape)
    return replace(request, context=context)
