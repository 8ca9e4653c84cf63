"""What all calls share: the engine once it is there, who is here, and whether this stage can be trusted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields
from functools import partial

import structlog
from prometheus_client import CollectorRegistry

from cascade_core.config import EngineConfig
from cascade_core.engine.engine import Engine
from cascade_core.errors import CascadeError, InvalidConfig, WeightsError
from cascade_core.ranks.group import in_daemon_thread
from services.common.drain import DRAINING, MAX_REASON, Drain
from services.common.epochs import Epochs
from services.common.errors import NotReady
from services.common.gpus import GpuWatch
from services.common.health import Heartbeat
from services.stage.metrics import StageMetrics
from services.stage.occupancy import Occupancy
from services.stage.revision import find_digests, find_revision
from services.stage.settings import Settings

log = structlog.get_logger(__name__)
LOADING = "the model is loading"


class StartFailed(CascadeError):
    """The model cannot be loaded; the message says which setting to look at."""


def named(complaint: str) -> str:
    """A complaint about loading, with the variable to look at in front."""
    field, colon, wrong = complaint.partition(": ")
    if colon and field in {known.name for known in fields(EngineConfig)}:
        return f"CASCADE_STAGE_{field.upper()}: {wrong}"
    return f"CASCADE_STAGE_MODEL, CASCADE_STAGE_WEIGHTS: {complaint}"


class Stage:
    """The state of one stage process, and what observes its engine."""

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        self.settings = settings.stage
        self.engine: Engine | None = None
        """None while it starts."""
        self.revision = ""
        self.lora_digests: dict[str, str] = {}
        self.epochs = Epochs()
        self.occupancy = Occupancy()
        self.drain = Drain()
        self.metrics = StageMetrics(registry)
        self.metrics.watch(lambda: len(self.occupancy), self.num_slots)
        self.progress = Heartbeat("ticks", settings.health.stall_after_s)
        self.gpus = GpuWatch(
            self.settings, num_ranks=self.settings.num_ranks, interconnect=self.settings.interconnect
        )
        self.gpus.export(registry)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch the hardware for as long as the block lasts; the engine, which `start_engine` makes, ends
        with it."""
        if self.settings.device != "cpu":
            self.gpus.start()
        leaving = asyncio.create_task(self._leave_quarantined(), name="quarantine")
        try:
            yield
        finally:
            leaving.cancel()
            self.gpus.stop()
            self.drain.close()
            if self.engine:
                await self.engine.close()

    async def start_engine(self) -> None:
        """Load the model, unless the GPUs are quarantined: then the process stays without one, and says why.
        Raises StartFailed."""
        if self.settings.device != "cpu":
            await self.gpus.checked()
        if self.gpus.quarantine():
            return
        try:
            await self._load()
        except StartFailed as failed:
            if not self.gpus.quarantine():
                raise
            log.error("a broken GPU kept the model from loading", reason=str(failed))

    async def _load(self) -> None:
        config, card = self.settings.engine(), self.settings.card()
        try:
            revision = await in_daemon_thread(partial(find_revision, config, card))
            self.lora_digests = await in_daemon_thread(partial(find_digests, config.loras))
            engine = await Engine.start(config, self)
        except (InvalidConfig, WeightsError) as error:
            raise StartFailed(named(str(error))) from None
        except CascadeError as error:
            raise StartFailed(str(error)) from None
        self.engine, self.revision = engine, revision
        status = engine.status
        self.metrics.observe_start(status.start)
        log.info(
            "ready", model=card.name, revision=revision, device=status.device, compiled=status.compiled,
            load_s=round(status.start.load_s, 1), join_s=round(status.start.join_s, 1),
            warm_up_s=round(status.start.warm_up_s, 1),
        )  # fmt: skip

    def require_ready(self) -> Engine:
        """The engine. Raises Draining, or NotReady while no session can be opened."""
        self.drain.require_idle()
        complaint = self.complaint()
        if complaint or not self.engine:
            raise NotReady(complaint or LOADING)
        return self.engine

    def complaint(self) -> str | None:
        """Why no session can be opened, if so."""
        if quarantine := self.gpus.quarantine():
            return quarantine
        if self.drain.begun.is_set():
            return DRAINING
        if not self.engine:
            return LOADING
        if not self.engine.status.ready:
            return "the ranks start again"
        return self.distrust()

    def distrust(self) -> str | None:
        """What is wrong with the hardware or the progress of an engine that should run."""
        assert self.engine
        self.progress.set_waiting(self.engine.status.ready and self.engine.has_work)
        return self.gpus.complaint() or self.progress.complaint()

    async def _leave_quarantined(self) -> None:
        """Have the sessions move away from broken hardware."""
        reason = await self.gpus.quarantined()
        self.drain.begin(self.settings.drain_timeout_s, f"quarantined: {reason}"[:MAX_REASON])

    def num_slots(self) -> int:
        """Sessions of the default size that fit, open ones included."""
        return self.engine.num_slots(self.occupancy.requests) if self.engine else 0

    # For the engine (see EngineObserver).

    def ticked(self, tick_s: float, has_block: bool) -> None:
        self.progress.advance()
        self.metrics.observe_tick(tick_s, has_block)

    def restarted(self) -> None:
        self.metrics.restarts.inc()
        if self.engine:
            self.metrics.observe_start(self.engine.status.start)
