"""The command `cascade-engine`: Ctrl-C ends it quietly, also in the seconds in which torch is imported."""

import os
import signal
from types import FrameType


def leave(number: int, frame: FrameType | None) -> None:
    os._exit(130)


def main() -> None:
    former = signal.getsignal(signal.SIGINT)
    if former is signal.default_int_handler:  # else whoever started us ignores it
        signal.signal(signal.SIGINT, leave)
    from cascade_core.commands.cli import main as run

    signal.signal(signal.SIGINT, former)
    run()


if __name__ == "__main__":
    main()
