"""`cascade generate`: one session into one file."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from cascade_client.client import Client
from cascade_client.commands.arguments import (
    parse_change,
    parse_count,
    parse_prompt,
    parse_seconds,
    parse_seed,
    parse_size,
)
from cascade_client.commands.recording import DEFAULT_SECONDS, Recording
from cascade_client.console import (
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
from cascade_client.save import Saved, check_path
from cascade_client.session import Session

DELETE_DEADLINE_S = 3.0
DETAILS = """\
examples:
  cascade generate "a red circle moves left"
  cascade generate "a red circle" --at 8="a blue square" --at 10s="a green square" --seconds 30
  cascade generate "a red circle" --blocks 40 --seed 7 --size 128x96 --out circle.mp4
"""


def add_commands(commands: Commands) -> None:
    parser = add_command(commands, "generate", generate, "make a video and save it", DETAILS)
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
    parser.add_argument("--model", default="", help="model card (default: the gateway's)")
    parser.add_argument("--mode", choices=MODES, help="how later prompts take over (default: immediate)")
    parser.add_argument("--seed", type=parse_seed, help="the same seed makes the same video (default: any)")
    parser.add_argument(
        "--size", type=parse_size, default=(0, 0), metavar="WxH", help="pixels, multiples of 16"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("video.mp4"), help="file to write (default: video.mp4)"
    )
    add_json(parser)
    add_gateway(parser)


def timeline(options: Options) -> Mapping[int, str]:
    prompts = {0: options.prompt}
    for change in options.at:
        if change.block is None:
            continue
        if change.block in prompts:
            raise CommandFailed(f"--at: block {change.block} has two prompts")
        if options.blocks and change.block >= options.blocks:
            raise CommandFailed(f"--at: block {change.block} is after the last, {options.blocks - 1}")
        prompts[change.block] = change.prompt
    return prompts


def check(options: Options) -> None:
    """Before a session is asked for. Raises CommandFailed, CannotSave."""
    length_s = None if options.blocks else (options.seconds or DEFAULT_SECONDS)
    for change in options.at:
        if length_s and change.seconds and change.seconds >= length_s:
            raise CommandFailed(f"--at: {change.seconds:g} s is after the end, {length_s:g} s: add --seconds")
    check_path(options.out)


async def generate(options: Options) -> int:
    check(options)
    async with make_client(options) as client:
        width, height = options.size
        session = await client.create(
            timeline(options), model=options.model, switch_mode=options.mode, seed=options.seed, width=width,
            height=height, num_blocks=options.blocks,
        )  # fmt: skip
        note(f"{session.name} is in the queue")
        try:
            async with client.connect(session) as stream:
                saved = await Recording(client, stream, options).save()
        finally:
            await end(client, session)
    report(saved, session, options)
    return 0


async def end(client: Client, session: Session) -> None:
    """Nobody watches it any more; one that has ended already does not mind."""
    try:
        async with asyncio.timeout(DELETE_DEADLINE_S):
            await client.delete(session)
    except (TimeoutError, CascadeClientError) as error:
        note(f"{session.name} could not be ended and ends by itself: {error or 'no answer'}")


def is_short(saved: Saved, options: Options) -> bool:
    """Whether somebody else ended it."""
    if options.blocks:
        return saved.num_segments < int(options.blocks)
    return saved.duration_s < (options.seconds or DEFAULT_SECONDS) - 1e-6


def report(saved: Saved, session: Session, options: Options) -> None:
    ended = saved.ended
    if ended and (ended.reason not in ("COMPLETE", "DELETED") or is_short(saved, options)):
        what = f"the session ended early ({ended.reason.lower()}"
        what += f": {ended.error})" if ended.error else ")"
        kept = f"; {saved.path} holds {saved.duration_s:.1f} s" if saved.num_segments else ""
        raise CommandFailed(what + kept)
    if not saved.num_segments:
        raise CommandFailed("the session ended before its first segment; nothing was saved")
    if options.json:
        values = {"session": session.name, "path": str(saved.path), "num_frames": saved.num_frames}
        print_json({**values, "num_segments": saved.num_segments, "duration_s": saved.duration_s})
    else:
        print(f"saved {saved.duration_s:.1f} s ({saved.num_frames} pictures) to {saved.path}")
