"""A whole installation in one process: a gateway between fake stages and fake decoders, and clients of it."""

import asyncio
import gc
import hashlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from cascade.v1 import session_pb2 as pb
from cascade.v1 import session_pb2_grpc
from cascade_client.keep_status import keep_status
from cascade_core.config import make
from services.common.addresses import join
from services.common.server import Server
from services.gateway.app.assembly import Gateway, running
from services.gateway.base.settings import Settings
from services.gateway.session.registry import Registry
from tests.services.common.test_errors import parts, unpacked
from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_machine import Mark
from tests.services.support.fake_stage import FakeStage

WAIT_S = 20.0
"""Deadline of every wait; only a hang reaches it."""
PROMPT = "a red circle moves left"
STATES = {number: name.removeprefix("SESSION_STATE_") for name, number in pb.SessionState.items()}
REASONS = {number: name.removeprefix("END_REASON_") for name, number in pb.EndReason.items()}
CAUSES = {number: name.removeprefix("RECOVERY_CAUSE_") for name, number in pb.RecoveryCause.items()}
CLASSES = {number: name.removeprefix("RECOVERY_CLASS_") for name, number in pb.RecoveryClass.items()}
CONTROLLER, VIEWER = pb.CONNECT_ROLE_CONTROLLER, pb.CONNECT_ROLE_VIEWER
Request, Response = pb.ConnectRequest, pb.ConnectResponse
ids = iter(range(1, 10**9))


def fresh_id() -> str:
    return f"r-{next(ids)}"


def duration(seconds: float) -> Duration:
    value = Duration()
    value.FromMilliseconds(round(seconds * 1000))
    return value


def gateway_settings(
    stages: Sequence[str], decoders: Sequence[str], keys_file: Path | None = None, **gateway: Any
) -> Settings:
    """Any free port, and no wait longer than a test may last. `http`, `telemetry`: these sections;
    without the former: no HTTP. `host`: where it listens."""
    http, host = gateway.pop("http", None), gateway.pop("host", "127.0.0.1")
    section = {
        "stages": stages,
        "decoders": decoders,
        "status_interval_s": 0.2,
        "open_timeout_s": 2.0,
        "stall_timeout_s": 2.0,
        "recovery_timeout_s": 10.0,
    }
    values = {
        "grpc": {"host": host, "port": 0},
        "telemetry": gateway.pop("telemetry", {}),
        "drain": {"deadline_s": 0.5, "grace_s": 0.2, "hurry_s": 0.2},
        "health": {"check_interval_s": 0.05},
        "gateway": section | gateway,
    }
    if http is not None:
        values["http"] = {"host": host, "port": 0} | http
    if keys_file:
        values["auth"] = {"modes": ["api_keys"], "keys_file": keys_file}
    return make(Settings, values)


def write_keys(path: Path, tenants: Sequence[str]) -> None:
    """Each tenant's key is `key-TENANT`."""
    entry = '[[keys]]\nname = "{0}"\ntenant = "{0}"\nsha256 = "{1}"\n'
    digests = {name: hashlib.sha256(f"key-{name}".encode()).hexdigest() for name in tenants}
    path.write_text("".join(entry.format(name, digest) for name, digest in digests.items()))


class Tenant:
    """The calls of one tenant."""

    def __init__(self, channel: grpc.aio.Channel, name: str | None) -> None:
        self.stub: Any = session_pb2_grpc.SessionServiceStub(channel)
        self.metadata = (("authorization", f"Bearer key-{name}"),) if name else ()

    async def call(self, method: str, request: Any) -> Any:
        return await getattr(self.stub, method)(request, timeout=WAIT_S, metadata=self.metadata)

    async def create(self, request_id: str = "", session_id: str = "", **spec: Any) -> Any:
        request = pb.CreateSessionRequest(request_id=request_id or fresh_id(), session_id=session_id)
        request.spec.CopyFrom(pb.SessionSpec(**({"prompts": {0: PROMPT}} | spec)))
        return await self.call("CreateSession", request)

    async def name(self, **spec: Any) -> str:
        """Of a new session."""
        return str((await self.create(**spec)).session.name)

    async def get(self, name: str) -> pb.Session:
        return (await self.call("GetSession", pb.GetSessionRequest(name=name))).session

    async def delete(self, name: str, request_id: str = "") -> pb.Session:
        request = pb.DeleteSessionRequest(name=name, request_id=request_id or fresh_id())
        return (await self.call("DeleteSession", request)).session

    async def pause(self, name: str, request_id: str = "") -> pb.Session:
        request = pb.PauseSessionRequest(name=name, request_id=request_id or fresh_id())
        return (await self.call("PauseSession", request)).session

    async def resume(self, name: str, request_id: str = "") -> pb.Session:
        request = pb.ResumeSessionRequest(name=name, request_id=request_id or fresh_id())
        return (await self.call("ResumeSession", request)).session

    async def switch(
        self, name: str, text: str, request_id: str = "", at_block: int | None = None, **asked: Any
    ) -> pb.PromptReceipt:
        request = pb.SwitchPromptRequest(name=name, request_id=request_id or fresh_id())
        request.prompt_switch.CopyFrom(pb.PromptSwitch(text=text, at_block=at_block, **asked))
        return (await self.call("SwitchPrompt", request)).receipt

    async def token(self, name: str, role: str = "VIEWER", ttl_s: float | None = None) -> str:
        ttl = None if ttl_s is None else duration(ttl_s)
        number = pb.ConnectRole.Value(f"CONNECT_ROLE_{role}")
        request = pb.IssueResumeTokenRequest(name=name, role=number, ttl=ttl)
        return str((await self.call("IssueResumeToken", request)).resume_token)

    async def until_state(self, name: str, state: str) -> pb.Session:
        return await until_value(lambda: self.get(name), lambda session: STATES[session.state] == state)

    @asynccontextmanager
    async def attached(
        self, name: str = "", *, acks: bool = True, **attach: Any
    ) -> AsyncIterator["AttachedStream"]:
        """A stream whose `attached` has come; left open it is cancelled at the end."""
        stream = self.stream(acks=acks)
        try:
            await stream.attach(name=name, **attach)
            yield stream
        finally:
            await stream.cut()

    async def attach_again(self, **attach: Any) -> "AttachedStream":
        """After a loss, as a client does: again while the session is changing hands."""
        async with asyncio.timeout(WAIT_S):
            while True:
                stream = self.stream()
                try:
                    await stream.attach(**attach)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                else:
                    return stream

    def stream(self, *, acks: bool = True, with_credential: bool = True) -> "AttachedStream":
        metadata = self.metadata if with_credential else ()
        return AttachedStream(self.stub.Connect(metadata=metadata), acks=acks)


class AttachedStream:
    """One Connect stream, as a client sees it."""

    def __init__(self, call: Any, *, acks: bool) -> None:
        """`acks`: each segment at once."""
        self.call = call
        keep_status(call)
        self.acks = acks
        self.events: list[Response] = []
        self.error: grpc.aio.AioRpcError | None = None
        self.is_over = False
        self._news = asyncio.Event()
        self._sending = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._acking: set[asyncio.Task[None]] = set()

    async def send(self, **message: Any) -> None:
        async with asyncio.timeout(WAIT_S), self._sending:
            await self.call.write(Request(**message))

    def start(self) -> None:
        self._reading = asyncio.create_task(self._read())

    async def attach(self, **attach: Any) -> None:
        """Raises the error of a stream that is refused."""
        with suppress(asyncio.InvalidStateError):
            await self.send(attach=attach)
        self.start()
        await self.until(lambda: self.events or self.is_over)
        if self.error:
            raise self.error

    async def ack(self, sequence: int) -> None:
        await self.send(ack={"sequence": sequence})

    async def cut(self) -> None:
        """As a connection that is lost."""
        self.call.cancel()
        tasks = [*self._acking, *([self._reading] if self._reading else [])]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while (event := await self.call.read()) is not grpc.aio.EOF:
                self._take(event)
        except grpc.aio.AioRpcError as error:
            self.error = error
        finally:
            self.is_over = True
            self._news.set()

    def _take(self, event: Response) -> None:
        self.events.append(event)
        self._news.set()
        if event.HasField("segment") and self.acks:
            task = asyncio.create_task(self._ack_quietly(event.segment.sequence))
            self._acking.add(task)
            task.add_done_callback(self._acking.discard)

    async def _ack_quietly(self, sequence: int) -> None:
        """Beside the reading: a write that meets the end of the stream waits until somebody has read it."""
        with suppress(asyncio.InvalidStateError, asyncio.CancelledError, grpc.aio.AioRpcError):
            await self.ack(sequence)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Until it holds, looked at with each event."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def until_segments(self, number: int) -> None:
        await self.until(lambda: len(self.segments) >= number)

    async def until_sequence(self, sequence: int) -> None:
        await self.until(lambda: self.segments and self.segments[-1].sequence >= sequence)

    async def until_over(self) -> "AttachedStream":
        await self.until(lambda: self.is_over)
        return self

    async def first(self, kind: str) -> Any:
        """The first event of this kind."""
        await self.until(lambda: self.all(kind) or self.is_over)
        assert self.all(kind), f"no {kind}: {self.error}"
        return self.all(kind)[0]

    async def receipt(self, request_id: str, state: str = "APPLIED") -> pb.PromptReceipt:
        number = pb.SwitchState.Value(f"SWITCH_STATE_{state}")

        def found() -> list[pb.PromptReceipt]:
            receipts = self.all("prompt_receipt")
            return [item for item in receipts if (item.request_id, item.state) == (request_id, number)]

        await self.until(found)
        return found()[0]

    def all(self, kind: str) -> list[Any]:
        return [getattr(event, kind) for event in self.events if event.HasField(kind)]

    @property
    def kinds(self) -> list[str]:
        return [str(event.WhichOneof("message")) for event in self.events]

    @property
    def segments(self) -> list[Response.Segment]:
        return self.all("segment")

    @property
    def sequences(self) -> list[int]:
        return [segment.sequence for segment in self.segments]

    @property
    def marks(self) -> list[Mark]:
        return [Mark.of(segment.media.data) for segment in self.segments]

    @property
    def states(self) -> list[str]:
        """From `attached` on, those in a row that are equal once."""
        first = [STATES[event.session.state] for event in self.all("attached")]
        all_states = [*first, *(STATES[event.state] for event in self.all("state_changed"))]
        pairs = zip([None, *all_states], all_states, strict=False)
        return [state for before, state in pairs if state != before]

    @property
    def end_reason(self) -> str:
        return REASONS[self.all("ended")[0].reason] if self.all("ended") else f"none: {self.error}"

    def position(self, kind: str, fits: Callable[[Any], bool] = lambda _: True) -> int:
        """Among the events, of the first such one."""
        return next(
            at
            for at, event in enumerate(self.events)
            if event.HasField(kind) and fits(getattr(event, kind))  # type: ignore[arg-type]
        )


@dataclass
class Town:
    """Everything that runs."""

    server: Server
    registry: Registry
    stages: list[FakeStage]
    decoders: list[FakeDecoder]
    channel: grpc.aio.Channel
    anybody: Tenant
    tenants: Mapping[str, Tenant] = field(default_factory=dict)

    @property
    def stage(self) -> FakeStage:
        return self.stages[0]

    @property
    def decoder(self) -> FakeDecoder:
        return self.decoders[0]

    @property
    def url(self) -> str:
        """Of its HTTP side."""
        service = self.server.service
        assert isinstance(service, Gateway)
        assert service.http
        return f"http://{join(self.server.settings.grpc.host, service.http.port)}"

    def metric(self, name: str, **labels: str) -> float:
        return self.server.telemetry.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def town(
    *,
    stages: Sequence[FakeStage] | None = None,
    decoders: Sequence[FakeDecoder] | None = None,
    tenants: Sequence[str] = (),
    is_ready: bool = True,
    **gateway: Any,
) -> AsyncIterator[Town]:
    """`tenants`: with keys; none: anybody may call. `is_ready`: all machines have reported."""
    stages = [FakeStage()] if stages is None else list(stages)
    decoders = [FakeDecoder()] if decoders is None else list(decoders)
    try:
        for machine in (*stages, *decoders):
            await machine.start()
        async with built(stages, decoders, tenants, gateway) as place:
            if is_ready:
                await until(lambda: all(machine.num_watchers for machine in (*stages, *decoders)))
                await until(lambda: place.registry.shared.admission.has_stages or not stages)
            yield place
    finally:
        for machine in (*stages, *decoders):
            await machine.kill()
        gc.collect()  # servers that are collected after their loop has closed complain


@asynccontextmanager
async def built(
    stages: list[FakeStage], decoders: list[FakeDecoder], tenants: Sequence[str], gateway: dict[str, Any]
) -> AsyncIterator[Town]:
    with tempfile.TemporaryDirectory() as folder:
        keys_file = Path(folder) / "keys.toml" if tenants else None
        if keys_file:
            write_keys(keys_file, tenants)
        addresses = ([machine.address for machine in machines] for machines in (stages, decoders))
        settings = gateway_settings(*addresses, keys_file, **gateway)
        host = settings.grpc.host
        async with running(settings) as (server, registry), open_channel(server.port, host) as channel:
            people = {name: Tenant(channel, name) for name in tenants}
            anybody = people[tenants[0]] if tenants else Tenant(channel, None)
            place = Town(server, registry, stages, decoders, channel, anybody, people)
            try:
                yield place
            finally:
                vars(place).clear()


def open_channel(port: int, host: str = "127.0.0.1") -> grpc.aio.Channel:
    """With the bounds that a client has to raise."""
    options = [("grpc.max_receive_message_length", 9 * 2**20), ("grpc.max_send_message_length", 64 * 2**20)]
    return grpc.aio.insecure_channel(join(host, port), [*options, ("grpc.use_local_subchannel_pool", 1)])


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def until_value(ask: Callable[[], Awaitable[Any]], fits: Callable[[Any], bool]) -> Any:
    """The first answer that fits."""
    async with asyncio.timeout(WAIT_S):
        while True:
            if fits(value := await ask()):
                return value
            await asyncio.sleep(0.01)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """`CODE REASON`, after a look at the form that the contract gives every error."""
    found = parts(error)
    assert found["ErrorInfo"].domain == "cascade"
    assert found["RequestInfo"].request_id
    assert error.details()
    return f"{error.code().name} {found['ErrorInfo'].reason}"


def status_reason(status: Any) -> str:
    """Of a google.rpc.Status inside a message."""
    info = unpacked(status)["ErrorInfo"]
    assert info.domain == "cascade"
    return str(info.reason)


@contextmanager
def fails(reason: str, **metadata: str) -> Iterator[list[Any]]:
    """Such as `NOT_FOUND SESSION_NOT_FOUND`; yields a list that gets the error's details."""
    found: list[Any] = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield found
    found.append(parts(caught.value))
    assert reason_of(caught.value) == reason, caught.value.details()
    assert dict(found[0]["ErrorInfo"].metadata).items() >= metadata.items()
