"""The command `cascade`: Ctrl-C ends it quietly, also while its modules are still being imported."""

import os
import signal
import sys
from types import FrameType


def leave(number: int, frame: FrameType | None) -> None:
    os._exit(130)


def main() -> int:
    """The exit status."""
    former = signal.getsignal(signal.SIGINT)
    if former is signal.default_int_handler:  # else whoever started us ignores it
        signal.signal(signal.SIGINT, leave)
    from cascade_client.cli import main as run

    signal.signal(signal.SIGINT, former)
    return run()


if __name__ == "__main__":
    sys.exit(main())
