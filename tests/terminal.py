"""A program in a terminal of a given width, and what a person sees there.

Where a fixture `terminal` is asked for:

shown = terminal("cascade-engine", "models", columns=40)
shown.until("demo")
shown.press("\\x03")
assert shown.finish() == 130
print(shown.lines)
"""

import errno
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import pyte

WAIT_S = 120.0
"""Deadline of every wait: only a hang reaches it."""
ROWS = 500
"""So many that nothing scrolls off."""
CTRL_C = "\x03"
WITH_TERMINAL = ("setsid", "--ctty")
"""Makes standard input the terminal that Ctrl-C comes from. Not by Popen's `preexec_fn`: gRPC minds forks."""


class Screen(pyte.Screen):
    """Knows which rows the terminal began by itself, because a line was too long for one."""

    def __init__(self, columns: int) -> None:
        super().__init__(columns, ROWS)
        self.continued: set[int] = set()
        self._is_drawing = False

    def draw(self, data: str) -> None:
        self._is_drawing = True
        super().draw(data)
        self._is_drawing = False

    def linefeed(self) -> None:
        super().linefeed()
        if self._is_drawing:
            self.continued.add(self.cursor.y)


class Terminal:
    """One program in it."""

    def __init__(
        self, command: Sequence[str], columns: int, environment: Mapping[str, str], folder: Path | None
    ) -> None:
        self.columns = columns
        self._screen = Screen(columns)
        self._stream = pyte.ByteStream(self._screen)
        self._end, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        without_size = {
            name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")
        }
        self._process = subprocess.Popen(
            [*WITH_TERMINAL, *command],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            cwd=folder,
            env=without_size | {"TERM": "xterm-256color"},
        )
        os.close(inner)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(WAIT_S)
        os.close(self._end)

    @property
    def lines(self) -> list[str]:
        """As the program wrote them, last changes included: rows that belong together are one line."""
        found: list[str] = []
        for row, text in enumerate(self._screen.display[: self._screen.cursor.y + 1]):
            if row in self._screen.continued:
                found[-1] += text
            else:
                found.append(text)
        return [line.rstrip() for line in found]

    def text(self) -> str:
        return "\n".join(self.lines)

    def press(self, keys: str) -> None:
        os.write(self._end, keys.encode())

    def until(self, text: str) -> None:
        """Until this stands there. Raises AssertionError, with the screen, if it does not come."""
        give_up_at = time.monotonic() + WAIT_S
        while text not in self.text():
            assert self._read(give_up_at), f"the program ended without {text!r}:\n{self.text()}"

    def finish(self) -> int:
        """Read to the end: the exit status."""
        give_up_at = time.monotonic() + WAIT_S
        while self._read(give_up_at):
            pass
        return self._process.wait(WAIT_S)

    def _read(self, give_up_at: float) -> bool:
        """Something more; False: that was all."""
        ready, _, _ = select.select([self._end], [], [], max(0.0, give_up_at - time.monotonic()))
        assert ready, f"nothing more came within {WAIT_S:g} s:\n{self.text()}"
        try:
            data = os.read(self._end, 65536)
        except OSError as error:  # Linux says so when nobody has the terminal open any more
            if error.errno != errno.EIO:
                raise
            return False
        self._stream.feed(data)
        return bool(data)

    def bar(self) -> str:
        """The progress bar. Raises AssertionError where it is longer than a row or left pieces of itself."""
        found = [line for line in self.lines if "%|" in line]
        assert len(found) == 1, self.text()
        assert len(found[0]) <= self.columns, self.text()
        return found[0]
