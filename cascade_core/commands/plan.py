"""`cascade-engine plan`: what to expect of GPUs, as tables for people or as JSON."""

import argparse
import json
import shutil
from dataclasses import asdict
from math import isinf
from typing import Any

from cascade_core.commands.arguments import add_quantize
from cascade_core.commands.layout import Rows, fits, listed, stacked, table
from cascade_core.errors import InvalidConfig
from cascade_core.planning.assumptions import assumptions
from cascade_core.planning.calibration import comparisons
from cascade_core.planning.gpus import load_gpus
from cascade_core.planning.plan import CapacityPlan, Pipeline, PlanRequest, as_json, make_plan


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    gpus = tuple(load_gpus())
    parser.add_argument("--model", help="a card's name, or a path to a .toml card")
    parser.add_argument(
        "--gpu", type=str.lower, choices=gpus, metavar="GPU", help=f"one of {', '.join(gpus)}"
    )
    parser.add_argument("--ranks", type=int, help="GPUs of a stage (default: as many as a block has passes)")
    parser.add_argument(
        "--stagger", type=int, default=1, help="passes before the next block starts (default: 1)"
    )
    parser.add_argument("--fps", type=float, default=0.0, help="at which viewers play (default: the model's)")
    add_quantize(parser)
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True,
        help="layers compiled by torch.compile (default: yes)",
    )  # fmt: skip
    parser.add_argument(
        "--no-window-counts-behind", dest="window_counts_behind", action="store_false",
        help="blocks behind that a block sees do not count towards its window",
    )  # fmt: skip
    parser.add_argument(
        "--loras",
        type=int,
        default=0,
        metavar="N",
        help="LoRAs that are listed; sessions use them, at most 3",
    )
    parser.add_argument(
        "--lora-rank", type=int, default=32, metavar="R", help="rank of each, in all layers (default: 32)"
    )
    parser.add_argument(
        "--calibration", action="store_true", help="published speeds, and how far a plan is off; also alone"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_plan(arguments: argparse.Namespace) -> str:
    """What is printed."""
    columns = shutil.get_terminal_size().columns
    if arguments.model and arguments.gpu:
        plan = make_plan(plan_request(arguments))
        if arguments.json:
            values = as_json(plan) | {"assumptions": assumptions(plan), "calibration": calibration_json()}
            return json.dumps(values, indent=2)
        parts = [heading(plan), pipelines_table(plan, columns), listed(assumptions(plan), columns)]
        if arguments.calibration:
            parts.append(calibration_table(columns))
        return "\n\n".join(parts)
    if not arguments.calibration:
        raise InvalidConfig("plan: give it --model and --gpu, or --calibration alone")
    return json.dumps(calibration_json(), indent=2) if arguments.json else calibration_table(columns)


def plan_request(arguments: argparse.Namespace) -> PlanRequest:
    width, height = arguments.size
    return PlanRequest(
        model=arguments.model,
        gpu=arguments.gpu,
        num_ranks=arguments.ranks,
        stagger=arguments.stagger,
        width=width,
        height=height,
        fps=arguments.fps,
        fp8=arguments.quantize == "fp8",
        compiled=arguments.compile,
        counts_behind=arguments.window_counts_behind,
        num_loras=arguments.loras,
        lora_rank=arguments.lora_rank,
    )


def heading(plan: CapacityPlan) -> str:
    how = f"{'compiled' if plan.compiled else 'not compiled'}, {'FP8' if plan.fp8 else 'bfloat16'}"
    return "\n".join(
        [
            f"{plan.card.name} on {plan.num_ranks} x {plan.gpu.title}",
            f"{plan.width}x{plan.height} at {plan.fps:g} FPS, {how}",
            f"cascade of stagger {plan.stagger} · estimated",
            *([] if plan.counts_behind else ["the window does not count the blocks behind"]),
            *([about_loras(plan)] if plan.loras.num_listed else []),
        ]
    )


def about_loras(plan: CapacityPlan) -> str:
    loras = plan.loras
    gib = loras.memory_bytes(plan.card.transformer) / 2**30
    return (
        f"{loras.num_listed} LoRAs of rank {loras.rank}, {gib:.2f} GiB a GPU; a session uses {loras.num_used}"
    )


def pipelines_table(plan: CapacityPlan, columns: int) -> str:
    """Side by side where the terminal is wide enough, else one below the other."""
    lines = [cells(plan, pipeline) for pipeline in plan.pipelines]
    by_pipeline: Rows = [tuple(lines[0]), *(tuple(line.values()) for line in lines)]
    by_line: Rows = list(zip(*by_pipeline, strict=True))
    return table(by_line) if fits(by_line, columns) else stacked(by_pipeline)


def cells(plan: CapacityPlan, pipeline: Pipeline) -> dict[str, str]:
    """By label; the first is the pipeline's name."""
    speed, parts = pipeline.speed, pipeline.speed.pass_ms
    together = f"on {plan.num_ranks} GPUs" if plan.num_ranks > 1 else "on the GPU"
    return {
        "": pipeline.name,
        "GPUs of a pipeline": str(pipeline.num_gpus),
        "products, ms a tick": f"{parts.products:.1f}",
        "attention": f"{parts.attention:.1f}",
        "element-wise": f"{parts.elementwise:.1f}",
        "launches": f"{parts.launches:.1f}",
        "waiting for the gather": f"{parts.gather:.1f}",
        "tick, ms": f"{parts.total:.1f}",
        "ms from block to block": f"{speed.block_ms:.0f}",
        "ms to the first block": f"{speed.first_block_ms:.0f}",
        **({"slower by LoRAs": f"{pipeline.lora_slowdown - 1:.0%}"} if plan.loras.num_listed else {}),
        "FPS": f"{pipeline.fps:.1f}",
        "sessions by speed": str(pipeline.sessions_by_speed),
        "sessions by memory": str(pipeline.sessions_by_memory),
        f"pipelines {together}": str(pipeline.num_replicas),
        f"FPS {together}": f"{pipeline.num_replicas * pipeline.fps:.1f}",
        f"sessions {together}": str(pipeline.sessions),
        "VAE decoders for them": decoders(pipeline.vae_decoders),
        "TAEHV decoders": decoders(pipeline.taehv_decoders),
        "GB/s to hide the gather": link(speed.hiding_gb_s),
    }


def decoders(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.2f}"


def link(gb_s: float) -> str:
    return "never" if isinf(gb_s) else f"{gb_s:.0f}"


def calibration_table(columns: int) -> str:
    rows = [("published", "FPS", "planned", "off by", "fixes")]
    rows += [
        (
            each.published.title,
            f"{each.published.fps:.1f}",
            f"{each.fps:.1f}",
            f"{each.deviation:+.0%}",
            each.published.fixes or "-",
        )
        for each in comparisons()
    ]
    sources = [f"{each.published.title}: {each.published.source}" for each in comparisons()]
    body = table(rows) if fits(rows, columns) else stacked(rows)
    return f"{body}\n\n{listed(sources, columns)}"


def calibration_json() -> list[dict[str, Any]]:
    return [
        asdict(each.published) | {"planned_fps": each.fps, "deviation": each.deviation}
        for each in comparisons()
    ]
