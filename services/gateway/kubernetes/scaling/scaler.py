"""How many pods this gateway asks for: made anew every second or so, read at any time."""

import asyncio
import time
from collections.abc import Callable, Collection

import structlog

from services.common.wakeup import Wakeup
from services.gateway.base.settings import ScalerSettings
from services.gateway.journal.errors import StoreUnavailable
from services.gateway.kubernetes.scaling.component import Component
from services.gateway.kubernetes.scaling.shared import Counts, SharedDemand
from services.gateway.peers.reports import Kind
from services.gateway.placement.admission import Admission

log = structlog.get_logger(__name__)


class Scaler:
    """Belongs to one event loop. Nobody who reads waits for Redis."""

    def __init__(
        self,
        settings: ScalerSettings,
        admission: Admission,
        components: Collection[Component],
        shared: SharedDemand | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`shared` None: this gateway is the only one."""
        self.components = {component.kind: component for component in components}
        self.is_leaving = False
        """Whoever watches had better watch another gateway."""
        self._settings = settings
        self._admission = admission
        self._shared = shared
        self._clock = clock
        self._started_s = clock()
        self._settled: set[Kind] = set()
        self._others = Counts()
        self._heard_s: float | None = None
        """When the others were last heard of; None: not yet."""
        self._is_deaf = False
        self._wakeup = Wakeup()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; returns before there is a number."""
        self._task = asyncio.create_task(self._run(), name="scaler")

    def leave(self) -> None:
        """Let all watches end; numbers are still made until `close`."""
        self.is_leaving = True
        self._wakeup.fire()

    async def close(self) -> None:
        """Stop, and tell the others, who need not wait until this gateway counts as silent."""
        self.leave()
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._shared:
            try:
                await self._shared.leave()
            except StoreUnavailable as error:
                log.info("the other gateways will notice", error=str(error))
            await self._shared.close()

    async def changed(self) -> None:
        """Until a number changes, or this gateway leaves."""
        await self._wakeup.wait()

    def desired(self, kind: Kind) -> int | None:
        """Pods to ask for, never fewer than have sessions now; None: too little is known, and any number
        would be wrong."""
        self.look()
        return self.components[kind].desired

    @property
    def waiting(self) -> Counts:
        """Sessions without a place, and arrivals, at all gateways; of the others as last heard."""
        is_fresh = self.silence_s <= self._settings.others_kept_s
        return self.waiting_here + self._others if is_fresh else self.waiting_here

    @property
    def waiting_here(self) -> Counts:
        """The same of this gateway alone."""
        here = self._admission
        recovering = here.num_recovering("stage"), here.num_recovering("decoder")
        return Counts(here.queue_length, *recovering, *here.arrivals.counts())

    @property
    def silence_s(self) -> float:
        """How long the others have not been heard of; 0 where there are none."""
        if self._shared is None:
            return 0.0
        return self._clock() - (self._started_s if self._heard_s is None else self._heard_s)

    async def step(self) -> None:
        """Make the numbers, before and after an exchange with the others."""
        self.look()
        if self._shared:
            await self._exchange(self._shared)
            self.look()

    def look(self) -> None:
        """Make the numbers from what is known now."""
        before = [component.desired for component in self.components.values()]
        for component in self.components.values():
            component.look(self.waiting, is_settled=self._is_settled(component))
        if before != [component.desired for component in self.components.values()]:
            self._wakeup.fire()

    async def _run(self) -> None:
        while True:
            try:
                await self.step()
            except Exception:
                log.exception("the number of pods stays as it is")
            await asyncio.sleep(self._settings.interval_s)

    async def _exchange(self, shared: SharedDemand) -> None:
        told_s, own = self._clock(), self.waiting_here
        components = list(self.components.values())
        try:
            self._others, heard = await shared.exchange(own, [component.say() for component in components])
        except StoreUnavailable as error:
            if not self._is_deaf:
                log.warning("the other gateways are not heard of", error=str(error))
            self._is_deaf = True
            return
        self._heard_s, self._is_deaf = told_s, False
        for component, each in zip(components, heard, strict=True):
            component.hear(each, told_s)

    def _is_settled(self, component: Component) -> bool:
        """Whether a number of our own can no longer be too low for want of reports. It stays so, since pods
        that come later are new. A list of pods must have come."""
        has_heard = self._shared is None or self._heard_s is not None
        is_late = self._clock() - self._started_s >= self._settings.settle_s
        if component.pods.is_listed and (is_late or (has_heard and component.pods.have_all_reported)):
            self._settled.add(component.kind)
        return component.kind in self._settled
