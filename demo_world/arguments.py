"""What the commands that measure the demo model share: arguments, and their end in one sentence."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from cascade_core.errors import CascadeError, InvalidConfig, UserError


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def whole(least: int, most: int) -> Callable[[str], int]:
    """An argparse type: a whole number in least..most."""

    def number(text: str) -> int:
        if not (text.isdecimal() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text} is not a whole number in {least}..{most}")
        return int(text)

    return number


def check_files(figures: Path, checkpoint: str | None) -> None:
    """Fail before hours of work, not after. Raises InvalidConfig."""
    if figures.suffix != ".json":
        raise InvalidConfig(f"--json {figures}: the name must end in .json")
    if not figures.parent.is_dir():
        raise InvalidConfig(f"--json {figures}: the folder {figures.parent} does not exist")
    if checkpoint and not Path(checkpoint).is_dir():
        raise InvalidConfig(f"--checkpoint {checkpoint}: there is no such folder")


def run(program: str, work: Callable[[], None], on_stop: str = "stopped") -> None:
    """Do the work; exit with 2 where the user has to change something, 130 at Ctrl-C, else 1 on errors."""
    try:
        work()
    except CascadeError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        print(f"{program}: {on_stop}", file=sys.stderr)
        sys.exit(130)
