"""A real stage on loopback, with real ranks of a tiny model, and a client that speaks its contract."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import torch
from google.protobuf.duration_pb2 import Duration

from cascade.v1 import common_pb2, stage_pb2, stage_pb2_grpc
from cascade_client.keep_status import keep_status
from cascade_core.config import make
from services.common.channel import open_channel
from services.common.server import Server, Service, running
from services.common.settings import GrpcSettings
from services.common.telemetry import Telemetry
from services.stage.service import describe
from services.stage.settings import Settings
from services.stage.stage import Stage
from services.stage.tensors import from_tensor, to_tensor
from tests.services.common.test_errors import parts

WAIT_S = 60.0
"""Deadline of every wait: only a hang reaches it."""
PROMPT = "a red circle moves left"
MANY = 2**31
Request, Response = stage_pb2.GenerateRequest, stage_pb2.GenerateResponse
Blocks = dict[int, torch.Tensor]


def stage_settings(card: Path | str, **sections: Any) -> Settings:
    """Random weights on the CPU, any free port, and no wait longer than a test may last."""
    stage = {"model": str(card), "weights": "random", "device": "cpu", "threads_per_rank": 1}
    values = {
        "grpc": {"port": 0, "max_receive_bytes": 17 * 2**20, "max_send_bytes": 17 * 2**20},
        "drain": {"deadline_s": 5, "grace_s": 1, "hurry_s": 0.2},
        "health": {"check_interval_s": 0.05},
        "stage": stage | sections.pop("stage", {}),
    }
    return make(Settings, values | sections)


class Running:
    """A stage that listens, and a channel to it."""

    def __init__(self, server: Server, stage: Stage, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.stage = stage
        self.channel = channel
        self.stub: Any = stage_pb2_grpc.StageServiceStub(channel)

    @property
    def engine(self) -> Any:
        assert self.stage.engine
        return self.stage.engine

    def generate(self, **call: Any) -> "Stream":
        return Stream(self.stub.Generate(**call))

    async def opened(self, **fields: Any) -> "Stream":
        """A stream whose session is open."""
        stream = self.generate()
        await stream.open(**fields)
        await stream.expect("opened")
        return stream

    async def status(self) -> stage_pb2.StageStatus:
        async for report in self.stub.WatchStatus(stage_pb2.StageServiceWatchStatusRequest(), timeout=WAIT_S):
            return report.status
        raise AssertionError("the watch ended")

    async def until(self, state: int) -> stage_pb2.StageStatus:
        """The first report of that state."""
        request = stage_pb2.StageServiceWatchStatusRequest(interval=Duration(seconds=30))
        async for report in self.stub.WatchStatus(request, timeout=WAIT_S):
            if report.status.state == state:
                return report.status
        raise AssertionError("the watch ended")

    def metric(self, name: str, **labels: str) -> float:
        return self.server.telemetry.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def serving(settings: Settings, *, start: bool = True) -> AsyncIterator[Running]:
    """`start` False: the model is not loaded."""
    made: list[Stage] = []

    @asynccontextmanager
    async def build(telemetry: Telemetry) -> AsyncIterator[Service]:
        made.append(Stage(settings, telemetry.registry))
        async with made[0].running():
            yield describe(made[0])

    async with running(settings, "stage", build) as server:
        if start:
            await made[0].start_engine()
        async with open_channel(f"127.0.0.1:{server.port}", GrpcSettings(), None) as channel:
            yield Running(server, made[0], channel)


class Stream:
    """One Generate call."""

    numbers = iter(range(1, 10**9))

    def __init__(self, call: Any) -> None:
        self.call = call
        keep_status(call)
        self.session = f"session-{next(Stream.numbers)}"
        self.shape = (1, 16, 4, 4)

    async def open(self, context: Blocks | None = None, **fields: Any) -> None:
        """Send `open` and the context blocks."""
        context = context or {}
        values = {"session": self.session, "epoch": 1, "model": "tiny", "prompts": {0: PROMPT}, "seed": 7}
        values |= {"num_context_blocks": len(context), **fields}
        self.session = values["session"]
        await self.send(open=values)
        await self.send_context(context)

    async def send_context(self, context: Blocks) -> None:
        for index, latents in context.items():
            await self.send(
                context_block={"index": index, "latents": to_tensor(latents, common_pb2.DATA_TYPE_FLOAT32)}
            )

    async def send(self, **message: Any) -> None:
        """What was sent after the end of the call is lost; reading says why."""
        if self.call.done():
            return
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await asyncio.wait_for(self.call.write(Request(**message)), WAIT_S)

    async def switch(self, request_id: str, text: str = "a blue square moves right", **fields: Any) -> None:
        await self.send(switch_prompt={"request_id": request_id, "text": text, **fields})

    async def credit(self, end_block: int, needed_in_s: int | None = None) -> None:
        needed_in = None if needed_in_s is None else {"seconds": needed_in_s}
        await self.send(credit={"end_block": end_block, "needed_in": needed_in})

    async def read(self) -> Response | None:
        """The next message; None at the end of the call."""
        try:
            message = await asyncio.wait_for(self.call.read(), WAIT_S)
        except grpc.aio.AioRpcError:
            return None
        return None if message is grpc.aio.EOF else message

    async def expect(self, kind: str) -> Any:
        """The next message's content, which must be of that kind."""
        message = await self.read()
        assert message is not None, f"ended with {await self.code()}: {self.call.details()}"
        assert message.WhichOneof("message") == kind, message
        return getattr(message, kind)

    async def blocks(self, count: int) -> Blocks:
        """The next messages, which must be so many blocks."""
        return self.latents([await self.expect("block") for _ in range(count)])

    async def rest(self) -> list[Response]:
        """Every message up to the end."""
        messages = []
        while (message := await self.read()) is not None:
            messages.append(message)
        return messages

    async def code(self) -> grpc.StatusCode:
        return await asyncio.wait_for(self.call.code(), WAIT_S)

    async def reason(self) -> str:
        """Read to the end, which must be an error, and return its reason."""
        await self.rest()
        return str((await self.details())["ErrorInfo"].reason)

    async def details(self) -> dict[str, Any]:
        code = await self.code()
        assert code is not grpc.StatusCode.OK
        return parts(await error_of(self.call))

    def latents(self, blocks: Iterable[Any]) -> Blocks:
        return {
            block.block.index: torch.from_numpy(from_tensor("block", block.block.latents, self.shape).copy())
            for block in blocks
        }

    async def close(self) -> None:
        """Close the session and see it end."""
        await self.send(close={})
        messages = await self.rest()
        assert messages[-1].ended.reason == Response.Ended.REASON_CLOSED, messages[-1]
        assert await self.code() is grpc.StatusCode.OK


async def error_of(call: Any) -> grpc.aio.AioRpcError:
    """A streaming call's error as unary ones raise it."""
    return grpc.aio.AioRpcError(
        await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )


def kinds(messages: Iterable[Response]) -> list[str]:
    return [str(message.WhichOneof("message")) for message in messages]
