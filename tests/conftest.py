"""For all tests: one thread, since tiny products gain nothing from more, and bits depend on their number.

And Ctrl-C as a terminal gives it: what a shell starts in the background ignores it, and so do its children.
"""

import gc
import os
import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from xdist.scheduler import LoadFileScheduling, Scheduling

from tests.terminal import Terminal

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

Open = Callable[..., Terminal]
WITH_SYSTEM = ("api/test_slow_clients.py", "system/test_chaos.py", "system/test_end_to_end.py")
"""They share the processes of tests/services/support/system_fixtures.py, which load models."""


class OneSystem(LoadFileScheduling):
    """A file's tests run in one worker, and all that share the system's processes in one too."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "system" if file.endswith(WITH_SYSTEM) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    return OneSystem(config, log) if config.option.dist == "loadfile" else None


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


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """What imports make stays: a garbage collection that looks at it takes most of a short test's time, and
    those amid the imports a quarter of theirs."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
