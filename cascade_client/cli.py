"""The command `cascade`: run the services on this machine, make videos, steer sessions.

Errors are one sentence on stderr. Exit status: 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C, 143
after SIGTERM.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

from cascade import __version__
from cascade_client.checks.gateway import how_to_find_one
from cascade_client.commands import completion, doctor, drain, generate, models, push, sessions, up, watch
from cascade_client.console import CommandFailed, CommandParser, Options, WrongUsage, print_error
from cascade_client.errors import CascadeClientError, Unavailable

DESCRIPTION = """\
Prompts to endless, steerable video.

Begin with these; while `up` runs, the last one goes into another terminal:

  cascade doctor
  cascade up
  cascade generate "a red circle"
"""


def build_parser() -> CommandParser:
    parser = CommandParser(prog="cascade", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"cascade {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for module in (up, generate, watch, push, models, sessions, drain, doctor):
        module.add_commands(commands)
    completion.add_commands(commands, build_parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    # gRPC's own lines about connections that come and go would end up between ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    words = sys.argv[1:] if arguments is None else arguments
    if not words:
        build_parser().print_help()
        return 0
    try:
        options = build_parser().parse_args(words)
        status = run(options.run(options))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except WrongUsage as error:
        return failed(error, str(error), words, status=2)
    except (CascadeClientError, CommandFailed, ValueError, OSError) as error:
        return failed(error, f"cascade {options.command}: {sentence(error)}{advice(error, options)}", words)
    return status


def failed(error: Exception, text: str, words: Sequence[str], status: int = 1) -> int:
    if "--json" in words:
        print_error(error)
    print(text, file=sys.stderr)
    return status


def advice(error: Exception, options: Options) -> str:
    """What to do where nobody listens."""
    if not (isinstance(error, Unavailable) and "gateway" in options and "refused" in str(error)):
        return ""
    return f"; {how_to_find_one(options.gateway)}"


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run until done; SIGTERM cancels it as Ctrl-C does."""
    was_terminated = False

    async def watched() -> int:
        nonlocal was_terminated
        task = asyncio.ensure_future(work)

        def terminate() -> None:
            nonlocal was_terminated
            was_terminated = True
            task.cancel()

        with suppress(NotImplementedError):  # Windows has no SIGTERM to wait for
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
        return await task

    try:
        return asyncio.run(watched())
    except asyncio.CancelledError:
        if was_terminated:
            return 143
        raise KeyboardInterrupt from None


def sentence(error: Exception) -> str:
    """The message, with what finds the call in the logs where the server is to blame."""
    request_id = getattr(error, "request_id", "")
    is_defect = getattr(error, "reason", "") == "INTERNAL"
    text = f"{error} (request id {request_id})" if is_defect and request_id else str(error)
    return "; ".join([text, *getattr(error, "__notes__", ())])


if __name__ == "__main__":
    sys.exit(main())
