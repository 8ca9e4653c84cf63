"""A stage put together: what is served, from its start to its end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import grpc

from cascade.v1 import stage_pb2_grpc
from services.common import server as scaffold
from services.common.board import Board
from services.common.server import Service
from services.common.state_metrics import GpuCollector, StateCollector
from services.common.telemetry import Telemetry
from services.stage.servicer import StageServicer
from services.stage.settings import Settings
from services.stage.stage import Stage
from services.stage.status import StatusReport, change_of

NAME = "cascade.v1.StageService"
DRAIN_SHARE = 0.9
"""Share of the time after SIGTERM at which streams are ended, so that the rest is left for saying so."""


def describe(stage: Stage) -> Service:
    """What the scaffold serves. It answers while the model still loads."""
    board = Board(StatusReport(stage).read, change_of)

    def register(server: grpc.aio.Server) -> None:
        stage_pb2_grpc.add_StageServiceServicer_to_server(StageServicer(stage, board), server)

    async def drain(deadline_s: float) -> None:
        """Ends the watches of the status too: their callers would hold the process until its grace is
        over."""
        stage.drain.begin(deadline_s * DRAIN_SHARE, "the server was told to stop")
        try:
            await stage.occupancy.empty.wait()
        finally:
            board.close()

    return Service(
        (NAME,),
        register,
        conditions=(stage.complaint,),
        drain=drain,
        work=stage.start_engine,
        open_while_draining=(f"/{NAME}/WatchStatus", f"/{NAME}/Drain"),
    )


@asynccontextmanager
async def build(settings: Settings, telemetry: Telemetry) -> AsyncIterator[Service]:
    """A stage for as long as the block lasts."""
    stage = Stage(settings, telemetry.registry)
    telemetry.registry.register(StateCollector("cascade_stage_state", StatusReport(stage).state))
    telemetry.registry.register(GpuCollector(stage.gpus.accelerators))
    async with stage.running():
        yield describe(stage)


async def serve(settings: Settings) -> None:
    """Run a stage until SIGTERM has been answered in full. Raises StartFailed."""
    await scaffold.serve(settings, "stage", partial(build, settings))
