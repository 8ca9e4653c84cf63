"""Files that are read again when they change: certificates and keys from Secret volumes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

T = TypeVar("T")
log = structlog.get_logger(__name__)


class WatchedFiles(Generic[T]):
    """What `load` made of some files; a change that cannot be loaded keeps the last good one, and says so."""

    def __init__(self, paths: Sequence[Path], load: Callable[[], T]) -> None:
        self._paths = paths
        self._names = [str(path) for path in paths]
        self._load = load
        self._seen = self._stamp()
        self._value = load()

    def get(self) -> T:
        """The value as of now. Costs a stat() per file."""
        self.refresh()
        return self._value

    def refresh(self) -> bool:
        """Load again if a file changed; True if there is a new value."""
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            self._value = self._load()
        except Exception as error:
            log.error("changed files not taken over", files=self._names, error=str(error))
            return False
        log.info("changed files taken over", files=self._names)
        return True

    def _stamp(self) -> tuple[object, ...]:
        return tuple(stamp(path) for path in self._paths)


def stamp(path: Path) -> object:
    """Differs when the file was written or replaced; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
