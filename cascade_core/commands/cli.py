"""The command `cascade-engine`: generate a video, list the models, download one, measure, plan.

Errors that the caller can mend are one sentence on stderr and exit status 2; all others exit with 1.
What needs torch or the hub is imported where it runs: seconds that the other commands are spared.
"""

import argparse
import asyncio
import logging
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_args

import shtab
from tqdm import tqdm

from cascade_core.commands.arguments import add_bench_arguments, add_quantize
from cascade_core.commands.begin_from import add_beginning, beginning_of
from cascade_core.commands.listing import list_models
from cascade_core.commands.loras import add_loras, listed_and_chosen
from cascade_core.commands.plan import add_plan_arguments, run_plan
from cascade_core.commands.prompts import add_prompts, switches, transition
from cascade_core.config import (
    MAX_SIDE,
    EngineConfig,
    InflightAttention,
    Rope,
    find_card,
    make,
    uses_random_weights,
)
from cascade_core.errors import CascadeError, InvalidConfig, UserError
from cascade_core.media.piped import STANDARD_OUTPUT, is_piped

if TYPE_CHECKING:
    from cascade_core.commands.generate import GenerateOptions, Progress

T = TypeVar("T")
LINE_EVERY_S = 5.0
"""Between two lines of progress where there is no terminal."""
ENDINGS = ("", ".mp4", ".m4v")
FLAGS = {
    "num_ranks": "--ranks",
    "stagger": "--stagger",
    "tick_deadline_s": "--tick-deadline",
    "quantize": "--quantize",
    "quantize_attention": "--quantize-attention",
    "model": "--model",
    "prompts": "--prompt",
    "loras": "--lora",
    "num_blocks": "--blocks",
    "seed": "--seed",
    "width, height": "--size",
    "width": "--size",
    "height": "--size",
    "num_loras": "--loras",
    "lora_rank": "--lora-rank",
    "gpu": "--gpu",
    "fps": "--fps",
}
"""What the library's fields are called here."""
SIZE_HELP = "WIDTHxHEIGHT in pixels, multiples of 16, of 32 with Wan 2.2's VAE (default: the model's)"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        _, extra, words = message.partition("unrecognized arguments: ")
        if extra and not words.startswith("-"):
            message += '; words that belong together go into quotes, as in "a red circle"'
        self.exit(2, f"{self.prog}: {message}\n")


def build_parser() -> Parser:
    parser = Parser(prog="cascade-engine", description="Block-causal video diffusion as a block cascade.")
    parser.add_argument("--version", action="version", version=f"cascade-engine {engine_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    usage = "%(prog)s [options] --prompt PROMPT --out FILE"
    add_generate(commands.add_parser("generate", usage=usage, help="make one video from prompts"))
    models = commands.add_parser("models", usage="%(prog)s [options]", help="list the model cards")
    models.add_argument("--weights", help="folder to look for files in (default: each model's own place)")
    models.add_argument("--json", action="store_true", help="print JSON")
    fetch = commands.add_parser(
        "download", usage="%(prog)s --model MODEL --to TO", help="put a model's files into a folder"
    )
    fetch.add_argument("--model", required=True, help="a card's name, or a path to a .toml card")
    fetch.add_argument("--to", required=True, type=Path, help="the folder; what is there stays")
    add_bench_arguments(
        commands.add_parser("bench", usage="%(prog)s [options]", help="measure this machine and write tables")
    )
    plan = commands.add_parser(
        "plan", usage="%(prog)s [options] --model MODEL --gpu GPU", help="estimate what GPUs will do"
    )
    add_plan_arguments(plan)
    plan.add_argument("--size", type=parse_size, default=(0, 0), help=SIZE_HELP)
    completion = commands.add_parser(
        "completion", usage="%(prog)s SHELL", help="print completions for your shell"
    )
    shells = shtab.SUPPORTED_SHELLS
    completion.add_argument("shell", choices=shells, metavar="SHELL", help=f"one of {', '.join(shells)}")
    return parser


def engine_version() -> str:
    """The version of the distribution that this is part of."""
    for name in ("cascade-video", "cascade-workspace"):
        with suppress(PackageNotFoundError):
            return version(name)
    return "(not installed)"


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """The settings of EngineConfig that a person changes; the defaults stand there."""
    defaults = {field.name: field.default for field in fields(EngineConfig)}
    parser.add_argument(
        "--model", default="demo", help="a card's name, or a path to a .toml card (default: demo)"
    )
    parser.add_argument("--weights", help="folder, file, hub id, or `random` (default: the model's own)")
    parser.add_argument(
        "--ranks", type=int, default=defaults["num_ranks"], help="rank processes, one GPU each"
    )
    parser.add_argument(
        "--stagger", type=int, default=defaults["stagger"],
        help="passes before the next block starts: 1 is the full cascade, P is sequential (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--inflight-attention", choices=get_args(InflightAttention), default="bidirectional", metavar="HOW",
        help="what blocks in flight see of each other: bidirectional (default) or causal",
    )  # fmt: skip
    parser.add_argument("--rope", choices=get_args(Rope), help="positions (default: what the card says)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="what computes")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of weights and latents"
    )
    add_quantize(parser)
    parser.add_argument(
        "--quantize-attention", action="store_true",
        help="self-attention in 8 bits, by FlashAttention 3 or SageAttention 2 (experimental)",
    )  # fmt: skip
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction,
        help="torch.compile the layers (default: on CUDA, where there is a compiler)",
    )  # fmt: skip
    parser.add_argument(
        "--tick-deadline", type=float, default=defaults["tick_deadline_s"], metavar="SECONDS",
        help="ranks that take longer for a tick are started anew (default: %(default)g)",
    )  # fmt: skip


def add_generate(parser: argparse.ArgumentParser) -> None:
    add_engine_arguments(parser)
    add_prompts(parser)
    add_loras(parser)
    add_beginning(parser)
    parser.add_argument("--blocks", type=int, default=20, help="mostly 12 pictures each (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same video (default: 0)")
    parser.add_argument("--size", type=parse_size, default=(0, 0), help=SIZE_HELP)
    parser.add_argument(
        "--decoder", choices=("vae", "taehv"), default="vae", help="taehv is quicker and coarser"
    )
    parser.add_argument(
        "--decoder-weights", type=Path, metavar="PATH", help="default: the VAE beside the model's weights"
    )
    parser.add_argument(
        "-o", "--out", "--output", dest="output", type=Path, metavar="FILE", help="MP4 to write, or -"
    )
    parser.add_argument("--latents", type=Path, metavar="FILE", help="safetensors to write, or -")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measured figures, or -")
    parser.add_argument("--overwrite", action="store_true", help="replace files of these names")


def parse_size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not (cross and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 832x480")
    return int(width), int(height)


def engine_config(arguments: argparse.Namespace) -> EngineConfig:
    return make(
        EngineConfig,
        {
            "model": arguments.model,
            "weights": arguments.weights,
            "num_ranks": arguments.ranks,
            "stagger": arguments.stagger,
            "inflight_attention": arguments.inflight_attention,
            "rope": arguments.rope,
            "device": arguments.device,
            "dtype": arguments.dtype,
            "quantize": arguments.quantize,
            "quantize_attention": arguments.quantize_attention,
            "compile": arguments.compile,
            "tick_deadline_s": arguments.tick_deadline,
            "max_pixels": MAX_SIDE**2,  # there is nobody else whose ticks a large size could spoil
        },
    )


def run_generate(arguments: argparse.Namespace) -> None:
    from cascade_core.commands.generate import GenerateOptions, check_options, generate

    listed, chosen = listed_and_chosen(arguments)
    config = replace(engine_config(arguments), loras=listed)
    card = find_card(config.model)
    options = GenerateOptions(
        engine=config,
        loras=chosen,
        prompt=arguments.prompt,
        num_blocks=arguments.blocks,
        output=arguments.output,
        latents=arguments.latents,
        json=arguments.json,
        switches=switches(arguments.switch),
        switch_mode=arguments.switch_mode,
        transition=transition(arguments, card),
        seed=arguments.seed,
        width=arguments.size[0],
        height=arguments.size[1],
        beginning=beginning_of(arguments),
        decoder=arguments.decoder,
        decoder_weights=arguments.decoder_weights,
    )
    check_options(options, card)
    check_files(options, may_overwrite=arguments.overwrite)
    say(f"{card.name}: {card.title} · {card.licence}")
    if uses_random_weights(config, card):
        say("Random weights: the picture is noise. What you see is the machinery and its speed.")
    told_at = time.monotonic()
    if not sys.stderr.isatty():
        say("loading")
    with tqdm(total=options.num_blocks, unit="block", desc="loading", file=sys.stderr, disable=None) as bar:

        def report(progress: "Progress") -> None:
            nonlocal told_at
            if bar.disable:
                if time.monotonic() - told_at > LINE_EVERY_S:
                    told_at = time.monotonic()
                    say(f"{progress.num_blocks}/{options.num_blocks} blocks")
                return
            if progress.num_blocks == 0:
                bar.set_description("generating", refresh=False)
                bar.reset()  # loading does not count towards the time left
                return
            bar.set_postfix_str(f"{progress.num_frames / progress.elapsed_s:.1f} FPS", refresh=False)
            bar.update(progress.num_blocks - bar.n)

        def warn(text: str) -> None:
            bar.write(text, file=sys.stderr)

        figures = asyncio.run(cancelled_by_sigterm(generate(options, report, warn)))
    say(summary(figures, [path for path in (options.output, options.latents, options.json) if path]))


def check_files(options: "GenerateOptions", *, may_overwrite: bool) -> None:
    """No file is replaced unasked, and none is called what it is not. Raises InvalidConfig."""
    for path in (options.output, options.latents, options.json):
        if path and os.path.isfile(path) and not may_overwrite:
            raise InvalidConfig(f"{path} exists: choose another name, or add --overwrite")
    video = options.output
    if not video or is_piped(video):
        if video == STANDARD_OUTPUT and sys.stdout.isatty():
            raise InvalidConfig("-o -: standard output is a terminal; lead it into a program or a file")
    elif video.suffix.lower() not in ENDINGS:
        raise InvalidConfig(f"-o {video}: the video is an MP4; choose a name that ends in .mp4")


def run_download(arguments: argparse.Namespace) -> None:
    from cascade_core.commands.download import download

    card = find_card(arguments.model)
    say(f"{card.name}: {card.title} · {card.licence}")
    fetched = download(card, arguments.to, say)
    say(f"{arguments.to}: complete, {len(fetched)} fetched")


async def cancelled_by_sigterm(work: Coroutine[Any, Any, T]) -> T:
    """SIGTERM (docker stop, timeout) cancels the work, as Ctrl-C does; a second leaves cleaning up alone."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def stop() -> None:
        if not stopping.is_set():
            stopping.set()
            task.cancel()

    with suppress(NotImplementedError):  # Windows
        loop.add_signal_handler(signal.SIGTERM, stop)
    return await task


def summary(figures: dict[str, Any], written: list[Path]) -> str:
    decode = figures["fps_with_decode"]
    speed = f"{figures['fps_denoise']} FPS denoising" + (f", {decode} FPS with decoding" if decode else "")
    names = ", ".join(str(path) for path in written)
    speed += f", seed {figures['seed']}"
    return f"{figures['num_blocks']} blocks, {figures['num_frames']} frames, {speed}: {names}"


def complaint(error: CascadeError) -> str:
    """The error, with flags in the place of fields that it names first."""
    names = "|".join(FLAGS)
    return re.sub(rf"(?:^|(?<=; ))({names})(?=[.:])", lambda match: FLAGS[match[1]], str(error))


def say(text: str) -> None:
    print(text, file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    words = sys.argv[1:] if argv is None else argv
    if not words:
        build_parser().print_help()
        return
    arguments = build_parser().parse_args(words)
    try:
        match arguments.command:
            case "generate":
                run_generate(arguments)
            case "models":
                columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
                print(list_models(arguments.weights, arguments.json, columns))
            case "download":
                run_download(arguments)
            case "bench":
                from cascade_core.commands.bench import run_bench

                run_bench(arguments)
            case "plan":
                print(run_plan(arguments))
            case "completion":
                print(shtab.complete(build_parser(), arguments.shell))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except UserError as error:
        say(f"cascade-engine: {complaint(error)}")
        sys.exit(2)
    except CascadeError as error:
        say(f"cascade-engine: {complaint(error)}")
        sys.exit(1)
    except KeyboardInterrupt:
        say("cascade-engine: stopped")
        sys.exit(130)
    except asyncio.CancelledError:
        say("cascade-engine: stopped")
        sys.exit(143)


if __name__ == "__main__":
    main()
