"""What sessions begin from: a decoder encodes it, this gateway holds its bytes meanwhile, and no longer."""

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

import structlog
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from cascade.v1 import common_pb2, decoder_pb2, session_pb2
from services.common.errors import NotReady, Overloaded, ServiceError, UnsupportedMedia
from services.common.remote import RemoteError
from services.common.validation import InvalidField
from services.gateway.journal import Beginning, NewSession
from services.gateway.peers.decoder_stream import DecoderPeer
from services.gateway.peers.encoding import Encoded, encode
from services.gateway.peers.stream import StreamLost
from services.gateway.placement.ledger import is_staying
from services.gateway.session.shared import Shared

Request = decoder_pb2.EncodeRequest
log = structlog.get_logger(__name__)
FIELD = "spec.start"
READY = common_pb2.SERVING_STATE_READY
MAX_TRIES = 3
"""Decoders that may fail at one file, or lose it; each is another one where there is another."""
TENANT_SHARE = 4
"""A tenant may hold that part of the bytes that all may."""
MOST_BLOCKS = 64
"""Of a clip that is to be seen; the contract takes no more."""
MAX_TENANT_CHARS = 128
"""As the contract says."""
BLOCKS = 16
"""Of one that is not, where no stage has told how far its model looks back."""


class Starts:
    """Those of one gateway."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._held: Counter[str] = Counter()
        """Bytes by tenant."""
        self._encodable: set[str] = set()
        """Models of which some decoder could encode: if none is there now, another will come."""

    async def begun(self, new: NewSession, spec: session_pb2.SessionSpec) -> NewSession:
        """The session with the latents of `spec.start`, if it has that. Raises InvalidField, RemoteError
        (what a decoder says of the file), UnsupportedMedia, NotReady and Overloaded."""
        if not spec.HasField("start"):
            return new
        with self._holding(new.tenant, spec.start.ByteSize()):
            started_s = time.monotonic()
            encoded = await self._encode(self._wanted(new, spec))
            self._shared.metrics.start_seconds.observe(time.monotonic() - started_s)
        return replace(new, beginning=placed(encoded, new, spec))

    def _wanted(self, new: NewSession, spec: session_pb2.SessionSpec) -> Request:
        """As much of it as the model looks back on, unless it is to be seen."""
        name = spec.model or self._shared.settings.gateway.default_model
        model = self._shared.admission.find_model(name)
        num_blocks = max(1, min(model.context_blocks, MOST_BLOCKS)) if model else BLOCKS
        return Request(
            session=new.session,
            tenant=new.tenant[:MAX_TENANT_CHARS],
            model=name,
            width=spec.width or (model.width if model else 0),
            height=spec.height or (model.height if model else 0),
            fps=spec.fps,
            file=spec.start,
            max_blocks=MOST_BLOCKS if spec.include_start else num_blocks,
        )

    @contextmanager
    def _holding(self, tenant: str, num_bytes: int) -> Iterator[None]:
        """Raises Overloaded."""
        most = self._shared.settings.gateway.start_bytes
        held = {most // TENANT_SHARE: self._held[tenant], most: self._held.total()}
        if any(before and before + num_bytes > limit for limit, before in held.items()):
            raise Overloaded("pictures and clips to begin from wait for decoders; try again")
        self._held[tenant] += num_bytes
        try:
            yield
        finally:
            self._held[tenant] -= num_bytes
            self._held += Counter()  # without those that hold nothing

    async def _encode(self, request: Request) -> Encoded:
        """By whichever decoder can; again by another where one is lost."""
        settings = self._shared.settings
        timeout_s = settings.gateway.encode_timeout_s
        tried = set[str]()
        last: ServiceError = NotReady(f"no decoder could encode {FIELD} within {timeout_s:g} s")
        give_up_s = time.monotonic() + timeout_s
        for _ in range(MAX_TRIES):
            peer = await self._decoder(request.model, tried, give_up_s - time.monotonic())
            left_s = give_up_s - time.monotonic()
            if peer is None or left_s <= 0:
                break
            tried.add(peer.address)
            try:
                return await encode(peer, request, settings, left_s)
            except StreamLost as lost:
                log.warning("not encoded", address=peer.address, reason=str(lost))
                if lost.error and lost.error.reason:
                    if is_of_file(lost.error):
                        raise told(lost.error) from None
                    if not lost.error.retryable:
                        last = told(lost.error)  # another may offer what this one does not
        raise last

    async def _decoder(self, model: str, tried: Collection[str], wait_s: float) -> DecoderPeer | None:
        """One that was not tried, or else any; None: none came in time. Raises UnsupportedMedia where none
        that is there will ever do, nor did one before."""
        try:
            async with asyncio.timeout(wait_s):
                while not (found := self._able(model)):
                    if model not in self._encodable:
                        self._check_kinds(model)
                    await self._shared.decoders.changed()
        except TimeoutError:
            return None
        self._encodable.add(model)
        return min(found, key=lambda peer: (peer.address in tried, num_pending(peer), peer.address))

    def _able(self, model: str) -> list[DecoderPeer]:
        peers = self._shared.decoders.peers.values()
        return [
            peer
            for peer in peers
            if is_staying(peer) and peer.status and model in peer.status.models and peer.status.can_encode
        ]

    def _check_kinds(self, model: str) -> None:
        statuses = [peer.status for peer in self._shared.decoders.peers.values()]
        its = [status for status in statuses if status is None or model in status.models]
        if its and all(status and status.state == READY and not status.can_encode for status in its):
            wrong = f"no decoder of {model} makes latents of pictures: those of kind taehv only decode"
            raise UnsupportedMedia(wrong, field=FIELD)


def placed(encoded: Encoded, new: NewSession, spec: session_pb2.SessionSpec) -> Beginning:
    """What was encoded, by the session's blocks. Raises InvalidField."""
    blocks, most = encoded.blocks, new.limits.max_bytes // 2
    if (num_bytes := sum(map(len, blocks))) > most:
        wrong = f"takes {num_bytes} bytes of latents, more than {most}: a shorter clip takes fewer"
        raise InvalidField([(f"{FIELD}.{spec.start.WhichOneof('file')}", wrong)])
    if encoded.is_first_frame:
        return Beginning({-1: blocks[0]})
    if not spec.include_start:
        return Beginning(dict(enumerate(blocks, -len(blocks))), len(blocks))
    if spec.HasField("num_blocks") and spec.num_blocks <= len(blocks):
        wrong = f"must be above {len(blocks)}, the blocks of the clip that include_start sends, or unset"
        raise InvalidField([("spec.num_blocks", wrong)])
    return Beginning(dict(enumerate(blocks)))


def num_pending(peer: DecoderPeer) -> int:
    return peer.status.num_pending_blocks if peer.status else 0


def is_of_file(error: RemoteError) -> bool:
    """Whether it says what is wrong with the file, which no decoder would find right."""
    return error.reason == "UNUSABLE_FILE" or any(is_field(name) for name in fields_of(error.status))


def told(error: RemoteError) -> RemoteError:
    """As it names the fields of our caller's request."""
    message, fields = named(error.status.message), fields_of(error.status)
    if fields and not message.startswith(FIELD):
        message = f"{named(fields[0])}: {message}"
    status = Status(code=error.status.code, message=message)
    for part in error.status.details:
        wrong = details.BadRequest()
        if not part.Unpack(wrong):
            status.details.append(part)
            continue
        for violation in wrong.field_violations:
            violation.field = named(violation.field)
            violation.description = named(violation.description)
        status.details.add().Pack(wrong)
    return RemoteError(status)


def fields_of(status: Status) -> list[str]:
    found = []
    for part in status.details:
        wrong = details.BadRequest()
        if part.Unpack(wrong):
            found += [violation.field for violation in wrong.field_violations]
    return found


def is_field(name: str) -> bool:
    return name == "file" or name.startswith("file.")


def named(text: str) -> str:
    """`file.video: ...` -> `spec.start.video: ...`."""
    return FIELD + text.removeprefix("file") if is_field(text) else text
