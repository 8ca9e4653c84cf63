"""What a plan rests on, in words."""

from cascade_core.planning.calibration import comparisons
from cascade_core.planning.plan import CapacityPlan
from cascade_core.planning.timing import (
    ATTENTION,
    CONVOLUTIONS,
    COPIES,
    KERNEL_US,
    OF_ARCHITECTURE,
    PRODUCTS,
)
from cascade_core.planning.traces import find_decoder, load_traces

FIXED_BY = "self-forcing-1.3b"
"""The card with the VAE whose public speed fixed CONVOLUTIONS."""


def assumptions(plan: CapacityPlan) -> list[str]:
    """A sentence or two about each part."""
    gpu = plan.gpu
    part = OF_ARCHITECTURE[gpu.architecture]
    return [
        f"{gpu.source}: {gpu.bf16_tflop_s:g} TFLOP/s dense in bfloat16, {gpu.fp8_tflop_s:g} in FP8, "
        f"{gpu.memory_gb:g} GB at {gpu.memory_gb_s:g} GB/s. Products reach {PRODUCTS * part:.0%} of the "
        f"TFLOP/s, attention {ATTENTION * part:.0%} of those in bfloat16, other kernels {COPIES:.0%} of the "
        f"GB/s; each kernel adds {KERNEL_US:g} us."
        + (" Nothing is published of this kind of GPU: those are an H100's." * (gpu.architecture == "ada")),
        "Operations follow from the model's dimensions. Kernels and bytes are those of "
        f"{plan.traced}, traced on {load_traces()['date']} without a GPU.",
        "Milliseconds are the slowest rank's in the slowest tick, when the window is full. FPS leaves out "
        "text encoder and decoder; a first block also waits until its prompt is embedded.",
        f"Keys and values arrive over {gpu.link} at {COPIES:.0%} of {gpu.link_gb_s:g} GB/s, while a rank "
        "attends to clean blocks.",
        "By speed: FPS of a pipeline / FPS of a viewer. By memory: nine tenths of what weights, UMT5-XXL "
        "and 1 GB leave of rank 0's GPU. A data sheet's GB is 10^9 bytes.",
        about_decoders(plan),
        calibration_in_words(),
    ]


def about_decoders(plan: CapacityPlan) -> str:
    part = CONVOLUTIONS * OF_ARCHITECTURE[plan.gpu.architecture]
    words = f"Decoders are GPUs of the same kind and reach {part:.0%} of its TFLOP/s"
    trace = find_decoder("vae", plan.card)
    if trace is None:
        return f"{words}; of this model's none was traced."
    return words + ", as Wan 2.1's VAE does" * (trace.model != FIXED_BY) + "."


def calibration_in_words() -> str:
    """How far it is from published figures."""
    ones = [each.deviation for each in comparisons() if each.published.num_ranks == 1]
    cascades = [each for each in comparisons() if each.published.num_ranks > 1]
    theirs = " and ".join(f"{each.published.fps:g} where this says {each.fps:.0f}" for each in cascades)
    return (
        f"Published speeds of one GPU are met within {min(ones):+.0%} and {max(ones):+.0%}. Cascades are at "
        f"best as fast as this says: the paper's made {theirs} FPS, and none has been measured with this "
        "engine. `--calibration` shows each figure."
    )
