"""The decoder's state in the words of the contract."""

from collections.abc import Hashable

from cascade.v1 import common_pb2, decoder_pb2
from cascade_core.config import ModelCard
from services.common.drain import Drain
from services.common.durations import to_duration
from services.common.gpus import GpuWatch
from services.common.health import Heartbeat
from services.common.server_info import server_info
from services.decoder.dispatcher import Dispatcher, State
from services.decoder.settings import DecoderSettings

MAX_MESSAGE_CHARS = 512
READY = common_pb2.SERVING_STATE_READY
UNHEALTHY = common_pb2.SERVING_STATE_UNHEALTHY
DRAINING = common_pb2.SERVING_STATE_DRAINING
QUARANTINED = common_pb2.SERVING_STATE_QUARANTINED


class Reporter:
    """Puts a DecoderStatus together."""

    def __init__(
        self,
        card: ModelCard,
        settings: DecoderSettings,
        dispatcher: Dispatcher,
        progress: Heartbeat,
        gpus: GpuWatch,
    ) -> None:
        self._card = card
        self._settings = settings
        self._dispatcher = dispatcher
        self._progress = progress
        self._gpus = gpus
        self._server = server_info()

    def complaint(self) -> str | None:
        """Why it takes no sessions, drain apart; a health Condition."""
        if quarantine := self._gpus.quarantine():
            return quarantine
        if self._dispatcher.state != READY:
            return self._dispatcher.message
        return self._gpus.complaint() or self._progress.complaint()

    def status(self, drain: Drain, num_streams: int) -> decoder_pb2.DecoderStatus:
        """As of now."""
        worker = self._dispatcher
        has_nvenc = worker.ready is not None and worker.ready.has_nvenc
        software, nvenc = common_pb2.VIDEO_ENCODER_SOFTWARE, common_pb2.VIDEO_ENCODER_NVENC
        return decoder_pb2.DecoderStatus(
            server=self._server,
            state=self.state(drain),
            message=self._message(drain)[:MAX_MESSAGE_CHARS],
            max_sessions=worker.max_sessions,
            num_sessions=worker.num_sessions,
            models=[self._card.name],
            codecs=[common_pb2.VIDEO_CODEC_H264],
            encoders=[software, nvenc] if has_nvenc else [software],
            warmup_blocks=self._settings.num_warmup_blocks(self._card),
            num_pending_blocks=worker.num_pending,
            last_block_time=to_duration(worker.last_block_s),
            num_restarts=worker.num_restarts,
            accelerators=self._gpus.accelerators(),
            drain=drain.status(num_streams),
            can_encode=worker.ready is not None and worker.ready.can_encode,
        )

    def _message(self, drain: Drain) -> str:
        if drain.begun.is_set() and not self._gpus.quarantine():
            return drain.reason
        return self.complaint() or ""

    def state(self, drain: Drain) -> State:
        """As of now; from any thread."""
        if self._gpus.quarantine():
            return QUARANTINED
        if drain.begun.is_set():
            return DRAINING
        is_distrusted = self._dispatcher.state == READY and self.complaint()
        return UNHEALTHY if is_distrusted else self._dispatcher.state


def change_of(status: decoder_pb2.DecoderStatus) -> Hashable:
    """What makes two reports differ: not what goes on by itself, which is as new as the report it stands
    in."""
    return (
        status.state,
        "" if status.state == UNHEALTHY else status.message,  # it counts seconds
        status.max_sessions,
        status.num_sessions,
        len(status.encoders),
        status.can_encode,
        status.num_pending_blocks,
        status.last_block_time.ToNanoseconds(),
        status.num_restarts,
        status.HasField("drain"),
        status.drain.num_sessions,
        status.drain.reason,
        tuple(gpu.fault for gpu in status.accelerators),
    )
