"""Small jobs at the API server that nobody waits for."""

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

import structlog

from services.common.race import race
from services.common.wakeup import Wakeup
from services.gateway.kubernetes.clock import Clock
from services.gateway.kubernetes.errors import ApiError

log = structlog.get_logger(__name__)
MAX_CHORES = 10_000
Job = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Chore:
    """What is to be done, not before its time."""

    job: Job
    due_s: float


class Chores:
    """One at a time, the newest for each key; what fails is tried again, behind the others that are due."""

    def __init__(self, name: str, clock: Clock) -> None:
        """`name`: in logs."""
        self._name = name
        self._clock = clock
        self._chores: dict[Hashable, Chore] = {}
        self._is_working = False
        self._wakeup = Wakeup()
        self._backoff = clock.backoff()

    def __len__(self) -> int:
        """Chores that wait."""
        return len(self._chores)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being done, and nothing is due."""
        now = self._clock.now()
        return not self._is_working and all(chore.due_s > now for chore in self._chores.values())

    def due_s(self, key: Hashable) -> float | None:
        """The clock when the chore of this key may be done; None: there is none."""
        return self._chores[key].due_s if key in self._chores else None

    def put(self, key: Hashable, job: Job, delay_s: float) -> None:
        """In place of the one of this key that waits, if any. Beyond MAX_CHORES keys it is left out."""
        if key not in self._chores and len(self._chores) >= MAX_CHORES:
            log.error("too much to do; left out", what=self._name)
            return
        self._chores[key] = Chore(job, self._clock.now() + delay_s)
        self._wakeup.fire()

    def drop(self, key: Hashable) -> None:
        """Forget the chore of this key, if it still waits."""
        self._chores.pop(key, None)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            key = min(self._chores, key=lambda key: self._chores[key].due_s, default=None)
            if key is None:
                await self._wakeup.wait()
            elif (left_s := self._chores[key].due_s - self._clock.now()) > 0:
                await race(self._wakeup.wait(), self._clock.sleep(left_s))
            else:
                await self._do(key, self._chores.pop(key))

    async def _do(self, key: Hashable, chore: Chore) -> None:
        self._is_working = True
        try:
            await chore.job()
        except ApiError as error:
            if error.is_final:
                log.warning("given up", what=self._name, reason=str(error))
                return
            self._chores.setdefault(key, Chore(chore.job, self._clock.now()))
            if not self._backoff.num_failures:
                log.warning("tried again until it works", what=self._name, reason=str(error))
            await self._backoff.wait(error.retry_after_s)
        except Exception:
            log.exception("given up", what=self._name)
        else:
            self._backoff.reset()
        finally:
            self._is_working = False
