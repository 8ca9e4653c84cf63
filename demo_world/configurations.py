"""The ways to run the model that are compared, and what each of them films."""

from collections.abc import Sequence
from dataclasses import dataclass

from cascade_core.config import EngineConfig, InflightAttention, ModelCard, SwitchMode, make
from cascade_core.errors import InvalidConfig
from demo_world.clips import Take
from demo_world.experiments import steady_takes, switch_takes
from demo_world.world import FPS, block_frames

BASELINE, CASCADE = "sequential", "bidirectional-1"
SWITCH_MODES: dict[str, tuple[SwitchMode, ...]] = {
    BASELINE: ("immediate",),
    CASCADE: ("immediate", "boundary", "recache"),
}
"""Modes tried by configuration; those named here also run the drift experiment."""


@dataclass(frozen=True)
class Configuration:
    """One way to run the model."""

    stagger: int
    attention: InflightAttention


def all_configurations(card: ModelCard) -> dict[str, Configuration]:
    """By name; the baseline comes first, since the others are compared with it."""
    num_passes = card.sampling.num_passes
    attentions: tuple[InflightAttention, ...] = ("bidirectional", "causal")
    return {BASELINE: Configuration(num_passes, "bidirectional")} | {
        f"{attention}-{stagger}": Configuration(stagger, attention)
        for stagger in range(1, num_passes)
        for attention in attentions
    }


def choose(names: Sequence[str] | None, card: ModelCard) -> dict[str, Configuration]:
    known = all_configurations(card)
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise InvalidConfig(f"--configurations: {unknown[0]!r} is not one of {', '.join(known)}")
    return {name: configuration for name, configuration in known.items() if not names or name in names}


@dataclass(frozen=True)
class Amounts:
    """How much is filmed."""

    experiments: Sequence[str]
    """Among `steady`, `switch`, `drift`."""
    num_prompts: int
    num_seeds: int
    """Steady clips of each prompt."""
    num_switches: int
    num_long: int
    long_s: int
    """Length of a long clip."""


def plan(name: str, amounts: Amounts) -> dict[str, list[Take]]:
    """What a configuration films, by batch: `steady`, `switch <mode>`, `drift`."""
    batches: dict[str, list[Take]] = {}
    modes = SWITCH_MODES.get(name, ())
    if "steady" in amounts.experiments:
        batches["steady"] = steady_takes(amounts.num_prompts, amounts.num_seeds)
    if "switch" in amounts.experiments:
        batches |= {f"switch {mode}": switch_takes(amounts.num_switches, mode) for mode in modes}
    if "drift" in amounts.experiments and modes:
        num_blocks = -(-amounts.long_s * FPS // block_frames(1))
        batches["drift"] = steady_takes(amounts.num_long, 1, num_blocks)
    return batches


def engine_config(model: str, weights: str | None, configuration: Configuration) -> EngineConfig:
    return make(
        EngineConfig,
        {
            "model": model,
            "weights": weights,
            "stagger": configuration.stagger,
            "inflight_attention": configuration.attention,
            "threads_per_rank": 1,
        },
    )
