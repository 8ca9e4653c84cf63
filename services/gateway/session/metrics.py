"""What the gateway counts and times, for Prometheus; the chart's dashboard and alerts use these names."""

import time

from prometheus_client import CollectorRegistry, Counter, Histogram

from cascade.v1 import session_pb2, stage_pb2
from services.gateway.journal import Prompt, Record
from services.gateway.peers.made import MadeSegment

WAITS_S = (0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 30, 60, 120, 300, 600)
FRACTIONS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
LEADS_S = (0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)


class GatewayMetrics:
    """Once per registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.first_segment = Histogram(
            "cascade_first_segment_seconds",
            "From the creation of a session to its first segment, the queue included.",
            buckets=WAITS_S,
            registry=registry,
        )
        self.start_seconds = Histogram(
            "cascade_start_seconds",
            "Until a decoder has encoded the picture or clip that a session begins from.",
            buckets=WAITS_S,
            registry=registry,
        )
        self.prompt_applied_seconds = Histogram(
            "cascade_prompt_applied_seconds",
            "From accepting a switch to its taking effect at the stage.",
            buckets=FRACTIONS_S,
            registry=registry,
        )
        self.prompt_picture_seconds = Histogram(
            "cascade_prompt_picture_seconds",
            "From accepting a switch to the first segment that it changes.",
            buckets=FRACTIONS_S,
            registry=registry,
        )
        self.gap = Histogram(
            "cascade_recovery_gap_seconds",
            "Between the last segment before a loss and the first after it.",
            ("cause", "recovery_class"),
            buckets=WAITS_S,
            registry=registry,
        )
        self.blocks = Counter("cascade_blocks", "Latent blocks from stages.", registry=registry)
        self.segments = Counter("cascade_segments", "Blocks that became segments.", registry=registry)
        self.frames = Counter("cascade_frames", "Pictures delivered to sessions.", registry=registry)
        self.segment_bytes = Counter("cascade_segment_bytes", "Bytes of segments made.", registry=registry)
        self.block_seconds = Histogram(
            "cascade_block_seconds",
            "A block's time at the stage, waiting for credit included.",
            buckets=FRACTIONS_S,
            registry=registry,
        )
        self.decode_seconds = Histogram(
            "cascade_decode_seconds",
            "A block's time at the decoder, waiting included.",
            buckets=FRACTIONS_S,
            registry=registry,
        )
        self.lateness = Histogram(
            "cascade_segment_lateness_seconds",
            "How long after the end of the one before a segment was made.",
            buckets=FRACTIONS_S,
            registry=registry,
        )
        self.lead = Histogram(
            "cascade_lead_seconds",
            "How long before its playing a block was asked for, where the controller tells what it plays.",
            buckets=LEADS_S,
            registry=registry,
        )
        self.made_ahead = Histogram(
            "cascade_made_ahead_seconds",
            "Video made and not played when a segment was made, where the controller tells what it plays.",
            buckets=LEADS_S,
            registry=registry,
        )
        self.player_stalls = Counter(
            "cascade_player_stalls",
            "Times that a controller told that its picture stood still for want of video.",
            registry=registry,
        )
        self.ended = Counter("cascade_sessions_ended", "Sessions that ended.", ("reason",), registry=registry)
        for reason, _ in session_pb2.EndReason.items()[1:]:
            self.ended.labels(
                end_word(reason)
            )  # from 0 on: an alert does not see a counter that begins with 1
        self._due: dict[str, float] = {}

    def block_made(self, block: stage_pb2.GenerateResponse.Block) -> None:
        self.blocks.inc()
        self.block_seconds.observe(block.latency.ToMilliseconds() / 1000)

    def segment_made(
        self,
        record: Record,
        segments: list[MadeSegment],
        now_ms: int,
        *,
        is_first: bool,
    ) -> None:
        """One block, in every profile. `now_ms`: by the clock of all gateways."""
        said, session = segments[0].said, record.session
        media = said.media
        self.segments.inc()
        self.frames.inc(media.num_frames)
        self.segment_bytes.inc(sum(segment.num_bytes for segment in segments))
        spent = (said.queue_time, said.decode_time, said.encode_time)
        self.decode_seconds.observe(sum(part.ToMilliseconds() for part in spent) / 1000)
        now, length_s = time.monotonic(), media.duration.ToMilliseconds() / 1000
        if is_first:
            self.first_segment.observe((now_ms - record.created_ms) / 1000)
        due_s = self._due.get(session, now)
        self.lateness.observe(max(0.0, now - due_s))
        self._due[session] = max(due_s, now) + length_s
        self._observe_switches(record, media.block, now_ms)

    def player_stalled(self) -> None:
        self.player_stalls.inc()

    def prompt_applied(self, prompt: Prompt) -> None:
        if not prompt.is_created and prompt.applied_ms is not None:
            self.prompt_applied_seconds.observe((prompt.applied_ms - prompt.accepted_ms) / 1000)

    def recovered(self, done: session_pb2.ConnectResponse.RecoveryDone) -> None:
        cause = session_pb2.RecoveryCause.Name(done.cause).removeprefix("RECOVERY_CAUSE_").lower()
        kind = session_pb2.RecoveryClass.Name(done.recovery_class).removeprefix("RECOVERY_CLASS_").lower()
        self.gap.labels(cause, kind).observe(done.gap.ToMilliseconds() / 1000)

    def session_ended(self, session: str, reason: "session_pb2.EndReason.ValueType") -> None:
        self.ended.labels(end_word(session_pb2.EndReason.Name(reason))).inc()
        self._due.pop(session, None)

    def forget(self, session: str) -> None:
        """Another gateway has it."""
        self._due.pop(session, None)

    def _observe_switches(self, record: Record, block: int, now_ms: int) -> None:
        for prompt in record.prompts[-8:]:
            if prompt.first_block_touched == block and not prompt.is_created:
                self.prompt_picture_seconds.observe((now_ms - prompt.accepted_ms) / 1000)


def end_word(reason: str) -> str:
    """As label values are written."""
    return reason.removeprefix("END_REASON_").lower()
