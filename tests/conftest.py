"""For all tests: one thread, since tiny products gain nothing from more, and bits depend on their number.

And Ctrl-C as a terminal gives it: what a shell starts in the background ignores it, and so do its children.
"""

import gc
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from tests.terminal import Terminal

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

Open = Callable[..., Terminal]


@pytest.fixture
def terminal() -> Iterator[Open]:
    """`terminal(*command, columns=80)` starts it in a terminal of that width; it ends with the test."""
    with ExitStack() as stack:

        def start(
            *command: object,
            columns: int = 80,
            environment: Mapping[str, str] = os.environ,
            folder: Path | None = None,
        ) -> Terminal:
            return stack.enter_context(Terminal([*map(str, command)], columns, environment, folder))

        yield start


def pytest_collection_finish() -> None:
    """What imports have made stays: a collection that looks at it takes most of a short test's time."""
    gc.collect()
    gc.freeze()
