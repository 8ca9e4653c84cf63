"""What was lost under a session, and from which block on it is made good again."""

from dataclasses import dataclass

import structlog

from cascade.v1 import session_pb2
from services.gateway.peers.stream import StreamLost
from services.gateway.session import views
from services.gateway.session.attachment import Response
from services.gateway.session.live import LiveSession
from services.gateway.session.media import create_ms
from services.gateway.session.over import SessionOver

log = structlog.get_logger(__name__)
FATAL = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"}
"""What another machine would answer too."""
LOSSES = {
    (True, False): session_pb2.RECOVERY_CAUSE_STAGE_LOST,
    (False, True): session_pb2.RECOVERY_CAUSE_DECODER_LOST,
    (True, True): session_pb2.RECOVERY_CAUSE_STAGE_AND_DECODER_LOST,
}


@dataclass
class Loss:
    """From the first stream lost to the first segment made after the last of them."""

    first_block: int
    """The first that comes from the new streams."""
    start_ms: int
    """Wall clock, when it was noticed."""
    stage: bool = False
    decoder: bool = False
    gateway: bool = False
    is_rebuilt: bool = False
    """A stage had to go on from kept latents."""
    is_put_off: bool = False
    """The session was paused, and has no places: it gets them in its turn, once it resumes."""

    @property
    def cause(self) -> "session_pb2.RecoveryCause.ValueType":
        if self.gateway:
            return session_pb2.RECOVERY_CAUSE_GATEWAY_LOST
        return LOSSES.get((self.stage, self.decoder), session_pb2.RECOVERY_CAUSE_MIGRATION)

    @property
    def recovery_class(self) -> "session_pb2.RecoveryClass.ValueType":
        """A decoder that is warm again makes the pictures that would have come anyway."""
        if self.is_rebuilt:
            return session_pb2.RECOVERY_CLASS_REBUILT
        return session_pb2.RECOVERY_CLASS_UNAFFECTED


class Recoveries:
    """Tells a session's clients of losses and of their end, with the measured gap."""

    def __init__(self, live: LiveSession, *, is_taken_over: bool) -> None:
        record = live.record
        self._live = live
        self.loss: Loss | None = None
        self.was_active = live.state not in (
            session_pb2.SESSION_STATE_QUEUED,
            session_pb2.SESSION_STATE_STARTING,
        )
        """Whether there was anything to lose."""
        self._last_segment_ms = create_ms(record.segments[-1].data) if record.segments else 0
        if is_taken_over and self.was_active:
            moved, is_rebuilt = views.MOVED in record.notes, record.next_stage_block > 0
            now_ms = live.shared.now_ms()
            self.loss = Loss(record.next_decoder_block, now_ms, gateway=not moved, is_rebuilt=is_rebuilt)
            self.loss.is_put_off = live.is_paused

    @property
    def is_urgent(self) -> bool:
        """Whether a loss is to be made good now."""
        return self.loss is not None and not self.loss.is_put_off

    def put_off(self) -> None:
        """The session's places were given away during a pause."""
        if self.loss:
            self.loss.is_put_off = True

    def stage_lost(self, lost: StreamLost | None) -> None:
        """`lost` None: it moves on purpose. Raises SessionOver where no other stage would do better."""
        block = self._live.record.next_stage_block
        loss = self._note("stage", lost, block)
        loss.stage |= not is_planned(lost)
        loss.is_rebuilt |= block > 0
        self._tell(loss)

    def decoder_lost(self, lost: StreamLost | None) -> None:
        """As `stage_lost`."""
        loss = self._note("decoder", lost, self._live.record.next_decoder_block)
        loss.decoder |= not is_planned(lost)
        self._tell(loss)

    def segment_made(self, block: int) -> None:
        """Right before its clients get it."""
        now = self._live.shared.now_ms()
        if self.loss and block >= self.loss.first_block:
            self._tell_done(self.loss, block, now)
        self._last_segment_ms = now
        self.was_active = True

    def _note(self, what: str, lost: StreamLost | None, block: int) -> Loss:
        if lost:
            log.warning("stream lost", what=what, reason=str(lost), block=block)
        else:
            log.info("stream moves", what=what, block=block)
        if lost and lost.error and lost.error.code.name in FATAL:
            raise SessionOver(session_pb2.END_REASON_FAILED, lost.error.status)
        loss = self.loss or Loss(block, self._live.shared.now_ms())
        loss.first_block = max(loss.first_block, block)
        return loss

    def _tell(self, loss: Loss) -> None:
        if not self.was_active or self.loss:
            return
        self.loss = loss
        start = views.timestamp(loss.start_ms)
        started = Response.RecoveryStarted(cause=loss.cause, start_time=start)
        self._live.publish(Response(recovery_started=started))
        self._live.wakeup.fire()

    def _tell_done(self, loss: Loss, block: int, now: int) -> None:
        done = Response.RecoveryDone(
            cause=loss.cause,
            recovery_class=loss.recovery_class,
            epoch=self._live.lease.epoch,
            first_sequence=block + 1,
        )
        if self._last_segment_ms:
            done.gap.FromMilliseconds(max(0, now - self._last_segment_ms))
        self.loss = None
        self._live.shared.metrics.recovered(done)
        log.info(
            "recovered",
            cause=session_pb2.RecoveryCause.Name(loss.cause),
            recovery_class=session_pb2.RecoveryClass.Name(loss.recovery_class),
            gap_ms=done.gap.ToMilliseconds(),
            block=block,
        )
        self._live.publish(Response(recovery_done=done))


def is_planned(lost: StreamLost | None) -> bool:
    """It moves, or its machine's drain ended before it could."""
    return lost is None or (lost.error is not None and lost.error.reason == "DRAINING")
