"""From a model, a GPU and a number of ranks to what they can be expected to do."""

from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

from cascade_core.config import (
    EngineConfig,
    InflightAttention,
    ModelCard,
    check_engine,
    find_card,
    make,
)
from cascade_core.errors import InvalidConfig
from cascade_core.planning.gpus import DataSheet, find_gpu
from cascade_core.planning.low_rank import Loras
from cascade_core.planning.memory import num_sessions
from cascade_core.planning.pipeline import Speed, measure
from cascade_core.planning.timing import PICTURES, Roofline, decode_ms
from cascade_core.planning.traces import find_overheads, nearest
from cascade_core.schedule import Shape

ATTENTIONS: tuple[InflightAttention, ...] = ("bidirectional", "causal")


@dataclass(frozen=True)
class PlanRequest:
    """What is asked. Zeros and None: the card's."""

    model: str
    gpu: str
    num_ranks: int | None = None
    """None: one for each of a block's passes."""
    stagger: int = 1
    width: int = 0
    height: int = 0
    fps: float = 0.0
    """At which viewers play."""
    fp8: bool = False
    compiled: bool = True
    counts_behind: bool = True
    """As EngineConfig's `window_counts_behind`."""
    num_loras: int = 0
    """LoRAs that the stage lists; each session uses all of them, at most three."""
    lora_rank: int = 32


@dataclass(frozen=True)
class Pipeline:
    """One way to use the GPUs."""

    name: str
    """sequential, or what blocks in flight see of each other in the cascade."""
    num_gpus: int
    speed: Speed
    fps: float
    """Pictures a second of all its sessions together."""
    sessions_by_speed: int
    sessions_by_memory: int
    num_replicas: int
    """How many of it the GPUs that were asked about hold."""
    vae_decoders: float | None
    """GPUs of the same kind that decode for all these sessions; None: the model's VAE is none of Wan's."""
    taehv_decoders: float | None
    lora_slowdown: float
    """A block's time with LoRAs over its time without; 1: none is listed."""

    @property
    def sessions(self) -> int:
        """That play in real time on all GPUs that were asked about."""
        return self.num_replicas * min(self.sessions_by_speed, self.sessions_by_memory)


@dataclass(frozen=True)
class CapacityPlan:
    """What to expect."""

    card: ModelCard
    gpu: DataSheet
    num_ranks: int
    stagger: int
    width: int
    height: int
    fps: float
    fp8: bool
    compiled: bool
    counts_behind: bool
    loras: Loras
    traced: str
    """The card whose trace it rests on."""
    pipelines: tuple[Pipeline, ...]


def make_plan(request: PlanRequest) -> CapacityPlan:
    """Raises UnknownModel, or InvalidConfig that names the field and its range or says what does not fit."""
    card, gpu = find_card(request.model), find_gpu(request.gpu)
    num_passes = card.sampling.num_passes
    num_ranks = num_passes if request.num_ranks is None else request.num_ranks
    values = {"model": request.model, "num_ranks": num_ranks, "stagger": request.stagger}
    check_engine(make(EngineConfig, values), card)
    width, height = request.width or card.video.width, request.height or card.video.height
    for name, side in (("width", width), ("height", height)):
        if complaint := card.video.side_complaint(side):
            raise InvalidConfig(f"{name}: {complaint}")
    fps = request.fps or card.video.fps
    if not (isfinite(fps) and fps > 0):
        raise InvalidConfig(f"fps: {fps:g} is not above 0")
    loras = Loras(request.num_loras, request.lora_rank)
    plan = CapacityPlan(
        card, gpu, num_ranks, request.stagger, width, height, fps, request.fp8,
        request.compiled, request.counts_behind, loras, nearest(card), (),
    )  # fmt: skip
    tokens = card.tokens_per_block(height, width)
    overheads = find_overheads(card, tokens, request.compiled, request.fp8)
    roofline = Roofline(card, gpu, tokens, overheads, request.fp8, plan.loras)
    alone = Shape(num_passes, num_passes, 1, card.window, num_extra_passes=card.sampling.num_extra_passes)
    cascade = replace(
        alone, stagger=request.stagger, num_ranks=num_ranks, counts_behind=request.counts_behind
    )
    shapes = {"sequential": alone} | {name: replace(cascade, inflight_attention=name) for name in ATTENTIONS}
    pipelines = tuple(_pipeline(plan, roofline, name, shape) for name, shape in shapes.items())
    return replace(plan, pipelines=pipelines)


def as_json(plan: CapacityPlan) -> dict[str, Any]:
    """For programs; what is infinite is null."""
    pipelines = []
    for pipeline in plan.pipelines:
        values = asdict(pipeline) | {"sessions": pipeline.sessions}
        values["speed"]["pass_ms"]["total"] = pipeline.speed.pass_ms.total
        if not isfinite(pipeline.speed.hiding_gb_s):
            values["speed"]["hiding_gb_s"] = None
        pipelines.append(values)
    return asdict(plan) | {"card": plan.card.name, "model": plan.card.name, "pipelines": pipelines}


def _pipeline(plan: CapacityPlan, roofline: Roofline, name: str, shape: Shape) -> Pipeline:
    card = plan.card
    speed = measure(roofline, shape)
    fps = 1e3 * card.num_frames(1) / speed.block_ms
    by_speed = int(fps / plan.fps)
    by_memory = num_sessions(card, plan.gpu, plan.height, plan.width, plan.fp8, plan.loras)
    without = measure(replace(roofline, loras=Loras()), shape).block_ms
    num_replicas = plan.num_ranks // shape.num_ranks
    played = num_replicas * (min(by_speed, by_memory) * plan.fps or fps)
    vae, taehv = (
        None if (ms := decode_ms(decoder, card, plan.gpu, plan.height, plan.width)) is None
        else 1e-3 * ms * played / PICTURES
        for decoder in ("vae", "taehv")
    )  # fmt: skip
    slowdown = speed.block_ms / without
    return Pipeline(
        name, shape.num_ranks, speed, fps, by_speed, by_memory, num_replicas, vae, taehv, slowdown
    )
