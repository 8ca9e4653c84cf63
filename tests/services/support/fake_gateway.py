"""SessionService as the contract describes it, over made-up video; it misbehaves as a Script says.

`python -m tests.services.support.fake_gateway KIND` is a process of its own: `gateway`, `stage` or `decoder`,
set up by the environment variables that `cascade up` gives to the real ones.
"""

import asyncio
import os
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NoReturn

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as grpc_health

from cascade.v1 import (
    common_pb2,
    decoder_pb2,
    decoder_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
    stage_pb2,
    stage_pb2_grpc,
)
from services.common.validation import InvalidField, validate
from services.decoder.segments import SegmentEncoder
from services.decoder.video_settings import VideoSettings
from tests.services.support.media_support import encoded

Code = grpc.StatusCode
Response = session_pb2.ConnectResponse
SIDE, FPS, FIRST_FRAMES, BLOCK_FRAMES = 32, 16, 9, 12
MAX_UNACKED = 4
SEED = 815
"""Of sessions that name none."""
LIVE_EDGE = 2
"""A viewer that attaches without a sequence starts so many segments before the newest."""


@cache
def encoder() -> SegmentEncoder:
    return SegmentEncoder(VideoSettings(SIDE, SIDE))


@cache
def media(block: int) -> tuple[int, int, bytes]:
    """(first picture, pictures, `moof` and `mdat`) of a grey block."""
    first, count = (0, FIRST_FRAMES) if block == 0 else (BLOCK_FRAMES * block - 3, BLOCK_FRAMES)
    pictures = np.full((count, SIDE, SIDE, 3), 16 * (block % 16), np.uint8)
    parts = encoded(encoder(), pictures, index=block, first_frame=first)
    return first, count, b"".join(part.data for part in parts)


def failure(
    code: grpc.StatusCode, reason: str, text: str = "", *parts: Message, **metadata: str
) -> status_pb2.Status:
    """A google.rpc.Status as the contract describes it."""
    status = status_pb2.Status(code=code.value[0], message=text or reason.lower())
    info = error_details_pb2.ErrorInfo(reason=reason, domain="cascade", metadata=metadata)
    for part in (info, error_details_pb2.RequestInfo(request_id="call-1"), *parts):
        status.details.add().Pack(part)
    return status


def retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    return error_details_pb2.RetryInfo(retry_delay=duration(seconds))


def duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))


async def refuse(context: Any, status: status_pb2.Status) -> NoReturn:
    code = next(code for code in Code if code.value[0] == status.code)
    trailer = ("grpc-status-details-bin", status.SerializeToString())
    await context.abort(code, status.message, (trailer,))
    raise AssertionError("abort returned")


@dataclass
class Script:
    """What goes wrong. Sequences in lists fire once each, before the segment they name is sent."""

    lose_before: list[int] = field(default_factory=list)
    """The stream ends with `loss`."""
    loss: status_pb2.Status = field(default_factory=lambda: failure(Code.UNAVAILABLE, "SESSION_LOST"))
    finish_before: list[int] = field(default_factory=list)
    """The stream ends with OK, but without `ended`."""
    reconnect_before: list[int] = field(default_factory=list)
    """`reconnect` is sent and the stream goes on."""
    recover_before: list[int] = field(default_factory=list)
    """recovery_started and recovery_done, epoch + 1."""
    renew_before: list[int] = field(default_factory=list)
    """token_renewed; all tokens before it expire."""
    skip: list[int] = field(default_factory=list)
    """The segment is not sent."""
    skip_viewer: list[int] = field(default_factory=list)
    """A viewer gets `skipped` in place of this segment."""
    num_repeated: int = 0
    """A stream that attaches again gets so many segments that it has already."""
    num_queued: int = 0
    """queue_changed messages before the start."""
    pace_s: float = 0.0
    """Between two segments."""
    has_models: bool = True
    """False: ListModels tells of none, as while no stage is up."""
    loras: tuple[str, ...] = ("ink", "clay")
    staggers: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Of its model; none: as a former release tells of it."""
    unary_failures: deque[status_pb2.Status] = field(default_factory=deque)
    """Of the next unary calls, before they do anything."""
    lost_answers: int = 0
    """So many mutations take effect and then answer UNAVAILABLE."""
    attach_failures: deque[status_pb2.Status] = field(default_factory=deque)
    """Of the next attachments."""
    switch_failure: status_pb2.Status | None = None
    """Of all switches."""
    refused_blocks: dict[int, status_pb2.Status] = field(default_factory=dict)
    """Of switches that name this block."""
    lose_on_switch: int = 0
    """So many streams end when a switch arrives, before it takes effect."""
    end_with: session_pb2.SessionEnd | None = None
    """How sessions end after their last block, in place of COMPLETE."""


class FakeSession:
    """One session: segment n is block n - 1."""

    def __init__(self, message: session_pb2.Session, script: Script) -> None:
        self.message = message
        self.script = script
        self.sent = 0
        """The highest sequence that was sent."""
        self.controller: object | None = None
        self.tokens: list[str] = []
        self.asked: list[session_pb2.PromptSwitch] = []
        self.receipts: list[session_pb2.PromptReceipt] = []
        self.outboxes: list[asyncio.Queue[Response | status_pb2.Status]] = []
        self.changed = asyncio.Event()

    @property
    def acked(self) -> int:
        return self.message.acked_sequence

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def tell(self, response: Response) -> None:
        for outbox in self.outboxes:
            outbox.put_nowait(response)
        self.wake()

    def set_state(self, state: int, *, paused: bool | None = None) -> None:
        self.message.state = state  # type: ignore[assignment]
        if paused is not None:
            self.message.paused = paused
        changed = Response.StateChanged(
            state=self.message.state, epoch=self.message.epoch, paused=self.message.paused
        )
        self.tell(Response(state_changed=changed))

    def start(self) -> None:
        if self.message.state != session_pb2.SESSION_STATE_QUEUED:
            return
        for left in range(self.script.num_queued, 0, -1):
            place = session_pb2.QueueStatus(position=left, queue_length=left, eta=duration(left))
            self.tell(Response(queue_changed=place))
        self.message.epoch = 1
        paused = self.message.paused
        self.set_state(session_pb2.SESSION_STATE_PAUSED if paused else session_pb2.SESSION_STATE_ACTIVE)

    def end(self, end: session_pb2.SessionEnd) -> None:
        if self.message.state == session_pb2.SESSION_STATE_ENDED:
            return
        end.last_sequence = self.sent
        self.message.end.CopyFrom(end)
        self.message.state = session_pb2.SESSION_STATE_ENDED
        self.tell(Response(ended=end))

    def switch(self, request_id: str, wanted: session_pb2.PromptSwitch) -> session_pb2.PromptReceipt:
        """Accept, at once; `apply_before` makes it APPLIED."""
        self.asked.append(wanted)
        at_block = wanted.at_block if wanted.HasField("at_block") else self.sent + 1
        receipt = session_pb2.PromptReceipt(
            request_id=request_id, state=session_pb2.SWITCH_STATE_ACCEPTED, first_block_touched=at_block
        )
        shown = self.shown(receipt)
        self.receipts.append(receipt)
        self.tell(Response(prompt_receipt=shown))
        return shown

    def shown(self, receipt: session_pb2.PromptReceipt) -> session_pb2.PromptReceipt:
        """Blocks and times are told when APPLIED."""
        shown = session_pb2.PromptReceipt()
        shown.CopyFrom(receipt)
        if receipt.state == session_pb2.SWITCH_STATE_ACCEPTED:
            shown.ClearField("first_block_touched")
        return shown

    def apply_before(self, block: int) -> None:
        for receipt in self.receipts:
            is_due = receipt.first_block_touched <= block
            if receipt.state == session_pb2.SWITCH_STATE_ACCEPTED and is_due:
                receipt.state = session_pb2.SWITCH_STATE_APPLIED
                receipt.first_block_full = receipt.first_block_touched + 2
                time_s = media(receipt.first_block_touched)[0] / FPS
                receipt.touched_presentation_time.CopyFrom(duration(time_s))
                receipt.full_presentation_time.CopyFrom(duration(time_s + 1.5))
                receipt.unknown_words.append("zorp")
                self.tell(Response(prompt_receipt=receipt))

    def segment(self, sequence: int) -> Response:
        first, count, data = media(sequence - 1)
        made = common_pb2.MediaSegment(
            profile_id="default", block=sequence - 1, first_frame=first, num_frames=count, data=data,
            presentation_time=duration(first / FPS), duration=duration(count / FPS),
        )  # fmt: skip
        return Response(segment=Response.Segment(sequence=sequence, epoch=self.message.epoch, media=made))


@dataclass
class Seen:
    """What clients did."""

    attaches: list[session_pb2.ConnectRequest.Attach] = field(default_factory=list)
    attach_times: list[float] = field(default_factory=list)
    connections: list[str] = field(default_factory=list)
    """Peer of each attachment."""
    acks: list[int] = field(default_factory=list)
    requests: list[Message] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    deadlines_s: list[float | None] = field(default_factory=list)
    connect_deadlines_s: list[float | None] = field(default_factory=list)


class FakeGateway(session_pb2_grpc.SessionServiceServicer):
    """Several of them may share `sessions`, as gateways on one Redis do."""

    def __init__(self, script: Script | None = None, sessions: dict[str, FakeSession] | None = None) -> None:
        self.script = script or Script()
        self.sessions = {} if sessions is None else sessions
        self.seen = Seen()
        self.address = ""
        self._answers: dict[tuple[str, str], tuple[bytes, Callable[[], Message]]] = {}
        self._num_tokens = 0
        self.server: grpc.aio.Server | None = None

    async def _enter(self, request: Message, context: Any) -> None:
        self.seen.requests.append(request)
        self.seen.metadata.append(dict(context.invocation_metadata() or ()))
        self.seen.deadlines_s.append(context.time_remaining())
        if self.script.unary_failures:
            await refuse(context, self.script.unary_failures.popleft())
        try:
            validate(request)
        except InvalidField as error:
            bad = error_details_pb2.BadRequest(
                field_violations=[{"field": name, "description": text} for name, text in error.violations]
            )
            await refuse(context, failure(Code.INVALID_ARGUMENT, "INVALID_FIELD", "not valid", bad))

    async def _once(self, request: Any, context: Any, do: Callable[[], Callable[[], Message]]) -> Any:
        """Idempotency: `do` runs for the first of equal requests, its result makes each answer."""
        key = (type(request).__name__, request.request_id)
        content = request.SerializeToString(deterministic=True)
        if key not in self._answers:
            self._answers[key] = (content, do())
        if self._answers[key][0] != content:
            await refuse(context, failure(Code.ALREADY_EXISTS, "REQUEST_ID_REUSED"))
        if self.script.lost_answers:
            self.script.lost_answers -= 1
            await context.abort(Code.UNAVAILABLE, "the connection was lost")
        return self._answers[key][1]()

    async def _find(self, name: str, context: Any) -> FakeSession:
        if name not in self.sessions:
            text = f"no session {name}"
            await refuse(context, failure(Code.NOT_FOUND, "SESSION_NOT_FOUND", text))
        return self.sessions[name]

    def _token(self, session: FakeSession) -> str:
        self._num_tokens += 1
        token = f"{session.message.name}#{self.address}#{self._num_tokens}"
        session.tokens.append(token)
        return token

    async def CreateSession(self, request: session_pb2.CreateSessionRequest, context: Any) -> Any:
        await self._enter(request, context)

        def create() -> Callable[[], Message]:
            name = f"sessions/{request.session_id or f's{len(self.sessions) + 1}'}"
            message = session_pb2.Session(
                name=name, spec=request.spec, state=session_pb2.SESSION_STATE_QUEUED, block_frames=3
            )
            message.spec.fps = message.spec.fps or FPS
            message.spec.model = message.spec.model or "demo"
            message.spec.seed = message.spec.seed or SEED
            unknown = [block for block, text in message.spec.prompts.items() if "zorp" in text]
            words = [common_pb2.UnknownWords(block=block, words=["zorp"]) for block in unknown]
            message.unknown_words.extend(words)
            message.create_time.GetCurrentTime()
            session = self.sessions[name] = FakeSession(message, self.script)
            return lambda: session_pb2.CreateSessionResponse(
                session=session.message, resume_token=self._token(session)
            )

        return await self._once(request, context, create)

    async def ListModels(self, request: session_pb2.ListModelsRequest, context: Any) -> Any:
        demo = session_pb2.Model(
            name="demo", fps=FPS, block_frames=BLOCK_FRAMES // 4, is_default=True, max_transition_blocks=64
        )
        demo.staggers.extend(self.script.staggers)
        for name in self.script.loras:
            demo.loras.add(name=name, licence="MIT", commercial_use=name != "clay")
        demo.image_start = common_pb2.IMAGE_START_CLIP
        return session_pb2.ListModelsResponse(models=[demo] if self.script.has_models else [])

    async def GetSession(self, request: session_pb2.GetSessionRequest, context: Any) -> Any:
        await self._enter(request, context)
        session = await self._find(request.name, context)
        return session_pb2.GetSessionResponse(session=session.message)

    async def ListSessions(self, request: session_pb2.ListSessionsRequest, context: Any) -> Any:
        await self._enter(request, context)
        found = [
            session.message
            for session in reversed(self.sessions.values())
            if (not request.states or session.message.state in request.states)
            and request.labels.items() <= session.message.spec.labels.items()
        ]
        start, size = int(request.page_token or 0), request.page_size or 50
        more = str(start + size) if start + size < len(found) else ""
        return session_pb2.ListSessionsResponse(sessions=found[start : start + size], next_page_token=more)

    async def DeleteSession(self, request: session_pb2.DeleteSessionRequest, context: Any) -> Any:
        await self._enter(request, context)
        session = await self._find(request.name, context)

        def delete() -> Callable[[], Message]:
            session.end(session_pb2.SessionEnd(reason=session_pb2.END_REASON_DELETED))
            return lambda: session_pb2.DeleteSessionResponse(session=session.message)

        return await self._once(request, context, delete)

    async def SwitchPrompt(self, request: session_pb2.SwitchPromptRequest, context: Any) -> Any:
        await self._enter(request, context)
        session = await self._find(request.name, context)
        if self.script.switch_failure:
            await refuse(context, self.script.switch_failure)

        def switch() -> Callable[[], Message]:
            session.switch(request.request_id, request.prompt_switch)
            receipt = session.receipts[-1]
            return lambda: session_pb2.SwitchPromptResponse(receipt=session.shown(receipt))

        return await self._once(request, context, switch)

    async def PauseSession(self, request: session_pb2.PauseSessionRequest, context: Any) -> Any:
        await self._enter(request, context)
        session = await self._find(request.name, context)
        self._pause(session, paused=True)
        return session_pb2.PauseSessionResponse(session=session.message)

    async def ResumeSession(self, request: session_pb2.ResumeSessionRequest, context: Any) -> Any:
        await self._enter(request, context)
        session = await self._find(request.name, context)
        self._pause(session, paused=False)
        return session_pb2.ResumeSessionResponse(session=session.message)

    def _pause(self, session: FakeSession, *, paused: bool) -> None:
        if session.message.paused == paused:
            return
        session.set_state(
            session_pb2.SESSION_STATE_PAUSED if paused else session_pb2.SESSION_STATE_ACTIVE, paused=paused
        )

    async def IssueResumeToken(self, request: session_pb2.IssueResumeTokenRequest, context: Any) -> Any:
        await self._enter(request, context)
        session = await self._find(request.name, context)
        answer = session_pb2.IssueResumeTokenResponse(resume_token=self._token(session))
        answer.expire_time.FromSeconds(int(time.time()) + int(request.ttl.seconds or 600))
        return answer

    async def Connect(self, requests: AsyncIterator[session_pb2.ConnectRequest], context: Any) -> None:
        self.seen.connect_deadlines_s.append(context.time_remaining())
        first = await anext(aiter(requests))
        validate(first)
        attach = first.attach
        self.seen.attaches.append(attach)
        self.seen.attach_times.append(time.monotonic())
        self.seen.connections.append(context.peer())
        if self.script.attach_failures:
            await refuse(context, self.script.attach_failures.popleft())
        name = attach.name or attach.resume_token.partition("#")[0]
        session = await self._find(name, context)
        if attach.resume_token and attach.resume_token not in session.tokens:
            await refuse(context, failure(Code.UNAUTHENTICATED, "EXPIRED_CREDENTIAL"))
        if attach.after_sequence > session.sent:
            await refuse(context, failure(Code.OUT_OF_RANGE, "SEQUENCE_AHEAD"))
        outbox: asyncio.Queue[Response | status_pb2.Status] = asyncio.Queue()
        is_viewer = attach.role == session_pb2.CONNECT_ROLE_VIEWER
        me = object()
        if not is_viewer:
            session.controller = me
            session.wake()
        session.outboxes.append(outbox)
        hearing = asyncio.create_task(self._hear(requests, session, outbox, is_viewer=is_viewer))
        try:
            await self._tell(session, attach, outbox, context, None if is_viewer else me)
        finally:
            hearing.cancel()
            session.outboxes.remove(outbox)
            if session.controller is me:
                session.controller = None
            await asyncio.gather(hearing, return_exceptions=True)

    async def _hear(
        self,
        requests: AsyncIterator[session_pb2.ConnectRequest],
        session: FakeSession,
        outbox: asyncio.Queue[Response | status_pb2.Status],
        *,
        is_viewer: bool,
    ) -> None:
        async for request in requests:
            self.seen.requests.append(request)
            kind = request.WhichOneof("message")
            if kind == "ack":
                if request.ack.sequence > session.sent:
                    outbox.put_nowait(failure(Code.FAILED_PRECONDITION, "PROTOCOL_VIOLATION"))
                elif not is_viewer:
                    self.seen.acks.append(request.ack.sequence)
                    session.message.acked_sequence = max(session.acked, request.ack.sequence)
                session.wake()
            elif is_viewer:
                request_id = getattr(request, str(kind)).request_id
                status = failure(Code.PERMISSION_DENIED, "NOT_CONTROLLER")
                failed = Response.RequestFailed(request_id=request_id, status=status)
                outbox.put_nowait(Response(request_failed=failed))
                session.wake()
            elif kind == "switch_prompt":
                self._hear_switch(request.switch_prompt, session, outbox)
            elif kind == "set_paused":
                self._pause(session, paused=request.set_paused.paused)
            elif kind == "end":
                session.end(session_pb2.SessionEnd(reason=session_pb2.END_REASON_DELETED))

    def _hear_switch(
        self,
        switch: session_pb2.ConnectRequest.Switch,
        session: FakeSession,
        outbox: asyncio.Queue[Response | status_pb2.Status],
    ) -> None:
        if self.script.lose_on_switch:
            self.script.lose_on_switch -= 1
            outbox.put_nowait(self.script.loss)
        elif refusal := self.script.refused_blocks.get(
            switch.prompt_switch.at_block, self.script.switch_failure
        ):
            failed = Response.RequestFailed(request_id=switch.request_id, status=refusal)
            outbox.put_nowait(Response(request_failed=failed))
        elif not any(receipt.request_id == switch.request_id for receipt in session.receipts):
            session.switch(switch.request_id, switch.prompt_switch)
        session.wake()

    async def _tell(
        self,
        session: FakeSession,
        attach: session_pb2.ConnectRequest.Attach,
        outbox: asyncio.Queue[Response | status_pb2.Status],
        context: Any,
        me: object | None,
    ) -> None:
        """Everything one stream sends. `me` None: a viewer."""
        credit = attach.max_unacked_segments or MAX_UNACKED
        after = max(attach.after_sequence - self.script.num_repeated, 0)
        if me is None and not attach.after_sequence:
            after = max(session.sent - LIVE_EDGE, 0)
        sequence = after + 1
        attached = Response.Attached(
            session=session.message, resume_token=self._token(session), max_unacked_segments=credit,
            role=session_pb2.CONNECT_ROLE_CONTROLLER if me else session_pb2.CONNECT_ROLE_VIEWER,
            next_sequence=max(sequence, attach.after_sequence + 1),
            receipts=[session.shown(receipt) for receipt in session.receipts],
        )  # fmt: skip
        await context.write(Response(attached=attached))
        session.start()
        init = common_pb2.MediaInit(
            profile_id="default", mime_type=encoder().mime_type, data=encoder().init_segment
        )
        await context.write(Response(media_init=init))
        spec = session.message.spec
        while True:
            changed = session.changed
            while not outbox.empty():
                message = outbox.get_nowait()
                if isinstance(message, status_pb2.Status):
                    await refuse(context, message)
                await context.write(message)
                if message.HasField("ended"):
                    return
            if me and session.controller is not me:
                await refuse(context, failure(Code.ABORTED, "CONTROLLER_REPLACED"))
            is_last = spec.HasField("num_blocks") and sequence > spec.num_blocks
            if is_last and me and session.acked >= spec.num_blocks:
                complete = session_pb2.SessionEnd(reason=session_pb2.END_REASON_COMPLETE)
                session.end(self.script.end_with or complete)
                continue
            limit = session.acked + credit if me else session.sent
            stands_still = session.message.paused or session.message.state in (
                session_pb2.SESSION_STATE_ENDED,
                session_pb2.SESSION_STATE_QUEUED,
            )
            if is_last or sequence > limit or (stands_still and sequence > session.sent):
                await changed.wait()
                continue
            if not await self._misbehave(session, sequence, context, is_viewer=me is None):
                return
            session.apply_before(sequence - 1)
            while not outbox.empty() and isinstance(outbox._queue[0], Response):  # type: ignore[attr-defined]
                await context.write(outbox.get_nowait())
            if sequence in self.script.skip:
                self.script.skip.remove(sequence)
            else:
                session.sent = max(session.sent, sequence)
                session.message.last_sequence = session.message.num_blocks = session.sent
                await context.write(session.segment(sequence))
                session.wake()
            sequence += 1
            await asyncio.sleep(self.script.pace_s)

    async def _misbehave(self, session: FakeSession, sequence: int, context: Any, *, is_viewer: bool) -> bool:
        """False: the stream ends here, with OK."""
        script = self.script
        if take(script.recover_before, sequence):
            started = Response.RecoveryStarted(cause=session_pb2.RECOVERY_CAUSE_STAGE_LOST)
            await context.write(Response(recovery_started=started))
            session.message.epoch += 1
            done = Response.RecoveryDone(
                cause=session_pb2.RECOVERY_CAUSE_STAGE_LOST,
                recovery_class=session_pb2.RECOVERY_CLASS_REBUILT,
                epoch=session.message.epoch, first_sequence=sequence, gap=duration(1.25),
            )  # fmt: skip
            await context.write(Response(recovery_done=done))
        if take(script.renew_before, sequence):
            session.tokens.clear()
            renewed = Response.TokenRenewed(resume_token=self._token(session))
            await context.write(Response(token_renewed=renewed))
        if is_viewer and take(script.skip_viewer, sequence):
            skipped = Response.Skipped(first_sequence=sequence, next_sequence=sequence + 1)
            await context.write(Response(skipped=skipped))
            script.skip.append(sequence)
        if take(script.reconnect_before, sequence):
            await context.write(Response(reconnect=Response.Reconnect(time_left=duration(5))))
        if take(script.lose_before, sequence):
            await refuse(context, script.loss)
        return not take(script.finish_before, sequence)


def take(sequences: list[int], sequence: int) -> bool:
    """Whether it is there; then it is removed."""
    found = sequence in sequences
    if found:
        sequences.remove(sequence)
    return found


@asynccontextmanager
async def serving(
    script: Script | None = None,
    *,
    sessions: dict[str, FakeSession] | None = None,
    port: int = 0,
    kind: type[FakeGateway] = FakeGateway,
    credentials: grpc.ServerCredentials | None = None,
) -> AsyncIterator[FakeGateway]:
    """A gateway on loopback for as long as the block lasts."""
    gateway = kind(script, sessions)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 2**22)])
    session_pb2_grpc.add_SessionServiceServicer_to_server(gateway, server)  # type: ignore[no-untyped-call]
    address = f"127.0.0.1:{port}"
    bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    gateway.address = f"127.0.0.1:{bound}"
    gateway.server = server
    await add_health(server)
    await server.start()
    try:
        yield gateway
    finally:
        await server.stop(None)


async def add_health(server: grpc.aio.Server) -> grpc_health.HealthServicer:
    health = grpc_health.HealthServicer()
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    return health


class FakeStage(stage_pb2_grpc.StageServiceServicer):
    """Drains one session in three reports."""

    def __init__(self) -> None:
        self.drains: list[stage_pb2.StageServiceDrainRequest] = []

    async def Drain(self, request: stage_pb2.StageServiceDrainRequest, context: Any) -> Any:
        validate(request)
        self.drains.append(request)
        return stage_pb2.StageServiceDrainResponse(drain=common_pb2.DrainStatus(num_sessions=1))

    async def WatchStatus(self, request: Message, context: Any) -> AsyncIterator[Any]:
        for left in (1, 1, 0):
            drain = common_pb2.DrainStatus(num_sessions=left, safe_to_delete=not left)
            yield stage_pb2.StageServiceWatchStatusResponse(status=stage_pb2.StageStatus(drain=drain))
            await asyncio.sleep(0.05)


class FakeDecoder(decoder_pb2_grpc.DecoderServiceServicer):
    """As FakeStage, without a session."""

    def __init__(self) -> None:
        self.drains: list[decoder_pb2.DecoderServiceDrainRequest] = []

    async def Drain(self, request: decoder_pb2.DecoderServiceDrainRequest, context: Any) -> Any:
        validate(request)
        self.drains.append(request)
        drain = common_pb2.DrainStatus(safe_to_delete=True)
        return decoder_pb2.DecoderServiceDrainResponse(drain=drain)

    async def WatchStatus(self, request: Message, context: Any) -> AsyncIterator[Any]:
        drain = common_pb2.DrainStatus(safe_to_delete=True)
        yield decoder_pb2.DecoderServiceWatchStatusResponse(status=decoder_pb2.DecoderStatus(drain=drain))


@asynccontextmanager
async def serving_peer(servicer: FakeStage | FakeDecoder, port: int = 0) -> AsyncIterator[str]:
    """A stage or decoder on loopback; its address."""
    server = grpc.aio.server()
    if isinstance(servicer, FakeStage):
        stage_pb2_grpc.add_StageServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    else:
        decoder_pb2_grpc.add_DecoderServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    await add_health(server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def run(kind: str, port: int) -> None:
    leaving = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.set)
    peers: dict[str, Callable[[], Any]] = {
        "gateway": lambda: serving(Script(pace_s=0.05), port=port),
        "stage": lambda: serving_peer(FakeStage(), port),
        "decoder": lambda: serving_peer(FakeDecoder(), port),
    }
    async with peers[kind]():
        await leaving.wait()


def main(kind: str) -> None:
    """One service; writes its environment to stdout, which is its log."""
    for name, value in sorted(cascade_environment()):
        print(f"{name}={value}", flush=True)
    if os.environ.get("CASCADE_STAGE_MODEL") == "broken":
        sys.exit("stage: no model of that name: broken")
    if os.environ.get("CASCADE_STAGE_MODEL") == "slow":
        time.sleep(600)
    with suppress(KeyboardInterrupt):
        asyncio.run(run(kind, int(os.environ["CASCADE_GRPC_PORT"])))


def cascade_environment() -> Iterator[tuple[str, str]]:
    for name, value in os.environ.items():
        if name.startswith(("CASCADE_", "OMP_")):
            yield name, value


if __name__ == "__main__":
    main(sys.argv[1])
