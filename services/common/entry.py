"""What `python -m services.NAME` does: read the settings, serve, and say in one line why that failed."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from cascade_core.errors import CascadeError
from services.common.environment import load_settings
from services.common.reference import print_help

S = TypeVar("S")


def end_at_sigterm() -> None:
    """Exit with 0 at SIGTERM until the server answers it: a container's first process ignores signals that it
    has no handler for, and would be killed only when its grace period is over."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def run(name: str, kind: type[S], serve: Callable[[S], Coroutine[Any, Any, None]]) -> None:
    """Serve until SIGTERM. Exits with 1 for wrong settings or a failed start, with 2 for arguments."""
    if "--help" in sys.argv:
        return print_help(name, kind)
    if sys.argv[1:]:
        print(f"{name}: takes no arguments but --help; set CASCADE_* variables", file=sys.stderr)
        sys.exit(2)
    try:
        asyncio.run(serve(load_settings(kind)))
    except CascadeError as error:
        sys.exit(f"{name}: {error}")
