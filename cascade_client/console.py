"""What the commands share: arguments, the way to the gateway, output."""

import argparse
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from cascade_client.channel import Tls
from cascade_client.client import Client
from cascade_client.errors import CascadeClientError

Options = argparse.Namespace
Run = Callable[[Options], Awaitable[int]]
Commands = Any
"""argparse keeps the type of its subparsers to itself."""
DEFAULT_GATEWAY = "localhost:50051"
GATEWAY_VARIABLE = "CASCADE_CLIENT_GATEWAY"
RETRY_FOR_S = 3.0
"""A person waits no longer to hear that nobody is there."""
MODES = ("immediate", "boundary", "recache", "cut")
MODE_HELP = "immediate (the default), boundary, recache, or cut: a new shot"
ATTENTIONS = ("bidirectional", "causal")


class CommandFailed(Exception):
    """One sentence for the person at the terminal."""


class WrongUsage(CommandFailed):
    """What is wrong with the words that were typed, and where to read on."""


class CommandParser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, and where to read on. Its help fits a narrow terminal."""

    def __init__(self, description: str, **options: Any) -> None:
        columns = shutil.get_terminal_size().columns
        layout = partial(
            argparse.RawDescriptionHelpFormatter, max_help_position=max(14, min(24, columns // 4))
        )
        super().__init__(formatter_class=layout, description=fitted(description, columns - 2), **options)

    def error(self, message: str) -> NoReturn:
        raise WrongUsage(f"{self.prog}: {message}{quotes_missing(message)} (see {self.prog} --help)")


def fitted(text: str, columns: int) -> str:
    """Each line, except those that begin with spaces: commands are copied whole."""
    lines = text.splitlines()
    return "\n".join(line if line.startswith(" ") else textwrap.fill(line, columns) for line in lines)


def quotes_missing(message: str) -> str:
    """Advice, where words without quotes became arguments of their own."""
    _, extra, words = message.partition("unrecognized arguments: ")
    if not extra or words.startswith("-"):
        return ""
    return '; words that belong together go into quotes, as in "a red circle"'


def add_command(
    commands: Commands, name: str, run: Run, summary: str, details: str = "", words: str = ""
) -> CommandParser:
    """`words`: what has to be typed after its name."""
    parser: CommandParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{details}".strip(),
        usage=f"%(prog)s [options] {words}".strip(),
    )
    parser.set_defaults(run=run)
    return parser


def add_gateway(parser: CommandParser) -> None:
    """How to reach the gateway."""
    group = parser.add_argument_group("gateway")
    group.add_argument(
        "--gateway",
        default=os.environ.get(GATEWAY_VARIABLE) or DEFAULT_GATEWAY,
        metavar="HOST:PORT[,...]",
        help=f"where it listens (default: ${GATEWAY_VARIABLE} or {DEFAULT_GATEWAY})",
    )
    add_credentials(group)


def add_credentials(parser: Any) -> None:
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="file that holds your API key")
    parser.add_argument(
        "--ca", metavar="FILE", help="use TLS; who signs the server's certificate (PEM), or `system`"
    )
    parser.add_argument(
        "--certificate", metavar="FILE", help="your certificate (PEM), where the server asks for one"
    )
    parser.add_argument("--certificate-key", metavar="FILE", help="its private key (PEM)")
    parser.add_argument(
        "--server-name",
        metavar="NAME",
        help="look for this name in the server's certificate, not for the address",
    )


def add_json(parser: CommandParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def read_secret(argument: str, path: Path) -> str:
    """What a file holds that belongs on no command line. Raises CommandFailed."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise CommandFailed(f"cannot read {argument} {path}: {why}") from None


def read_api_key(options: Options) -> str | None:
    return read_secret("--api-key-file", options.api_key_file) if options.api_key_file else None


def read_tls(options: Options) -> Tls | None:
    """None: plain text. Raises CommandFailed."""
    if (options.certificate is None) != (options.certificate_key is None):
        raise CommandFailed("--certificate and --certificate-key belong together")
    if options.ca is None:
        if options.certificate or options.server_name:
            raise CommandFailed(
                "--certificate and --server-name need --ca: who signs the server's certificate, or `system`"
            )
        return None
    ca = None if options.ca == "system" else find_file("--ca", options.ca)
    if options.certificate is None:
        return Tls(ca, server_name=options.server_name)
    certificate = find_file("--certificate", options.certificate)
    key = find_file("--certificate-key", options.certificate_key)
    return Tls(ca, certificate, key, options.server_name)


def find_file(argument: str, name: str) -> Path:
    """Raises CommandFailed where it is not there."""
    path = Path(name)
    if not path.is_file():
        raise CommandFailed(f"{argument}: no file {path}")
    return path


def make_client(options: Options, retry_for_s: float = RETRY_FOR_S) -> Client:
    """The gateway that the options name. Raises CommandFailed."""
    try:
        return Client(
            options.gateway, api_key=read_api_key(options), tls=read_tls(options), retry_for_s=retry_for_s
        )
    except ValueError as error:
        raise CommandFailed(f"--gateway: {error}") from None


def note(text: str) -> None:
    """A line for people, beside whatever bar is drawn."""
    with tqdm.external_write_mode(file=sys.stderr):
        print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """One line, so that programs can read as it comes."""
    print(json.dumps(value), flush=True)


def print_error(error: Exception) -> None:
    """What `--json` says of a failure, for programs."""
    known = error if isinstance(error, CascadeClientError) else None
    values = {
        "message": str(error),
        "code": known.code.name if known else "",
        "reason": known.reason if known else "",
        "request_id": known.request_id if known else "",
        "retry_after_s": known.retry_after_s if known else None,
    }
    print_json({"error": values})


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
