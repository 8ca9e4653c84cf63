"""`cascade generate`: one session into one file."""

import argparse
import asyncio
from pathlib import Path

import grpc

from cascade.v1 import session_pb2
from cascade_client.client import Client
from cascade_client.commands.arguments import (
    add_loras,
    add_over,
    parse_change,
    parse_count,
    parse_length,
    parse_model,
    parse_prompt,
    parse_seconds,
    parse_seed,
    parse_size,
)
from cascade_client.commands.output import add_out, choose_out, saved_sentence
from cascade_client.commands.recording import Recording
from cascade_client.commands.wanted import DEFAULT_SECONDS, Wanted, check, check_choice, plan
from cascade_client.console import (
    ATTENTIONS,
    MODE_HELP,
    MODES,
    CommandFailed,
    Commands,
    Options,
    add_command,
    add_gateway,
    add_json,
    make_client,
    note,
    print_json,
)
from cascade_client.errors import CascadeClientError
from cascade_client.prompts import Transition
from cascade_client.save import STANDARD_OUTPUT, Saved, what_is_kept
from cascade_client.session import Session

DELETE_DEADLINE_S = 3.0
FITS = ("crop", "pad")
VIDEO = "video.mp4"
DETAILS = """\
examples:
  cascade generate "a red circle moves left"
  cascade generate "a red circle" --at 8="a blue square" --at 10s="a green square" --seconds 30
  cascade generate "a red circle" --at 10s="a blue square" --over 3s
  cascade generate "a red circle" --blocks 40 --seed 7 --size 128x96 --out circle.mp4
  cascade generate "a red circle moves left" --image circle.png
  cascade generate "a red circle moves left" --video video.mp4 --last 2s --include-start --out longer.mp4
"""


def add_commands(commands: Commands) -> None:
    parser = add_command(commands, "generate", generate, "make a video and save it", DETAILS, "PROMPT")
    parser.add_argument("prompt", type=parse_prompt, metavar="PROMPT", help="what to show")
    parser.add_argument(
        "--at", type=parse_change, action="append", default=[], metavar="WHEN=PROMPT",
        help="change the prompt at a block (`8=...`) or a second (`10s=...`); may be repeated",
    )  # fmt: skip
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--seconds", type=parse_seconds, help=f"length of the video (default: {DEFAULT_SECONDS:g})"
    )
    length.add_argument("--blocks", type=parse_count, help="length in blocks, mostly 12 pictures each")
    parser.add_argument("--model", type=parse_model, default="", help="model card (default: the gateway's)")
    parser.add_argument(
        "--mode", choices=MODES, metavar="MODE", help=f"how later prompts take over: {MODE_HELP}"
    )
    parser.add_argument("--seed", type=parse_seed, help="the same seed makes the same video (default: any)")
    parser.add_argument(
        "--size",
        type=parse_size,
        default=(0, 0),
        metavar="WxH",
        help="pixels, multiples of 16; some models want 32",
    )
    parser.add_argument(
        "--stagger", type=parse_count, default=0, metavar="PASSES",
        help="passes a block makes before the next one starts: 1 is the full cascade, as many as the model "
        "makes is one block after the other (default: the stage's)",
    )  # fmt: skip
    parser.add_argument(
        "--inflight-attention", choices=ATTENTIONS, metavar="ATTENTION",
        help="what blocks in flight see of each other: all (bidirectional) or those before them (causal) "
        "(default: the stage's)",
    )  # fmt: skip
    add_over(parser)
    add_loras(parser)
    add_start(parser)
    add_out(parser, VIDEO)
    add_json(parser)
    add_gateway(parser)


def add_start(parser: argparse.ArgumentParser) -> None:
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--image", type=Path, metavar="FILE", help="go on from this picture: PNG, JPEG or WebP, at most 8 MiB"
    )
    start.add_argument("--video", type=Path, metavar="FILE", help="go on from this clip: MP4, at most 8 MiB")
    parser.add_argument(
        "--last", type=parse_length, metavar="SECONDS",
        help="only from so much of the clip's end, such as 2s (default: what the model looks back on)",
    )  # fmt: skip
    parser.add_argument(
        "--fit", choices=FITS, metavar="FIT",
        help="what becomes of another shape: crop cuts off what is over, pad adds black bars (default: crop)",
    )  # fmt: skip
    parser.add_argument(
        "--include-start", action="store_true", help="the clip is part of the video that is saved"
    )


async def generate(options: Options) -> int:
    check(options)
    path = choose_out(options, VIDEO)
    async with make_client(options) as client:
        model = await find_model(client, options.model)
        check_choice(options, model)
        wanted = plan(options, model)
        width, height = options.size
        session = await client.create(
            wanted.prompts, model=options.model, switch_mode=options.mode, seed=options.seed, width=width,
            height=height, transitions=transitions(wanted, model), num_blocks=wanted.num_blocks,
            stagger=options.stagger, inflight_attention=options.inflight_attention, loras=dict(options.lora),
            image=options.image, video=options.video,
            last_s=options.last, fit=options.fit, include_start=options.include_start,
        )  # fmt: skip
        note(f"{session.name} is in the queue (seed {session.message.spec.seed})")
        try:
            async with client.connect(session) as stream:
                recording = Recording(client, stream, path, wanted)
                saved = await recording.save()
        finally:
            await end(client, session)
    check_whole(saved, wanted)
    report(saved, session, recording.unknown_words, options)
    return 0


def transitions(wanted: Wanted, model: session_pb2.Model | None) -> dict[int, Transition]:
    """By block of each later prompt that the session begins with. Raises CommandFailed."""
    later = sorted(wanted.prompts.keys() - {0})
    if not later:
        return {}
    each = wanted.transition(model.fps if model else 0.0, model.block_frames if model else 0)
    return dict.fromkeys(later, each) if each else {}


async def find_model(client: Client, name: str) -> session_pb2.Model | None:
    """As the stages that are up tell of it. None: none has it yet, or the gateway is of a former version."""
    try:
        models = await client.models()
    except CascadeClientError as error:
        if error.code is grpc.StatusCode.UNIMPLEMENTED:
            return None
        raise
    return next((each for each in models if (each.name == name if name else each.is_default)), None)


async def end(client: Client, session: Session) -> None:
    """Nobody watches it any more; one that has ended already does not mind."""
    try:
        async with asyncio.timeout(DELETE_DEADLINE_S):
            await client.delete(session)
    except (TimeoutError, CascadeClientError) as error:
        note(f"{session.name} could not be ended and ends by itself: {error or 'no answer'}")


def is_short(saved: Saved, wanted: Wanted) -> bool:
    """Whether somebody else ended it."""
    if wanted.num_blocks:
        return saved.num_segments < wanted.num_blocks
    return saved.duration_s < (wanted.seconds or 0.0) - 1e-6


def check_whole(saved: Saved, wanted: Wanted) -> None:
    """Raises CommandFailed."""
    ended = saved.ended
    if ended and (ended.reason not in ("COMPLETE", "DELETED") or is_short(saved, wanted)):
        raise CommandFailed(f"the session ended early ({ended.reason.lower()}); {what_is_kept(saved)}")


def report(saved: Saved, session: Session, unknown_words: list[str], options: Options) -> None:
    seed = session.message.spec.seed
    if options.json:
        values = {"session": session.name, "path": str(saved.path), "num_frames": saved.num_frames}
        values |= {"num_segments": saved.num_segments, "duration_s": saved.duration_s}
        print_json({**values, "seed": seed, "unknown_words": unknown_words})
        return
    tell = note if saved.path == STANDARD_OUTPUT else print
    tell(f"{saved_sentence(saved)} (seed {seed})")
