"""One client's Connect stream at the gateway that has the session."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator

from google.protobuf.message import Message

from cascade.v1 import common_pb2, session_pb2
from cascade_core.errors import CascadeError, OutOfCapacity
from services.common.durations import to_seconds
from services.common.errors import NotController, NotReady, ProtocolViolation, SequenceAhead
from services.common.resume_tokens import ResumeToken
from services.common.status import describe
from services.common.validation import InvalidField, validate
from services.gateway.api import commands
from services.gateway.journal import Record
from services.gateway.journal.errors import LeaseLost
from services.gateway.session import views
from services.gateway.session.attachment import MAX_BEHIND, Attachment, Part, Response
from services.gateway.session.just_in_time import Playback
from services.gateway.session.live import LiveSession
from services.gateway.session.media import as_response
from services.gateway.session.shared import Shared

Request = session_pb2.ConnectRequest
COMMANDS = ("switch_prompt", "set_paused", "end")
"""Of a controller; each is answered by itself, whatever is wrong with it."""
MAX_AHEAD = 4096
"""Segments that a client may have beyond what its session's record tells, after the loss of its gateway."""
Requests = AsyncIterator[Request]


def validate_but_commands(message: Message) -> None:
    """A command on a stream is checked where it is carried out: what is wrong with it ends no stream."""
    if not isinstance(message, Request) or message.WhichOneof("message") not in COMMANDS:
        validate(message)


class ClientStream:
    """A stream that is attached, from `attached` to its end."""

    def __init__(self, shared: Shared, live: LiveSession, attach: Request.Attach, token: ResumeToken) -> None:
        """`token`: what the client may do, whether it brought a token or a credential."""
        self._shared = shared
        self._live = live
        self._attach = attach
        self._token = token
        profile = profile_index(live.spec, attach.profile_id)
        kept = shared.settings.gateway.kept_segments if attach.from_oldest else 0
        self._attachment = Attachment(
            token.role == "controller",
            attach.client,
            profile,
            max_behind=kept + MAX_BEHIND,
            with_ticks=attach.with_ticks,
            with_parts=attach.with_parts,
        )
        self._init: common_pb2.MediaInit | None = None
        """The one sent last."""
        self._next = 1
        """The first sequence that was not sent."""

    async def run(self, requests: Requests) -> AsyncGenerator[Response | bytes, None]:
        """What the client receives. Raises what ends the stream."""
        attachment, live = self._attachment, self._live
        first = self._begin()
        tasks = [asyncio.create_task(work) for work in (self._receive(requests), self._renew_token())]
        try:
            for response in first:
                yield response
            while (item := await attachment.take()) is not None:
                if isinstance(item, Part):
                    yield item.message
                elif not isinstance(item, int):
                    if not self._is_known_init(item):
                        yield item
                elif item >= self._next:
                    for each in self._segment(item):
                        yield each
        finally:
            live.detach(attachment)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _is_known_init(self, event: Response) -> bool:
        """Whether the client has this init: one that came while the stream attached is in its greeting,
        too."""
        if not event.HasField("media_init"):
            return False
        is_known = event.media_init == self._init
        self._init = event.media_init
        return is_known

    def _begin(self) -> list[Response]:
        """Attach in one go, so that nothing is lost between what is sent now and what comes later."""
        live, attachment, settings = self._live, self._attachment, self._shared.settings.gateway
        if not attachment.is_controller and live.num_viewers >= settings.max_viewers:
            raise OutOfCapacity(f"the session has {settings.max_viewers} viewers already")
        start = first_sequence(
            live.record, self._attach, live.lease.epoch, is_controller=attachment.is_controller
        )
        wanted = self._attach.max_unacked_segments or settings.max_unacked_segments
        max_unacked = min(wanted, settings.max_unacked_limit)
        self._next = attachment.first_sequence = start
        live.attach(attachment, max_unacked)
        if attachment.is_controller and start > live.record.next_decoder_block + 1:
            live.ack(start - 1)  # the gateway that sent them is gone
        responses = self._greet(start, max_unacked)
        for response in responses:
            self._is_known_init(response)
        for sequence in range(start, live.record.next_decoder_block + 1):
            attachment.put_segment(sequence)
        live.put_parts(attachment)
        return responses

    def _greet(self, start: int, max_unacked: int) -> list[Response]:
        live, profile = self._live, self._live.spec.profiles[self._attachment.profile].id
        return greeting(
            live.view(),
            live.record,
            self._attach.after_sequence,
            Response.Attached(
                next_sequence=start,
                max_unacked_segments=max_unacked,
                just_in_time=self._attachment.is_controller and self._shared.settings.gateway.just_in_time,
            ),
            profile,
            self._issue(),
            role=self._token.role,
        )

    def _segment(self, sequence: int) -> list[Response | bytes]:
        """A segment; for a viewer that was too slow for it, the newest instead. Raises NotReady for a
        controller that was too slow: its next stream tells it from where on segments are kept."""
        profile, parts = self._attachment.profile, self._attachment.parts
        segment = self._live.segment(sequence, profile, parts)
        responses: list[Response | bytes] = []
        if segment is None:
            if self._attachment.is_controller:
                raise NotReady(f"segment {sequence} is not kept any more; attach again")
            sequence = self._live.record.next_decoder_block
            segment = self._live.segment(sequence, profile, parts)
            skipped = Response.Skipped(first_sequence=self._next, next_sequence=sequence)
            responses = [Response(skipped=skipped)]
        assert segment is not None, "the newest segment is kept"
        self._next = sequence + 1
        return [*responses, segment]

    async def _receive(self, requests: Requests) -> None:
        """Until the client has said everything; what the stream cannot survive ends it."""
        try:
            async for request in requests:
                await self._take(request)
        except Exception as error:  # of whatever kind: else nobody would hear the client any more
            self._attachment.close(error)

    async def _take(self, request: Request) -> None:
        kind = request.WhichOneof("message")
        if kind == "attach":
            raise ProtocolViolation("attach comes once, as the first message")
        if kind == "ack":
            return self._ack(request.ack)
        message = getattr(request, str(kind))
        try:
            validate(request)
            await self._command(request, message.request_id)
        except LeaseLost:
            raise NotReady("the session ends or moves; attach again") from None
        except CascadeError as error:
            if isinstance(error, InvalidField) and error.concerns(f"{kind}.request_id"):
                raise  # nobody would know what the answer is to
            failed = Response.RequestFailed(request_id=message.request_id, status=describe(error, ""))
            self._attachment.put(Response(request_failed=failed))

    def _ack(self, ack: Request.Ack) -> None:
        sequence = ack.sequence
        made = self._live.record.next_decoder_block  # which another stream of this client may have brought
        newest = max(made, self._attachment.first_sequence - 1)
        if sequence > newest:
            raise ProtocolViolation(f"ack of segment {sequence}, which was not sent; {newest} is the newest")
        if self._attachment.is_controller:
            self._live.ack(ack.sequence, self._playback(ack))

    def _playback(self, ack: Request.Ack) -> Playback | None:
        """What the player has that steers now, where blocks are made by it."""
        is_wanted = self._shared.settings.gateway.just_in_time and self._live.controller is self._attachment
        if not (is_wanted and ack.HasField("playback")):
            return None
        has = ack.playback
        playhead_s, buffered_s = to_seconds(has.playhead), to_seconds(has.buffered)
        return Playback(playhead_s, buffered_s, has.num_stalls, has.waiting)

    async def _command(self, request: Request, request_id: str) -> None:
        if not self._attachment.is_controller:
            raise NotController("a viewer cannot do that")
        if request.HasField("switch_prompt"):
            receipt = await commands.switch(self._live, request_id, request.switch_prompt.prompt_switch)
            if receipt.state != session_pb2.SWITCH_STATE_ACCEPTED:  # a repeat, long after the first
                self._attachment.put(Response(prompt_receipt=receipt))
        elif request.HasField("set_paused"):
            await commands.set_paused(self._live, request_id, is_paused=request.set_paused.paused)
        else:
            await commands.delete(self._live, request_id)

    async def _renew_token(self) -> None:
        while True:
            await asyncio.sleep(self._shared.settings.gateway.token_ttl_s / 2)
            token, expires_s = self._issue()
            renewed = Response.TokenRenewed(resume_token=token)
            renewed.expire_time.FromMilliseconds(int(expires_s * 1000))
            self._attachment.put(Response(token_renewed=renewed))

    def _issue(self) -> tuple[str, float]:
        token = self._token
        return self._shared.tokens.issue(token.session, token.tenant, token.role)


async def replay(
    record: Record, attach: Request.Attach, token: ResumeToken
) -> AsyncGenerator[Response | bytes, None]:
    """The stream of a session that is over: what is still kept of it, and its end."""
    view = views.session_of(record, 0)
    start = first_sequence(record, attach, view.epoch, is_controller=token.role == "controller")
    index = profile_index(view.spec, attach.profile_id)
    profile = view.spec.profiles[index].id
    attached = Response.Attached(next_sequence=start)
    issued = (attach.resume_token, token.expires_s or time.time())
    for response in greeting(view, record, attach.after_sequence, attached, profile, issued, token.role):
        yield response
    for kept in record.segments:
        if kept.block + 1 >= start:
            yield as_response(kept.data, index)
    yield Response(ended=view.end)


def greeting(
    session: session_pb2.Session,
    record: Record,
    after_sequence: int,
    attached: Response.Attached,
    profile: str,
    issued: tuple[str, float],
    role: str,
) -> list[Response]:
    """The first messages of a stream."""
    roles = {
        "controller": session_pb2.CONNECT_ROLE_CONTROLLER,
        "viewer": session_pb2.CONNECT_ROLE_VIEWER,
    }
    attached.session.CopyFrom(session)
    attached.role = roles[role]
    attached.resume_token = issued[0]
    attached.resume_token_expire_time.FromMilliseconds(int(issued[1] * 1000))
    attached.receipts.extend(views.pending_receipts(record))
    responses = [Response(attached=attached)]
    if init := views.media_inits(record).get(profile):
        responses.append(Response(media_init=init))
    if role == "viewer" and 0 < after_sequence < attached.next_sequence - 1:
        skipped = Response.Skipped(first_sequence=after_sequence + 1, next_sequence=attached.next_sequence)
        responses.append(Response(skipped=skipped))
    return responses


def first_sequence(record: Record, attach: Request.Attach, epoch: int, *, is_controller: bool) -> int:
    """Where sending begins. A client may have more than the record tells, after the loss of the gateway that
    sent it: then it waits until that has been made again. Raises SequenceAhead."""
    newest, after = record.next_decoder_block, attach.after_sequence
    if after > newest + (MAX_AHEAD if epoch > 1 else 0):
        raise SequenceAhead(f"after_sequence: {after} was never sent; {newest} is the newest")
    if after > newest:
        return after + 1
    oldest = record.segments[0].block + 1 if record.segments else newest + 1
    if is_controller or after or attach.from_oldest:
        start, is_complete = max(after + 1, oldest), is_controller or attach.from_oldest
        return start if is_complete or start == after + 1 else max(newest, 1)
    return max(newest, 1)


def profile_index(spec: session_pb2.SessionSpec, profile_id: str) -> int:
    """Raises ProtocolViolation where the session has no such profile; empty: the first."""
    ids = [profile.id for profile in spec.profiles]
    if profile_id and profile_id not in ids:
        raise ProtocolViolation(f"profile_id: {profile_id} is none of {', '.join(ids)}")
    return ids.index(profile_id) if profile_id else 0
