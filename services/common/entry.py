"""What `python -m services.NAME` does: read the settings, serve, and say in one line why that failed."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from cascade_core.errors import CascadeError
from services.common.descriptors import raise_limit
from services.common.environment import load_settings
from services.common.reference import print_help
from services.common.shortened import shortened

S = TypeVar("S")
NUM_NEW_OBJECTS = 20_000
"""After this many the garbage collector looks at new objects; Python's own 700 come with every few
messages."""


def before_imports() -> None:
    """Exit with 0 at SIGTERM until the server answers it: a container's first process ignores signals that it
    has no handler for, and would be killed only when its grace period is over. The garbage collector rests
    until `run`: it finds nothing in what imports make, and takes a tenth of their time."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    gc.disable()


def run(
    name: str,
    kind: type[S],
    serve: Callable[[S], Coroutine[Any, Any, None]],
    arguments: Mapping[str, str] | None = None,
) -> None:
    """Serve until SIGTERM. Exits with 1 for wrong settings or a failed start, with 2 for arguments other than
    those in `arguments`, each with the variable that it stands for."""
    if "--help" in sys.argv:
        return print_help(name, kind)
    known = arguments or {}
    left = [part for argument in sys.argv[1:] for part in argument.split("=", 1)]
    given: dict[str, str] = {}
    while len(left) > 1 and left[0] in known:
        given[known[left[0]]] = left[1]
        left = left[2:]
    if left:
        names = ", ".join([*known, "--help"])
        print(f"{name}: takes no arguments but {names}; set CASCADE_* variables", file=sys.stderr)
        sys.exit(2)
    raise_limit()
    spare_collections()
    environment = os.environ | given
    try:
        asyncio.run(serve(load_settings(kind, environment)))
    except CascadeError as error:
        sys.exit(f"{name}: {shortened(str(error), environment.values())}")


def spare_collections() -> None:
    """Modules are no garbage: without them a full collection lasts a few milliseconds, in which nobody is
    served, and not as long as a segment takes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NUM_NEW_OBJECTS, *gc.get_threshold()[1:])
    gc.enable()
