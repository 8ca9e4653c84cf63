"""How far a video is: a bar in a terminal, elsewhere a line every few seconds."""

import time

from tqdm import tqdm

from cascade_client.console import note

LINE_EVERY_S = 5.0


class Progress:
    """Towards `total`, in seconds of video or in blocks."""

    def __init__(self, total: float, unit: str) -> None:
        form = ".0f" if unit == "block" else ".1f"
        self._form, self._unit = form, unit
        self._bar = tqdm(
            total=total, unit=unit, disable=None,
            bar_format=f"{{l_bar}}{{bar}}| {{n:{form}}}/{{total:{form}}} {{unit}} [{{elapsed}}{{postfix}}]",
        )  # fmt: skip
        self._total = total
        self._started: tuple[float, int] | None = None
        self._told_at = time.monotonic()

    def reach(self, done: float, num_frames: int) -> None:
        """So much is stored, with so many pictures; more than was asked for is no progress."""
        done = min(done, self._total)
        speed = self._speed(num_frames)
        if self._bar.disable:
            self._tell(done, speed)
            return
        if speed:
            self._bar.set_postfix_str(speed, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()

    def _speed(self, num_frames: int) -> str:
        """Since the first segment, which has waited for the start."""
        now = time.monotonic()
        if self._started is None:
            self._started = (now, num_frames)
        started_at, first_frames = self._started
        made = num_frames - first_frames
        return f"fps={made / (now - started_at):.1f}" if made and now > started_at else ""

    def _tell(self, done: float, speed: str) -> None:
        if time.monotonic() - self._told_at < LINE_EVERY_S:
            return
        self._told_at = time.monotonic()
        note(f"{done:{self._form}}/{self._total:{self._form}} {self._unit}{', ' if speed else ''}{speed}")
