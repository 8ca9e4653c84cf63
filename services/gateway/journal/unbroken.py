"""How long Redis has answered without a break, as one gateway sees it.

After a break an owner's lease may have run out because nobody could renew it. Whoever has watched for less
than a lease since then cannot tell, and claims only what was released.
"""

from collections.abc import Callable


class Unbroken:
    """Told of every look at Redis."""

    def __init__(self, clock: Callable[[], float], longest_silence_s: float) -> None:
        """`longest_silence_s`: the longest pause between two answers in which no lease can have run out."""
        self._clock = clock
        self._longest_silence_s = longest_silence_s
        self._server: str | None = None
        self._since_s = self._heard_s = self._lost_s = float("-inf")

    def heard(self, server: str) -> None:
        """It answered; `server`: one process's life, so that a restart and a failover are breaks."""
        now_s = self._clock()
        if server != self._server or now_s - self._heard_s > self._longest_silence_s:
            self._since_s = now_s
        if self._server not in (None, server):
            self._lost_s = now_s
        self._server = server
        self._heard_s = now_s

    @property
    def seconds_since_loss(self) -> float:
        """Since another process answered, which may know less than the one before."""
        return self._clock() - self._lost_s

    @property
    def seconds(self) -> float:
        """Since the last break."""
        return self._clock() - self._since_s
