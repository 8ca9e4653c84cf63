"""SessionService: who may call, for which session, and where that is; the rest is done elsewhere."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

import grpc

from cascade.v1 import session_pb2, session_pb2_grpc
from cascade_core.errors import CascadeError, SessionClosed
from services.common.call import Call, current_call
from services.common.errors import (
    NotReady,
    RequestIdReused,
    SessionExists,
    Unauthenticated,
)
from services.common.errors import PermissionDenied as Denied
from services.common.interceptors.logs import bind_session
from services.common.remote import RemoteError
from services.common.resume_tokens import ResumeToken, Role
from services.common.streams import next_message
from services.common.turns import Turns
from services.gateway.api import commands
from services.gateway.api.connect import ClientStream, Requests, replay
from services.gateway.api.creation import check_room, check_servable, complete, is_known
from services.gateway.api.forward import Forwarder, check_not_forwarded, is_changing_hands
from services.gateway.api.listing import Lists
from services.gateway.api.models import list_models
from services.gateway.api.rates import Rates
from services.gateway.api.starts import Starts
from services.gateway.journal import Record, errors
from services.gateway.session import views
from services.gateway.session.live import LiveSession
from services.gateway.session.registry import Elsewhere, Registry, session_id
from services.gateway.session.shared import Shared

pb = session_pb2
Context = grpc.aio.ServicerContext[Any, Any]
MAX_READS = 256
"""Reads of ended sessions that may wait, per tenant."""
RETRY_S = 0.1
"""Between two tries to find a session that is changing hands."""
CHANGING_S = 5.0
"""Beyond the lease: how long a session may take to change hands."""
Local = Callable[[LiveSession], Awaitable[Any]]
Over = Callable[[Record], Any]


class SessionServicer(session_pb2_grpc.SessionServiceServicer):
    """Any gateway answers for any session: for its own, for ended ones, and, by forwarding, for those of
    others."""

    def __init__(self, shared: Shared, registry: Registry, forwarder: Forwarder, rates: Rates) -> None:
        self._shared = shared
        self._registry = registry
        self._forwarder = forwarder
        self._rates = rates
        self._lists = Lists(shared.journal, registry.find)
        self._reads = Turns("ended sessions", MAX_READS)
        self._starts = Starts(shared)

    async def CreateSession(
        self, request: pb.CreateSessionRequest, context: Context
    ) -> pb.CreateSessionResponse:
        tenant = self._enter()
        shared, journal = self._shared, self._shared.journal
        new = complete(request, tenant, shared)
        has_start = request.spec.HasField("start")
        if not await is_known(journal, tenant, request.request_id, is_made=has_start):
            spec = pb.SessionSpec.FromString(new.specification)
            try:
                check_servable(spec, shared)
                check_room(tenant, await journal.num_open(tenant), spec.priority, shared)
                new = await self._starts.begun(new, request.spec)
            except CascadeError:  # unless the same request, sent twice, was served meanwhile
                if not await is_known(journal, tenant, request.request_id, is_made=has_start):
                    raise
        try:
            creation = await journal.create(
                new, shared.owner, shared.settings.gateway.lease_s, shared.quotas.of(tenant).max_sessions
            )
        except errors.RequestConflict as conflict:
            raise RequestIdReused(str(conflict)) from None
        except errors.SessionTaken:
            raise SessionExists(f"session_id: {request.session_id} is taken") from None
        if request.session_id not in ("", creation.session):
            raise RequestIdReused(f"request_id {request.request_id}: was used with another session_id")
        if creation.lease:
            await self._registry.begin(creation.lease)
        session = await self._view(creation.session)
        bind_session(creation.session, session.epoch)
        token, expires_s = shared.tokens.issue(creation.session, tenant, "controller")
        response = pb.CreateSessionResponse(session=session, resume_token=token)
        response.resume_token_expire_time.FromMilliseconds(int(expires_s * 1000))
        return response

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        async def local(live: LiveSession) -> pb.GetSessionResponse:
            return pb.GetSessionResponse(session=live.view())

        def over(record: Record) -> pb.GetSessionResponse:
            return pb.GetSessionResponse(session=views.session_of(record, 0))

        return await self._answer(request, local, over)  # type: ignore[no-any-return]

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: Context
    ) -> pb.ListSessionsResponse:
        return await self._lists.read(request, self._enter())

    async def DeleteSession(
        self, request: pb.DeleteSessionRequest, context: Context
    ) -> pb.DeleteSessionResponse:
        async def local(live: LiveSession) -> pb.DeleteSessionResponse:
            await commands.delete(live, request.request_id)
            await self._registry.ended(live)
            if not live.record.end:
                raise errors.LeaseLost("another gateway has to end it", epoch=live.lease.epoch)
            return pb.DeleteSessionResponse(session=live.view())

        def over(record: Record) -> pb.DeleteSessionResponse:
            commands.is_new(record, request.request_id, b"delete")
            return pb.DeleteSessionResponse(session=views.session_of(record, 0))

        return await self._answer(request, local, over)  # type: ignore[no-any-return]

    async def SwitchPrompt(
        self, request: pb.SwitchPromptRequest, context: Context
    ) -> pb.SwitchPromptResponse:
        async def local(live: LiveSession) -> pb.SwitchPromptResponse:
            receipt = await commands.switch(
                live, request.request_id, request.prompt_switch, wait_s=commands.VERDICT_S
            )
            return pb.SwitchPromptResponse(receipt=receipt)

        def over(record: Record) -> pb.SwitchPromptResponse:
            content = request.prompt_switch.SerializeToString(deterministic=True)
            prompt = record.find_prompt(request.request_id)
            if commands.is_new(record, request.request_id, b"switch", content) or prompt is None:
                raise closed(record)
            return pb.SwitchPromptResponse(receipt=views.receipt_of(prompt, record))

        return await self._answer(request, local, over)  # type: ignore[no-any-return]

    async def PauseSession(
        self, request: pb.PauseSessionRequest, context: Context
    ) -> pb.PauseSessionResponse:
        return await self._set_paused(request, pb.PauseSessionResponse, b"pause")  # type: ignore[no-any-return]

    async def ResumeSession(
        self, request: pb.ResumeSessionRequest, context: Context
    ) -> pb.ResumeSessionResponse:
        return await self._set_paused(request, pb.ResumeSessionResponse, b"resume")  # type: ignore[no-any-return]

    async def IssueResumeToken(
        self, request: pb.IssueResumeTokenRequest, context: Context
    ) -> pb.IssueResumeTokenResponse:
        async def local(live: LiveSession) -> pb.IssueResumeTokenResponse:
            roles: dict[int, Role] = {
                pb.CONNECT_ROLE_CONTROLLER: "controller",
                pb.CONNECT_ROLE_VIEWER: "viewer",
            }
            ttl_s = request.ttl.ToMilliseconds() / 1000 if request.HasField("ttl") else None
            record = live.record
            token, expires_s = self._shared.tokens.issue(
                record.session, record.tenant, roles[request.role], ttl_s
            )
            response = pb.IssueResumeTokenResponse(resume_token=token)
            response.expire_time.FromMilliseconds(int(expires_s * 1000))
            return response

        return await self._answer(request, local, refuse)  # type: ignore[no-any-return]

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        self._enter()
        return list_models(self._shared.admission, self._shared.settings.gateway.default_model)

    async def Connect(self, requests: Requests, context: Context) -> AsyncIterator[pb.ConnectResponse]:
        call = current_call()
        first = await next_message(requests, "attach")
        token = self._identify(first.attach, call)
        bind_session(token.session, 0)
        try:
            async with asyncio.timeout(self._patience_s()):
                found = await self._responses(call, first, token, requests)
        except TimeoutError:
            raise NotReady("the session is changing hands; try again") from None
        async with aclosing(found) as responses:
            async for response in responses:
                yield response

    async def _responses(
        self, call: Call, first: pb.ConnectRequest, token: ResumeToken, requests: Requests
    ) -> AsyncGenerator[Any, None]:
        """What the session sends, from wherever it is: messages, segments as serialized ones."""
        while True:
            found = await self._locate(token.session, token.tenant)
            if isinstance(found, LiveSession):
                return ClientStream(self._shared, found, first.attach, token).run(requests)
            if isinstance(found, Record):
                async with self._reads.of(token.tenant):
                    whole = await self._shared.journal.load(token.session)
                return replay(whole, first.attach, token)
            check_not_forwarded(call)
            stream = self._forwarder.connect(found.address, call, first, requests)
            try:
                return begun(await anext(stream), stream)
            except RemoteError as error:
                if not is_changing_hands(error):
                    raise
            await asyncio.sleep(RETRY_S)

    async def _set_paused(self, request: Any, make: Callable[..., Any], kind: bytes) -> Any:
        async def local(live: LiveSession) -> Any:
            await commands.set_paused(live, request.request_id, is_paused=kind == b"pause")
            return make(session=live.view())

        def over(record: Record) -> Any:
            if commands.is_new(record, request.request_id, kind):
                raise closed(record)
            return make(session=views.session_of(record, 0))

        return await self._answer(request, local, over)

    def _enter(self) -> str:
        """The caller's tenant. Raises RateLimited."""
        call = current_call()
        tenant = call.principal.tenant
        self._rates.check(tenant)
        return tenant

    def _identify(self, attach: pb.ConnectRequest.Attach, call: Call) -> ResumeToken:
        """What the client may do, whether it brought a token or a credential."""
        wants_viewer = attach.role == pb.CONNECT_ROLE_VIEWER
        if attach.resume_token:
            token = self._shared.tokens.read(attach.resume_token)
            if attach.name and session_id(attach.name) != token.session:
                raise Denied("resume_token: is of another session than name")
            if attach.role == pb.CONNECT_ROLE_CONTROLLER and token.role == "viewer":
                raise Denied("resume_token: is a viewer's")
            return replace(token, role="viewer") if wants_viewer else token
        tenant = call.principal.tenant
        if not tenant:
            raise Unauthenticated("bring a credential, or a resume_token")
        role: Role = "viewer" if wants_viewer else "controller"
        return ResumeToken(session_id(attach.name), tenant, role, 0.0)

    async def _answer(self, request: Any, local: Local, over: Over) -> Any:
        """By this gateway, or by the one that has the session, which may change meanwhile."""
        call, tenant = current_call(), self._enter()
        session = session_id(request.name)
        bind_session(session, 0)
        try:
            async with asyncio.timeout(self._patience_s()):
                while True:
                    found = await self._locate(session, tenant)
                    if isinstance(found, LiveSession):
                        with suppress(errors.LeaseLost):  # it ended or moved meanwhile: look again
                            return await local(found)
                        await asyncio.sleep(RETRY_S)
                        continue
                    if isinstance(found, Record):
                        async with self._reads.of(tenant):
                            return over(await self._shared.journal.head(session))
                    check_not_forwarded(call)
                    try:
                        return await self._forwarder.unary(found.address, call, request)
                    except RemoteError as error:
                        if not is_changing_hands(error):
                            raise
                    await asyncio.sleep(RETRY_S)
        except TimeoutError:
            raise NotReady("the session is changing hands; try again") from None

    async def _locate(self, session: str, tenant: str) -> LiveSession | Record | Elsewhere:
        while True:
            try:
                return await self._registry.locate(session, tenant)
            except NotReady:
                if self._registry.is_leaving:
                    raise
                await asyncio.sleep(RETRY_S)

    async def _view(self, session: str) -> pb.Session:
        """The view of a session that exists already."""
        if live := self._registry.find(session):
            return live.view()
        summary = await self._shared.journal.summary(session)
        return views.session_of(await self._shared.journal.head(session), summary.epoch)

    def _patience_s(self) -> float:
        return self._shared.settings.gateway.lease_s + CHANGING_S


async def begun(
    first: pb.ConnectResponse, others: AsyncGenerator[pb.ConnectResponse, None]
) -> AsyncGenerator[pb.ConnectResponse, None]:
    """The whole of a stream whose first message has been read."""
    async with aclosing(others):
        yield first
        async for response in others:
            yield response


def refuse(record: Record) -> Any:
    raise closed(record)


def closed(record: Record) -> SessionClosed:
    end = pb.SessionEnd.FromString(record.end)
    reason = pb.EndReason.Name(end.reason).removeprefix("END_REASON_")
    error = SessionClosed(f"session {record.session} has ended: {reason}")
    error.metadata = {"end_reason": reason}  # type: ignore[attr-defined]
    return error
