"""The ways to run the model that are compared, and what each of them films."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cascade_core.config import EngineConfig, InflightAttention, ModelCard, Quantize, SwitchMode, make
from cascade_core.errors import InvalidConfig
from demo_world.clips import Take
from demo_world.experiments import LONG_S, LONGEST_S, drift_takes, steady_takes, switch_takes
from demo_world.starts import BEGINNINGS, start_takes

BASELINE = "sequential"
IN_FP8 = "-fp8"
"""At the end of a name: with quantize = fp8."""
UNCOUNTED = "-uncounted"
"""At the end of a name: without window_counts_behind."""
EXPERIMENTS = ("steady", "switch", "drift", "start")
SWITCH_MODES: tuple[SwitchMode, ...] = ("immediate", "boundary", "recache")


@dataclass(frozen=True)
class Configuration:
    """One way to run the model."""

    stagger: int
    attention: InflightAttention
    modes: tuple[SwitchMode, ...] = SWITCH_MODES
    """Of a prompt switch."""
    set_back: int = 0
    """Passes that blocks in flight go back by at a switch; above 0 only switches are filmed."""
    quantize: Quantize = "none"
    counts_behind: bool = True
    """Whether the window counts the blocks behind."""


def all_configurations(card: ModelCard) -> dict[str, Configuration]:
    """By name; the baseline comes first, since the others are compared with it.

    Stagger P - 1 is left out: a block then starts beside the context pass of the one before, which sees what
    it sees sequentially, so everything comes out the same. And sequentially a switch finds no block in
    flight, so that `boundary` is `immediate`.
    """
    num_passes = card.sampling.num_passes
    attentions: tuple[InflightAttention, ...] = ("bidirectional", "causal")
    baseline = Configuration(num_passes, "bidirectional", ("immediate", "recache"))
    cascades = {
        f"{attention}-{stagger}": Configuration(stagger, attention)
        for stagger in range(1, num_passes - 1)
        for attention in attentions
    }
    deep = {
        f"{attention}-{stagger}-back-{count}": Configuration(stagger, attention, ("immediate",), count)
        for stagger, count in ((1, 1), (1, 2), (2, 2))
        for attention in attentions
    }
    return {BASELINE: baseline} | cascades | deep


def choose(names: Sequence[str] | None, card: ModelCard) -> dict[str, Configuration]:
    """Those of these names, in an order of ours; None: all without a suffix."""
    plain = all_configurations(card)
    known = plain | {
        name + IN_FP8: replace(configuration, quantize="fp8") for name, configuration in plain.items()
    }
    known |= {
        name + UNCOUNTED: replace(configuration, counts_behind=False)
        for name, configuration in plain.items()
        if configuration.attention == "bidirectional" and name != BASELINE
    }
    unknown = [name for name in names or () if name not in known]
    if unknown:
        listed = ", ".join(plain)
        raise InvalidConfig(
            f"--configurations: {unknown[0]!r} is not one of {listed}, nor one of them with {IN_FP8}, nor a "
            f"bidirectional one with {UNCOUNTED}"
        )
    return {name: configuration for name, configuration in known.items() if name in (names or plain)}


def baseline_of(name: str) -> str | None:
    """What a configuration is compared with: a quantized one with the same that is not, and others with
    sequential; None: with nothing."""
    if name.endswith(IN_FP8):
        return name.removesuffix(IN_FP8)
    return None if name == BASELINE else BASELINE


def twin(name: str, batch: str) -> str:
    """The batch of its baseline that a configuration's batch is compared with."""
    return batch.replace("boundary", "immediate") if baseline_of(name) == BASELINE else batch


@dataclass(frozen=True)
class Amounts:
    """How much each configuration films."""

    experiments: Sequence[str]
    """Among EXPERIMENTS."""
    num_clips: int
    """Steady ones, and as many of each mode of a switch."""
    num_long: int
    num_longest: int
    modes: Sequence[SwitchMode] = SWITCH_MODES
    """Of a prompt switch, as far as the configuration has them."""
    still_blocks: int = 1
    """How long a picture stands still that a clip goes on from."""


def plan(configuration: Configuration, amounts: Amounts) -> dict[str, Sequence[Take]]:
    """What a configuration films, by batch: `steady`, `switch <mode>`, `drift <seconds>`,
    `start <beginning>`."""
    batches: dict[str, Sequence[Take]] = {}
    if "steady" in amounts.experiments and not configuration.set_back:
        batches["steady"] = steady_takes(amounts.num_clips)
    if "switch" in amounts.experiments:
        modes = [mode for mode in configuration.modes if mode in amounts.modes]
        batches |= {f"switch {mode}": switch_takes(amounts.num_clips, mode) for mode in modes}
    if "drift" in amounts.experiments and not configuration.set_back:
        lengths: Mapping[int, int] = {LONG_S: amounts.num_long, LONGEST_S: amounts.num_longest}
        batches |= {f"drift {s}": drift_takes(count, s) for s, count in lengths.items() if count}
    if "start" in amounts.experiments and not configuration.set_back:
        batches |= {
            f"start {beginning}": start_takes(amounts.num_clips, beginning, amounts.still_blocks)
            for beginning in BEGINNINGS
        }
    return batches


def engine_config(model: str, weights: str | None, configuration: Configuration) -> EngineConfig:
    return make(
        EngineConfig,
        {
            "model": model,
            "weights": weights,
            "stagger": configuration.stagger,
            "inflight_attention": configuration.attention,
            "switch_set_back": configuration.set_back,
            "window_counts_behind": configuration.counts_behind,
            "quantize": configuration.quantize,
            "threads_per_rank": 1,
        },
    )
