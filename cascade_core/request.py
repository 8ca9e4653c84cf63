"""A session to open: what is asked, whether it fits the model, and where its schedule begins."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from cascade_core.arrays import Latents, as_array
from cascade_core.config import (
    EngineConfig,
    InflightAttention,
    ModelCard,
    SwitchMode,
    allowed_attentions,
    allowed_staggers,
    complaints,
)
from cascade_core.errors import InvalidRequest
from cascade_core.loras import Choices, check_choices
from cascade_core.prompts import Prompt, Transition, check_prompt, check_transition
from cascade_core.schedule import MAX_CUTS, Shape, Timeline, context_blocks, engine_shape, work_on

MAX_PROMPTS = 1024
"""Entries of a prompt timeline."""

MAX_FPS = 240

STRICT = ConfigDict(strict=True, revalidate_instances="always", arbitrary_types_allowed=True)


@dataclass(frozen=True)
class SessionRequest:
    """A session to open. `check_request` checks it, types included."""

    __pydantic_config__ = STRICT

    prompts: Mapping[int, Prompt]
    """Prompt timeline: from this block on, this prompt. Must have one for `start_block` or before."""
    transitions: Mapping[int, Transition] = field(default_factory=dict)
    """By block of the timeline: how its prompt takes over, where that is gradual. Of entries up to
    `start_block`, each sets out from what the block before had; the first of all has nothing to set out from,
    and rules alone."""
    seed: int = 0
    """Seed of the noise, 0..2**63 - 1."""
    width: int = 0
    """Pixels, a multiple of the card's `size_multiple`; 0: the card's."""
    height: int = 0
    """Pixels, as `width`."""
    start_block: int = 0
    """First block to generate; above 0 the session continues from `context`."""
    context: Mapping[int, Latents] = field(default_factory=dict)
    """Clean latents [F, C, h, w] of the blocks `Engine.context_blocks(start_block, cuts)`."""
    first_frame: Latents | None = None
    """One clean latent frame [1, C, h, w] that block 0 begins with, for models made for it (the card's
    `image_start`). Later openings have it in their context."""
    num_blocks: int | None = None
    """Blocks to generate; None: endless."""
    credit: int | None = None
    """Blocks that may be emitted before more is granted; None: no limit."""
    switch_mode: SwitchMode = "immediate"
    """How the timeline's later prompts take effect."""
    cuts: tuple[int, ...] = ()
    """Blocks that shots begin with, ascending, before `start_block` or behind; not block 0. Only for models
    that can cut (the card's `window.shot_shift_frames`)."""
    fps: float = 0.0
    """Frames per second at which the viewer plays, up to 240: says when blocks are due; 0: the card's."""
    stagger: int = 0
    """Passes a block makes before its successor starts, one of the engine's `allowed_staggers`; 0: the
    engine's own."""
    inflight_attention: InflightAttention | None = None
    """One of the engine's `allowed_inflight_attentions`; None: the engine's own."""
    loras: Mapping[int, Choices] = field(default_factory=dict)
    """LoRAs that prompts of the timeline bring, at most three of the engine's `loras`, by the prompt's block.
    A prompt without has those of the one before it; the first has none."""


@dataclass(frozen=True)
class SwitchRequest:
    """A prompt switch in an open session."""

    __pydantic_config__ = STRICT

    prompt: Prompt
    mode: SwitchMode = "immediate"
    request_id: str = ""
    """Comes back in the receipt."""
    at_block: int | None = None
    """Switch when this block starts; None: now."""
    loras: Choices | None = None
    """LoRAs from then on, as in a session's request; None: those that were used before."""
    transition: Transition | None = None
    """None: at once, as the mode has it."""


def check_types(request: SessionRequest | SwitchRequest) -> None:
    """Raise InvalidRequest, naming the field, where a value is not of the declared type."""
    try:
        TypeAdapter(type(request)).validate_python(request)
    except ValidationError as error:
        raise InvalidRequest(complaints(error)) from None


def with_defaults(request: SessionRequest, config: EngineConfig, card: ModelCard) -> SessionRequest:
    """The request with the card's frame size and speed, and the engine's schedule, where it names none."""
    video = card.video
    return replace(
        request,
        height=request.height or video.height,
        width=request.width or video.width,
        fps=request.fps or video.fps,
        stagger=request.stagger or config.stagger,
        inflight_attention=request.inflight_attention or config.inflight_attention,
    )


def session_shape(request: SessionRequest, shape: Shape) -> Shape:
    """The session's own shape, on an engine of `shape`. The request is one that `with_defaults` made."""
    assert request.stagger
    assert request.inflight_attention
    return replace(shape, stagger=request.stagger, inflight_attention=request.inflight_attention)


def initial_prompts(request: SessionRequest) -> list[int]:
    """Blocks of the timeline entries in force at the start: for the context blocks and the first block."""
    entries = sorted(block for block in request.prompts if block <= request.start_block)
    blocks = (*request.context, request.start_block)
    return sorted({entries[max(0, bisect_right(entries, block) - 1)] for block in blocks if entries})


def course_entries(request: SessionRequest) -> list[int]:
    """Blocks of the timeline entries that those blocks' embeddings follow from: besides the initial ones
    those that a transition among them set out from, where it is not over."""
    entries = sorted(block for block in request.prompts if block <= request.start_block)
    needed = set(initial_prompts(request))
    blocks = sorted({*request.context, request.start_block})
    for entry in sorted(needed):
        seen = next((block for block in blocks if block >= entry), entry)
        while entry > entries[0] and seen < entry + num_mixed(request, entry):
            seen, entry = entry - 1, entries[entries.index(entry) - 1]
            needed.add(entry)
    return sorted(needed)


def num_mixed(request: SessionRequest, entry: int) -> int:
    """Blocks of the transition to an entry of the timeline."""
    return request.transitions[entry].num_blocks if entry in request.transitions else 0


def prompt_numbers(request: SessionRequest) -> dict[int, int]:
    """By block of `course_entries`: the number of its prompt, or of its transition's first block, as
    `engine.course.Course` counts them."""
    entries = course_entries(request)
    sizes = accumulate((1 + num_mixed(request, entry) for entry in entries), initial=0)
    return dict(zip(entries, sizes, strict=False))


def check_request(request: SessionRequest, config: EngineConfig, card: ModelCard) -> None:
    """Raise InvalidRequest or InvalidPrompt, naming the field, where the request does not fit the model."""
    shape = engine_shape(config, card)
    check_types(request)
    check_schedule(request, config, card)
    for name, size in (("width", request.width), ("height", request.height)):
        if complaint := card.video.side_complaint(size):
            raise InvalidRequest(f"{name}: {complaint}")
    if not 0 <= request.seed < 2**63:
        raise InvalidRequest(f"seed: {request.seed} is not in 0..2^63-1")
    for name, count, least in (("num_blocks", request.num_blocks, 1), ("credit", request.credit, 0)):
        if count is not None and count < least:
            raise InvalidRequest(f"{name}: {count} is not at least {least}")
    if not 0 < request.fps <= MAX_FPS:
        raise InvalidRequest(f"fps: {request.fps} is not in 0..{MAX_FPS}, 0 for the card's")
    last = (shape.window.max_blocks or 2**31) - 1
    if not 0 <= request.start_block <= last:
        rope = shape.window.rope
        raise InvalidRequest(f"start_block: {request.start_block} is not in 0..{last} (rope = {rope})")
    if len(request.prompts) > MAX_PROMPTS:
        raise InvalidRequest(f"prompts: {len(request.prompts)} entries are more than {MAX_PROMPTS}")
    for block, prompt in request.prompts.items():
        check_prompt(f"prompts: the one for block {block}", prompt)
    if not initial_prompts(request):
        raise InvalidRequest(f"prompts: none at or before start_block {request.start_block}")
    check_loras(request, config)
    check_cuts(request, card)
    check_mode("switch_mode", request.switch_mode, card, bool(request.transitions))
    for block, transition in request.transitions.items():
        if block not in request.prompts:
            raise InvalidRequest(f"transitions: block {block} has no entry in prompts")
        check_transition(f"transitions: the one for block {block}", transition)
    _check_context(request, card, shape)
    if request.first_frame is not None:
        _check_first_frame(request.first_frame, request, card)


def check_mode(field: str, mode: SwitchMode, card: ModelCard, is_gradual: bool) -> None:
    """Raise InvalidRequest where switches of this mode cannot be made."""
    if mode == "cut" and not card.window.can_cut:
        raise InvalidRequest(f"{field}: {card.name} was not made for scene cuts (cut)")
    if mode == "cut" and is_gradual:
        raise InvalidRequest(f"{field}: a cut has no transition")


def check_cuts(request: SessionRequest, card: ModelCard) -> None:
    """Raise InvalidRequest, whose text begins with the field, where these cannot be its cuts."""
    cuts = request.cuts
    if cuts and not card.window.can_cut:
        raise InvalidRequest(f"cuts: {card.name} was not made for scene cuts")
    if len(cuts) > MAX_CUTS:
        raise InvalidRequest(f"cuts: {len(cuts)} are more than {MAX_CUTS}")
    if list(cuts) != sorted({*cuts}) or min(cuts, default=1) < 1:
        raise InvalidRequest("cuts: must ascend, each above 0")


def check_loras(request: SessionRequest, config: EngineConfig) -> None:
    """Raise InvalidRequest, whose text begins with the field, where these cannot be used."""
    if strange := sorted(request.loras.keys() - request.prompts.keys()):
        raise InvalidRequest(f"loras: block {strange[0]} has no prompt, which they would come with")
    for choices in request.loras.values():
        check_choices("loras", choices, config.loras)


def loras_at(request: SessionRequest, block: int) -> Choices:
    """Those of the prompt that rules at this block."""
    entries = sorted(entry for entry in request.loras if entry <= block)
    return request.loras[entries[-1]] if entries else ()


def check_schedule(request: SessionRequest, config: EngineConfig, card: ModelCard) -> None:
    """Raise InvalidRequest, whose text begins with the field, where the engine allows no such schedule."""
    staggers, attentions = allowed_staggers(config, card), allowed_attentions(config)
    if request.stagger not in staggers:
        raise InvalidRequest(f"stagger: {request.stagger} is not one of {', '.join(map(str, staggers))}")
    if request.inflight_attention not in attentions:
        listed = ", ".join(attentions)
        raise InvalidRequest(f"inflight_attention: {request.inflight_attention} is not one of {listed}")


def _check_context(request: SessionRequest, card: ModelCard, shape: Shape) -> None:
    expected = context_blocks(shape.window, request.start_block, request.cuts)
    if sorted(request.context) != expected:
        raise InvalidRequest(f"context: blocks {sorted(request.context)} given, {expected} needed")
    latent_shape = card.latent_shape(request.height, request.width)
    for block, latents in request.context.items():
        if tuple(latents.shape) != latent_shape:
            raise InvalidRequest(
                f"context: block {block} has shape {tuple(latents.shape)}, not {latent_shape}"
            )
        if not np.isfinite(as_array(latents)).all():
            raise InvalidRequest(f"context: block {block} has values that are not finite")


def _check_first_frame(latents: Latents, request: SessionRequest, card: ModelCard) -> None:
    if card.image_start != "first_frame":
        raise InvalidRequest(
            f"first_frame: {card.name} was not made for it; begin with whole blocks (context)"
        )
    if request.start_block:
        raise InvalidRequest(f"first_frame: only with start_block 0, not {request.start_block}")
    shape = (1, *card.latent_shape(request.height, request.width)[1:])
    if tuple(latents.shape) != shape:
        raise InvalidRequest(f"first_frame: it has shape {tuple(latents.shape)}, not {shape}")
    if not np.isfinite(as_array(latents)).all():
        raise InvalidRequest("first_frame: it has values that are not finite")


def first_timeline(number: int, request: SessionRequest, shape: Shape) -> Timeline:
    """Prime the context blocks, each under the prompt it was made with, then start."""
    numbers = prompt_numbers(request)
    entries = list(numbers)
    limits = [shape.window.max_blocks]
    if request.num_blocks is not None:
        limits.append(request.start_block + request.num_blocks)
    start = Timeline(
        session=number,
        next_block=request.start_block,
        end_block=min((limit for limit in limits if limit is not None), default=None),
        first_own=entries[0],
        cuts=request.cuts,
    )

    def at(block: int) -> Timeline:
        """With the prompts as they are for this block."""
        entry = entries[max(0, bisect_right(entries, block) - 1)]
        return replace(start, prompt=numbers[entry], first_mixed=entry, num_mixed=num_mixed(request, entry))

    primed = (
        work_on(start, shape, block, shape.context_pass, at(block).prompt_of(block))
        for block in sorted(request.context)
    )
    return replace(at(request.start_block), to_prime=tuple(primed))
