"""What the commands share: arguments, the way to the gateway, output."""

import argparse
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from cascade_client.channel import Tls
from cascade_client.client import Client

Options = argparse.Namespace
Run = Callable[[Options], Awaitable[int]]
Commands = Any
"""argparse keeps the type of its subparsers to itself."""
DEFAULT_GATEWAY = "localhost:50051"
GATEWAY_VARIABLE = "CASCADE_CLIENT_GATEWAY"
RETRY_FOR_S = 3.0
"""A person waits no longer to hear that nobody is there."""
MODES = ("immediate", "boundary", "recache")


class CommandFailed(Exception):
    """One sentence for the person at the terminal."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, and where to read on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def add_command(commands: Commands, name: str, run: Run, summary: str, details: str = "") -> Parser:
    parser: Parser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.\n\n{details}".strip()
    )
    parser.set_defaults(run=run)
    return parser


def add_gateway(parser: Parser) -> None:
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


def add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def read_api_key(options: Options) -> str | None:
    if options.api_key_file is None:
        return None
    try:
        return str(options.api_key_file.read_text()).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise CommandFailed(f"cannot read --api-key-file {options.api_key_file}: {why}") from None


def read_tls(options: Options) -> Tls | None:
    if options.ca is None:
        return None
    path = None if options.ca == "system" else Path(options.ca)
    if path and not path.is_file():
        raise CommandFailed(f"--ca: no file {path}")
    return Tls(ca=path)


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


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
