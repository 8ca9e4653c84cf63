"""`cascade push`: a running session to a streaming service or media server."""

import asyncio
from pathlib import Path

from cascade_client.commands.arguments import parse_session
from cascade_client.commands.wording import describe_watched
from cascade_client.console import (
    CommandFailed,
    Commands,
    Options,
    add_command,
    add_gateway,
    make_client,
    note,
    read_secret,
)
from cascade_client.errors import EndedEarly
from cascade_client.events import Event
from cascade_client.push import Pushed, Target, push
from cascade_client.save import ENDED_EARLY

DETAILS = """\
Sends what is encoded already, at the speed of playback, to RTMP (rtmp://, rtmps://), SRT (srt://) or \
WebRTC by WHIP (http://, https://). A receiver that goes away is sought again.

examples:
  cascade push s1 rtmp://localhost/live/key
  cascade push s1 'srt://localhost:9000?mode=caller'
  cascade push s1 https://media.example.com/whip --token-file token.txt
  cascade push s1 --url-file where.txt --controller
"""


def add_commands(commands: Commands) -> None:
    parser = add_command(
        commands, "push", run, "send a running session to a media server", DETAILS, "SESSION [URL]"
    )
    parser.add_argument("session", type=parse_session, metavar="SESSION", help="its name or id")
    parser.add_argument("url", nargs="?", metavar="URL", help="the receiver")
    parser.add_argument(
        "--url-file",
        type=Path,
        metavar="FILE",
        help="file that holds URL, so that no list of processes shows it",
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="file with the token that WHIP asks for"
    )
    parser.add_argument(
        "--controller", action="store_true",
        help="nobody else plays the video: it is made as fast as it is sent (default: a viewer's copy)",
    )  # fmt: skip
    parser.add_argument("--profile", default="", help="which form of the video (default: the first)")
    add_gateway(parser)


async def run(options: Options) -> int:
    target = read_target(options)
    async with (
        make_client(options) as client,
        client.connect(
            options.session,
            role="controller" if options.controller else "viewer",
            profile_id=options.profile,
        ) as stream,
    ):
        note(f"sending {stream.name} to {target.shown}; Ctrl-C ends it")
        try:
            pushed = await push(stream, target, show, note)
        except asyncio.CancelledError:
            note("stopped")
            raise
    sent = f"sent {pushed.duration_s:.1f} s to {target.shown}"
    if pushed.ended and pushed.ended.reason in ENDED_EARLY:
        raise EndedEarly(pushed.ended.reason, pushed.ended.error, sent)
    print(sent)
    return 0


def read_target(options: Options) -> Target:
    """Raises CommandFailed."""
    if (options.url is None) == (options.url_file is None):
        raise CommandFailed("name the receiver by URL or by --url-file, not both")
    url = options.url or read_secret("--url-file", options.url_file)
    token = read_secret("--token-file", options.token_file) if options.token_file else ""
    try:
        return Target(url, token)
    except ValueError as error:
        raise CommandFailed(f"URL: {error}") from None


def show(event: Event, pushed: Pushed) -> None:
    if text := describe_watched(event, "the receiver"):
        note(text)
