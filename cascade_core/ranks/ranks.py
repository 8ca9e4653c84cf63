"""The ranks under an engine: one group at a time, started again when it is lost."""

import asyncio
import itertools
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from cascade_core.arrays import as_array
from cascade_core.config import EngineConfig, ModelCard, uses_random_weights
from cascade_core.errors import OutOfCapacity, SessionClosed, SessionLost
from cascade_core.loras import numbered
from cascade_core.ranks.group import GroupLost, RankGroup, in_daemon_thread
from cascade_core.ranks.messages import Embedding, NewPrompt, Open
from cascade_core.ranks.processes import ForkServer
from cascade_core.request import SessionRequest
from cascade_core.weights.locate import Located, ModelFiles, locate, locate_listed

log = logging.getLogger(__name__)

RESTART_DELAYS_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
CLOSED = "the engine was closed"


class Ranks:
    """Asks the group on behalf of sessions, and turns its loss into their errors."""

    group: RankGroup
    """The current one, from `start` on."""

    def __init__(self, config: EngineConfig, card: ModelCard) -> None:
        self._config = config
        self._card = card
        self._files: ModelFiles | None = None
        self._loras: Located = ()
        self._forks = ForkServer()
        self._closed = False
        self.are_up = False

    async def start(self) -> None:
        """Load the model. Raises UserError, or SessionLost if the ranks cannot start."""
        if not uses_random_weights(self._config, self._card):
            # Once and here: a download must not run against the ranks' deadline, nor again at a restart.
            self._files = await in_daemon_thread(partial(locate, self._card, self._config.weights))
        self._loras = await in_daemon_thread(partial(locate_listed, self._config.loras))
        self.group = self._new_group()
        try:
            await self.group.start()
        except GroupLost as error:
            await self._end()
            raise SessionLost(f"the ranks could not start: {error}") from None
        except BaseException:
            await self._end()
            raise
        self._up()

    async def restart(self) -> None:
        """End what is left of the group; returns when the next is up, however many attempts it takes."""
        self.are_up = False
        for attempt in itertools.count():
            self.group.kill()
            await self.group.close()
            await asyncio.sleep(RESTART_DELAYS_S[min(attempt, len(RESTART_DELAYS_S) - 1)])
            try:
                self.group = self._new_group()
                await self.group.start()
            except Exception as error:  # no weights, no processes, no disk: whatever it is may pass
                log.error("ranks did not start, attempt %d: %s", attempt + 1, error)
                continue
            self._up()
            return

    def _new_group(self) -> RankGroup:
        return RankGroup(self._config, self._card, self._files, self._forks, self._loras)

    def _up(self) -> None:
        self.are_up = True
        times, first = self.group.start_times, self.group.ready[0]
        log.info(
            "ranks are up on %s, %s: weights %.1f s, joining %.1f s, warm-up %.1f s",
            first.device,
            "compiled" if first.compiled else "not compiled",
            times.load_s,
            times.join_s,
            times.warm_up_s,
        )

    def refuse(self) -> None:
        """Take no more calls: `close` follows."""
        self._closed, self.are_up = True, False

    async def close(self) -> None:
        """End all rank processes."""
        self.refuse()
        await self._end()

    async def _end(self) -> None:
        try:
            await self.group.close()
        finally:
            await self._forks.close()

    def require_up(self) -> None:
        """Raise SessionClosed or OutOfCapacity where no call can be answered."""
        if self._closed:
            raise SessionClosed(CLOSED)
        if not self.are_up:
            raise OutOfCapacity("the ranks are starting again; retry soon")

    async def encode(self, prompt: str) -> Embedding:
        """Raises InvalidPrompt, OutOfCapacity, SessionClosed or SessionLost."""
        with self._lost_is_retryable():
            return await self.group.encode(prompt)

    async def open(self, session: int, request: SessionRequest, prompts: Mapping[int, NewPrompt]) -> None:
        """Give a session its memory; `prompts`: those that it begins with, by number. Raises
        OutOfCapacity, SessionClosed or SessionLost."""
        command = Open(
            session=session,
            seed=request.seed,
            height=request.height,
            width=request.width,
            context={block: as_array(latents) for block, latents in request.context.items()},
            prompts={number: new.rows for number, new in prompts.items()},
            choices={
                number: numbered(new.loras, self._config.loras)
                for number, new in prompts.items()
                if new.loras
            },
            first_frame=None if request.first_frame is None else as_array(request.first_frame),
        )
        try:
            with self._lost_is_retryable():
                await self.group.open(command)
        except MemoryError as error:
            raise OutOfCapacity(f"no memory for the session: {error}") from None

    @contextmanager
    def _lost_is_retryable(self) -> Iterator[None]:
        self.require_up()
        try:
            yield
        except GroupLost as error:
            if self._closed:
                raise SessionClosed(CLOSED) from None
            raise SessionLost(f"the ranks were lost: {error}") from None
