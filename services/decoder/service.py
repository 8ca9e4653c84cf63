"""One decoder, put together from its settings."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry

from cascade.v1 import decoder_pb2, decoder_pb2_grpc
from cascade_core.config import ModelCard, find_card
from cascade_core.errors import CascadeError, InvalidConfig
from services.common import server as scaffold
from services.common.gpus import GpuWatch
from services.common.health import Heartbeat
from services.common.server import Service
from services.common.state_metrics import GpuCollector, StateCollector
from services.common.telemetry import Telemetry
from services.decoder.dispatcher import Dispatcher
from services.decoder.metrics import DecoderMetrics
from services.decoder.report import Reporter
from services.decoder.servicer import DecoderServicer
from services.decoder.settings import DecoderSettings, Settings

NAME = decoder_pb2.DESCRIPTOR.services_by_name["DecoderService"].full_name


class Decoder:
    """Worker, streams and reports of one server."""

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        """Raises InvalidConfig."""
        section = settings.decoder
        card = load_card(section)
        progress = Heartbeat("blocks", settings.health.stall_after_s)
        self.gpus = GpuWatch(section)
        self.gpus.export(registry)
        self.dispatcher = Dispatcher(card, section, progress, DecoderMetrics(registry), self._note_change)
        self._uses_gpus = section.device != "cpu"
        self._reporter = Reporter(card, section, self.dispatcher, progress, self.gpus)
        self.servicer = DecoderServicer(card, section, self.dispatcher, self._reporter)
        registry.register(StateCollector("cascade_decoder_state", self.servicer.state))
        registry.register(GpuCollector(self.gpus.accelerators))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the worker up, and watch the hardware, for as long as the block lasts."""
        if self._uses_gpus:
            self.gpus.start()
        tasks = {
            asyncio.create_task(self.dispatcher.run(), name="worker"),
            asyncio.create_task(self._leave_quarantined(), name="quarantine"),
        }
        try:
            yield
        finally:
            self.gpus.stop()
            self.servicer.close()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _leave_quarantined(self) -> None:
        self.servicer.quarantine(await self.gpus.quarantined())

    def describe(self) -> Service:
        """What the scaffold serves."""
        add: Any = decoder_pb2_grpc.add_DecoderServiceServicer_to_server
        return Service(
            (NAME,),
            lambda server: add(self.servicer, server),
            conditions=(self._reporter.complaint,),
            drain=self.servicer.drain,
            open_while_draining=(f"/{NAME}/WatchStatus", f"/{NAME}/Drain"),
        )

    def _note_change(self) -> None:
        self.servicer.board.note_change()


@asynccontextmanager
async def build(settings: Settings, telemetry: Telemetry) -> AsyncIterator[Service]:
    """A decoder for as long as the block lasts."""
    decoder = Decoder(settings, telemetry.registry)
    async with decoder.running():
        yield decoder.describe()


async def serve(settings: Settings) -> None:
    """Run a decoder until SIGTERM has been answered in full. Raises InvalidConfig."""
    await scaffold.serve(settings, "decoder", partial(build, settings))


def load_card(settings: DecoderSettings) -> ModelCard:
    try:
        return find_card(settings.model)
    except CascadeError as error:
        raise InvalidConfig(f"decoder.model: {error}") from None
