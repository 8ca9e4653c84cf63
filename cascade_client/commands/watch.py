"""`cascade watch`: a viewer's copy of a running session."""

import asyncio

from cascade_client.commands.arguments import parse_session
from cascade_client.commands.output import add_out, choose_out, saved_sentence
from cascade_client.commands.wording import describe_watched
from cascade_client.console import Commands, Options, add_command, add_gateway, make_client, note
from cascade_client.events import Event
from cascade_client.save import STANDARD_OUTPUT, Saved, save

VIDEO = "watched.mp4"
DETAILS = """\
Starts at what is made now and never holds the video back.

examples:
  cascade watch s1 --out copy.mp4
  cascade watch s1 --out - | ffplay -
"""


def add_commands(commands: Commands) -> None:
    parser = add_command(
        commands, "watch", watch, "watch a session that somebody else steers", DETAILS, "SESSION"
    )
    parser.add_argument("session", type=parse_session, metavar="SESSION", help="its name or id")
    add_out(parser, VIDEO)
    parser.add_argument("--profile", default="", help="which form of the video (default: the first)")
    add_gateway(parser)


async def watch(options: Options) -> int:
    path = choose_out(options, VIDEO)
    async with (
        make_client(options) as client,
        client.connect(options.session, role="viewer", profile_id=options.profile) as stream,
    ):
        note(f"watching {stream.name}; Ctrl-C ends it")
        try:
            saved = await save(stream, path, show)
        except asyncio.CancelledError as error:
            note("; ".join(["stopped", *getattr(error, "__notes__", ())]))
            raise
    tell = note if path == STANDARD_OUTPUT else print
    tell(saved_sentence(saved))
    return 0


def show(event: Event, saved: Saved | None) -> None:
    if text := describe_watched(event, "this end"):
        note(text)
