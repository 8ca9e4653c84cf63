"""StageService on the wire."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc

from cascade.v1 import stage_pb2, stage_pb2_grpc
from cascade_core.engine.engine import Engine
from cascade_core.engine.session import Session
from cascade_core.errors import InvalidPrompt, InvalidRequest, OutOfCapacity, SessionClosed
from cascade_core.request import SessionRequest
from services.common.board import Board
from services.common.call import current_call
from services.common.drain import DRAINING
from services.common.durations import to_seconds
from services.common.errors import Draining, NotReady, with_details
from services.common.interceptors.logs import bind_session
from services.common.validation import InvalidField
from services.stage import messages
from services.stage.opening import Open, Requests, check_open, read_context, read_open
from services.stage.pump import Pump, Write
from services.stage.stage import Stage

Context = grpc.aio.ServicerContext[Any, Any]


class StageServicer(stage_pb2_grpc.StageServiceServicer):
    """Calls in, work to the parts of a Stage. `Generate` writes by itself, which the stubs do not know."""

    def __init__(self, stage: Stage, board: Board[stage_pb2.StageStatus]) -> None:
        self._stage = stage
        self._board = board

    async def Generate(self, requests: Requests, context: Context) -> None:  # type: ignore[override]
        stage = self._stage
        message = await read_open(requests)
        bind_session(message.session, message.epoch)
        engine = stage.require_ready()
        request = check_open(message, engine)
        async with stage.epochs.hold(message.session, message.epoch) as hold:
            with stage.occupancy.hold(request, engine):
                async with ended_by(hold.watch(), stage.drain.watch()):
                    request = await read_context(requests, request, engine)
                    await self._pump(engine, message, request, requests, context.write)

    async def WatchStatus(
        self, request: stage_pb2.StageServiceWatchStatusRequest, context: Context
    ) -> AsyncIterator[stage_pb2.StageServiceWatchStatusResponse]:
        interval_s = self._stage.settings.status_interval_s
        if request.HasField("interval"):
            interval_s = to_seconds(request.interval)
        async with aclosing(self._board.watch(interval_s)) as reports:
            async for status in reports:
                yield stage_pb2.StageServiceWatchStatusResponse(status=status)

    async def Drain(
        self, request: stage_pb2.StageServiceDrainRequest, context: Context
    ) -> stage_pb2.StageServiceDrainResponse:
        stage = self._stage
        stage.drain.answer(request, stage.settings.drain_timeout_s)
        return stage_pb2.StageServiceDrainResponse(drain=stage.drain.status(len(stage.occupancy)))

    async def _pump(
        self, engine: Engine, message: Open, request: SessionRequest, requests: Requests, write: Write
    ) -> None:
        stage = self._stage
        session = await open_session(engine, request)
        try:
            await write(messages.opened(message, session, engine, stage.revision))
            call_id = current_call().request_id
            await Pump(session, message, requests, write, stage.drain, stage.metrics, call_id).run()
        finally:
            await session.close()


async def open_session(engine: Engine, request: SessionRequest) -> Session:
    """As `Engine.open`, with the errors of the contract."""
    try:
        return await engine.open(request)
    except InvalidPrompt as error:
        raise with_details(error, violations=[("open.prompts", str(error))]) from None
    except InvalidRequest as error:
        raise InvalidField([("open", str(error))]) from None
    except OutOfCapacity as error:
        if engine.status.ready:
            raise
        raise NotReady(str(error)) from None
    except SessionClosed:
        raise Draining(DRAINING) from None


@asynccontextmanager
async def ended_by(*watches: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Whatever one of these raises ends the block."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(watch) for watch in watches]
        yield
        for task in tasks:
            task.cancel()
