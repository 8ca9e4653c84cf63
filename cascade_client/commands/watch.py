"""`cascade watch`: a viewer's copy of a running session."""

import asyncio
import os
import sys
from pathlib import Path

from cascade_client.commands.wording import describe
from cascade_client.console import Commands, Options, add_command, add_gateway, make_client, note
from cascade_client.events import Ended, Event, MediaInit, Segment, Skipped
from cascade_client.save import Saved, save
from cascade_client.stream import Stream

DETAILS = """\
Starts at what is made now and never holds the video back.

examples:
  cascade watch s1 --out copy.mp4
  cascade watch s1 --out - | ffplay -
"""


def add_commands(commands: Commands) -> None:
    parser = add_command(commands, "watch", watch, "watch a session that somebody else steers", DETAILS)
    parser.add_argument("session", metavar="SESSION", help="its name or id")
    parser.add_argument(
        "--out", default="watched.mp4", help="file, or - for standard output (default: watched.mp4)"
    )
    parser.add_argument("--profile", default="", help="which form of the video (default: the first)")
    add_gateway(parser)


async def watch(options: Options) -> int:
    async with (
        make_client(options) as client,
        client.connect(options.session, role="viewer", profile_id=options.profile) as stream,
    ):
        note(f"watching {stream.name}; Ctrl-C ends it")
        if options.out == "-":
            await pipe(stream)
            return 0
        try:
            saved = await save(stream, Path(options.out), show)
        except asyncio.CancelledError as error:
            note("; ".join(["stopped", *getattr(error, "__notes__", ())]))
            raise
    print(f"saved {saved.duration_s:.1f} s ({saved.num_frames} pictures) to {saved.path}")
    return 0


async def pipe(stream: Stream) -> None:
    """Everything to standard output as it comes."""
    descriptor = sys.stdout.fileno()
    async for event in stream:
        show(event, None)
        if isinstance(event, MediaInit | Segment):
            await asyncio.to_thread(write_all, descriptor, event.data)


def write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def show(event: Event, saved: Saved | None) -> None:
    if isinstance(event, Skipped):
        note(f"skipped segments {event.first_sequence} to {event.next_sequence - 1}: this end is too slow")
    elif isinstance(event, Ended):
        note(f"the session has ended: {event.reason.lower()}")
    elif text := describe(event):
        note(text)
