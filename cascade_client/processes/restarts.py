"""How long to wait before a child is started again."""

STEADY_AFTER_S = 60.0
"""A child that lived so long starts again after the first wait."""


class Restarts:
    """Doubles the wait with each child that did not last."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def wait_s(self, lived_s: float) -> float:
        """Seconds to wait now, after a child that lived so long."""
        wait_s = self._first_s if lived_s > STEADY_AFTER_S else self._next_s
        self._next_s = min(2 * wait_s, self._longest_s)
        return wait_s
