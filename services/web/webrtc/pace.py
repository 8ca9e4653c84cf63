"""When pictures leave, and the time that they carry."""

LATE_S = 1.0
"""What comes later than this moves all that follows, instead of being made up for in a burst."""


class Pace:
    """Pictures leave at the speed of playback, the first at once. What they carry is when they leave.

    A player that met a pause in a steady row of times would take it for a slow network, and wait longer from
    then on.
    """

    def __init__(self) -> None:
        self._began_s: float | None = None
        self._shift_s = 0.0

    def due_s(self, time_s: float, now_s: float) -> float:
        """On the clock of `now_s`, when the picture of the session's `time_s` is due."""
        if self._began_s is None:
            self._began_s, self._shift_s = now_s, now_s - time_s
        if now_s > self._shift_s + time_s + LATE_S or now_s < self._shift_s + time_s - LATE_S:
            self._shift_s = now_s - time_s  # a pause, or segments that were skipped
        return self._shift_s + time_s

    def since_start_s(self, due_s: float) -> float:
        """What a picture that is due then carries."""
        assert self._began_s is not None
        return due_s - self._began_s
