"""Where one `cascade up` writes its logs: never where another is writing its own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path

from cascade_client.console import CommandFailed

DEFAULT = Path("out/logs")
LOCK = ".lock"


@contextmanager
def log_folder(named: Path | None) -> Iterator[Path]:
    """The one that was named, else out/logs, or out/logs-2 and so on; ours as long as the block lasts. Raises
    CommandFailed."""
    numbered = (DEFAULT.with_name(f"{DEFAULT.name}-{number}") for number in count(2))
    for folder in [named] if named else chain([DEFAULT], numbered):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / LOCK, os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError as error:
            raise CommandFailed(f"--log-dir: {error}") from None
        try:
            if take(lock):
                yield folder
                return
        finally:
            os.close(lock)
    raise CommandFailed(f"--log-dir: another `cascade up` writes its logs in {named}")


def take(lock: int) -> bool:
    """Whether it was nobody's; it is free again when its process is gone."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
