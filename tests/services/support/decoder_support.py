"""A real decoder on loopback, with its worker process, and a client that speaks the contract."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import numpy as np
import pytest
import torch
from google.protobuf.duration_pb2 import Duration
from numpy.typing import NDArray
from safetensors.numpy import load_file

from cascade.v1 import common_pb2, decoder_pb2, decoder_pb2_grpc
from cascade_client.keep_status import keep_status
from cascade_core.config import make
from services.common.server import Server, Service, running
from services.common.telemetry import Telemetry
from services.decoder.service import Decoder
from services.decoder.settings import Settings
from tests.paths import ROOT
from tests.services.common.test_errors import parts

WAIT_S = 120.0
"""Bound of every wait in these tests."""
NUM_BLOCKS = 12
SIDE = 96
FRAMES = 3
"""Latent frames of a block of the demo model."""
QUICK = {"kind": "taehv", "weights": "random"}
"""A decoder that starts in half the time: no diffusers."""
READY = common_pb2.SERVING_STATE_READY
MEDIA = common_pb2.MediaProfile(id="high")
DRAIN = {"deadline_s": 1, "grace_s": 1, "hurry_s": 0.2}

Request = decoder_pb2.DecodeRequest
Response = decoder_pb2.DecodeResponse
Status = decoder_pb2.DecoderStatus


@cache
def demo_latents() -> NDArray[np.float32]:
    """Clean latents [blocks, F, C, h, w] that the demo model really makes, with a prompt switch."""
    with tempfile.TemporaryDirectory(prefix="cascade-latents-") as folder:
        file = f"{folder}/latents.safetensors"
        run = [sys.executable, "-m", "cascade_core.commands.cli", "generate", "--blocks", str(NUM_BLOCKS)]
        prompts = ["--prompt", "a red circle moves left", "--switch", "5:a green square moves right"]
        command = [*run, *prompts, "--latents", file]
        subprocess.run(command, check=True, timeout=120, cwd=ROOT, capture_output=True)
        return load_file(file)["latents"]


@cache
def noise() -> NDArray[np.float32]:
    """As many latents at no cost, where nobody looks at the pictures."""
    return np.random.default_rng(0).standard_normal(
        (NUM_BLOCKS, FRAMES, 16, SIDE // 8, SIDE // 8), np.float32
    )


def tensor(latents: NDArray[np.float32], *, bfloat16: bool = False) -> common_pb2.Tensor:
    data = latents.tobytes()
    dtype = common_pb2.DATA_TYPE_FLOAT32
    if bfloat16:
        data = torch.from_numpy(latents).bfloat16().view(torch.int16).numpy().tobytes()
        dtype = common_pb2.DATA_TYPE_BFLOAT16
    return common_pb2.Tensor(dtype=dtype, shape=latents.shape, data=data)


def block(index: int, latents: NDArray[np.float32] | None = None, **options: Any) -> Request:
    """Block `index`, of noise unless told."""
    chosen = noise()[index % NUM_BLOCKS] if latents is None else latents
    return Request(block=common_pb2.LatentBlock(index=index, latents=tensor(chosen, **options)))


def opening(**changes: Any) -> Request:
    """An Open of a session that no other call names, unless told."""
    values: dict[str, Any] = {
        "session": uuid4().hex,
        "epoch": 1,
        "model": "demo",
        "width": SIDE,
        "height": SIDE,
        "fps": 16.0,
        "profiles": [MEDIA],
    }
    return Request(open=Request.Open(**(values | changes)))


CLOSE = Request(close=Request.Close())


class Call:
    """One Decode call from the client's side."""

    def __init__(self, stub: Any) -> None:
        self.stream = stub.Decode()
        keep_status(self.stream)

    async def send(self, *requests: Request) -> None:
        """What was sent after the end of the call is lost; reading says why it ended."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for request in requests:
                async with asyncio.timeout(WAIT_S):
                    await self.stream.write(request)

    async def half_close(self) -> None:
        await self.stream.done_writing()

    async def read(self) -> Response:
        """The next message; raises what ended the call."""
        response = await asyncio.wait_for(self.stream.read(), WAIT_S)
        assert response is not grpc.aio.EOF, "the call ended"
        assert isinstance(response, Response)
        return response

    async def expect(self, kind: str) -> Any:
        response = await self.read()
        assert response.WhichOneof("message") == kind, response
        return getattr(response, kind)

    async def opened(self, num_profiles: int = 1) -> tuple[Any, list[common_pb2.MediaInit]]:
        opened = await self.expect("opened")
        return opened, [await self.expect("media_init") for _ in range(num_profiles)]

    async def rest(self) -> list[Response]:
        """All that still comes; raises unless the call ends with OK."""
        found = []
        async with asyncio.timeout(WAIT_S):
            while (response := await self.stream.read()) is not grpc.aio.EOF:
                found.append(response)
            assert await self.stream.code() is grpc.StatusCode.OK
        return found

    async def ask(self, index: int, **options: Any) -> common_pb2.MediaSegment:
        """Send a block, and wait for its segment."""
        await self.send(block(index, **options))
        segment = await self.expect("segment")
        assert segment.media.block == index
        return segment.media  # type: ignore[no-any-return]

    async def fails(self) -> str:
        """The reason that the call ends with, whatever comes before."""
        return reason(await self.error())

    async def error(self) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.rest()
        return caught.value


def reason(error: grpc.aio.AioRpcError) -> str:
    return str(parts(error)["ErrorInfo"].reason)


async def whole(
    stub: Any,
    indices: Sequence[int],
    latents: NDArray[np.float32] | None = None,
    *,
    bfloat16: bool = False,
    **changes: Any,
) -> tuple[list[common_pb2.MediaInit], list[common_pb2.MediaSegment]]:
    """One session of these blocks, from open to ended: its init segments, and its segments as they came."""
    call, latents = Call(stub), noise() if latents is None else latents
    request = opening(start_block=indices[0] if indices else 0, **changes)
    num_warmup = request.open.num_warmup_blocks
    await call.send(request)
    for index in range(request.open.start_block - num_warmup, request.open.start_block):
        await call.send(block(index, latents[index]))
    _, inits = await call.opened(len(request.open.profiles))
    segments = []
    for index in indices:
        await call.send(block(index, latents[index], bfloat16=bfloat16))
        segments += [(await call.expect("segment")).media for _ in inits]
    await call.send(CLOSE)
    (ended,) = await call.rest()
    assert ended.ended.num_blocks == len(indices)
    return inits, segments


class Peer:
    """A client of one decoder."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub: Any = decoder_pb2_grpc.DecoderServiceStub(channel)

    def call(self) -> Call:
        return Call(self.stub)

    async def until(self, wanted: Callable[[Status], bool]) -> Status:
        """The first status that is as wanted."""
        request = decoder_pb2.DecoderServiceWatchStatusRequest(interval=Duration(nanos=100_000_000))
        watch = self.stub.WatchStatus(request, timeout=WAIT_S)
        seen: Any = None
        with suppress(grpc.aio.AioRpcError):
            async for answer in watch:
                seen = answer.status
                if wanted(seen):
                    watch.cancel()
                    return seen
        raise AssertionError(f"never as wanted; last {seen}")

    async def ready(self) -> Status:
        return await self.until(lambda status: status.state == READY)

    async def idle(self) -> Status:
        return await self.until(lambda status: not status.num_sessions and not status.num_pending_blocks)


class Serving(Peer):
    """A decoder in this process."""

    def __init__(self, server: Server, decoder: Decoder, channel: grpc.aio.Channel) -> None:
        super().__init__(channel)
        self.server = server
        self.decoder = decoder

    @property
    def worker(self) -> int:
        """Process id."""
        pid = self.decoder.dispatcher.pid
        assert pid
        return pid

    def sample(self, name: str) -> float:
        """A metric's value."""
        value = self.server.telemetry.registry.get_sample_value(name)
        assert value is not None, name
        return value


@asynccontextmanager
async def serving(*, wait: bool = True, **sections: dict[str, Any]) -> AsyncIterator[Serving]:
    """A decoder in this process, its worker in one of its own; ready unless told not to `wait`."""
    values: dict[str, Any] = {"drain": DRAIN, "health": {"check_interval_s": 0.02}} | sections
    values["grpc"] = {"port": 0, **sections.get("grpc", {})}
    values["decoder"] = {"threads": 1, **sections.get("decoder", {})}
    settings, made = make(Settings, values), list[Decoder]()

    @asynccontextmanager
    async def build(telemetry: Telemetry) -> AsyncIterator[Service]:
        made.append(Decoder(settings, telemetry.registry))
        async with made[0].running():
            yield made[0].describe()

    async with (
        running(settings, "decoder", build) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        serving = Serving(server, made[0], channel)
        if wait:
            await serving.ready()
        yield serving


class Process(Peer):
    """`python -m services.decoder`."""

    def __init__(
        self, process: asyncio.subprocess.Process, channel: grpc.aio.Channel, log: list[dict[str, Any]]
    ) -> None:
        super().__init__(channel)
        self.process = process
        self.log = log

    @property
    def worker(self) -> int:
        return next(line["pid"] for line in reversed(self.log) if line["event"] == "worker ready")


async def start_process(**environment: str) -> asyncio.subprocess.Process:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("CASCADE_")}
    quick = {f"CASCADE_DECODER_{name.upper()}": value for name, value in QUICK.items()}
    settings = quick | {"CASCADE_GRPC_PORT": "0", "CASCADE_DECODER_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.decoder"),
        env=clean | settings | environment,
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def process(**environment: str) -> AsyncIterator[Process]:
    """A ready decoder as a process of its own."""
    child = await start_process(**environment)
    assert child.stderr
    log: list[dict[str, Any]] = []
    draining: asyncio.Task[None] | None = None
    try:
        port = 0
        async with asyncio.timeout(WAIT_S):
            while not any(line["event"] == "worker ready" for line in log):
                log.append(json.loads(await child.stderr.readline()))
                port = log[-1].get("port", port) if log[-1]["event"] == "listening" else port
        draining = asyncio.create_task(collect(child.stderr, log))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Process(child, channel, log)
    finally:
        with suppress(ProcessLookupError):
            if child.returncode is None:
                os.kill(child.pid, signal.SIGKILL)
        await asyncio.wait_for(child.wait(), WAIT_S)
        if draining:
            await asyncio.wait_for(draining, WAIT_S)


async def collect(stream: asyncio.StreamReader, log: list[dict[str, Any]]) -> None:
    """Keep reading, or the child blocks; the pipe ends with the worker, which has it too."""
    async for line in stream:
        with suppress(ValueError):
            log.append(json.loads(line))


async def gone(pid: int) -> None:
    """Wait until a process has ended; a zombie has."""
    async with asyncio.timeout(WAIT_S):
        while is_running(pid):  # noqa: ASYNC110 (somebody else's child: there is nothing to wait on)
            await asyncio.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
