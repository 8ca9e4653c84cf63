"""What a decoder counts, on the server's registry."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.decoder.messages import BlockEncoded

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 2, 5, 10, 30)


class DecoderMetrics:
    """Once per registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"cascade_decoder_{name}", text, buckets=BUCKETS_S, registry=registry)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"cascade_decoder_{name}", text, registry=registry)

        self.blocks = counter("blocks", "Blocks that became segments.")
        self.warmup_blocks = counter("warmup_blocks", "Blocks decoded for the memory alone.")
        self.frames = counter("frames", "Pictures encoded, each once for all profiles.")
        self.latent_bytes = counter("latent_bytes", "Latents taken in.")
        self.latents_made = counter("latents_made", "Latent frames made of pictures that videos begin from.")
        self.files = counter("files", "Pictures and clips to begin from that were looked at.")
        self.files_refused = counter("files_refused", "Pictures and clips to begin from that cannot be used.")
        self.media_bytes = counter("media_bytes", "Segments made, all profiles.")
        self.restarts = counter("restarts", "Starts of the worker process after the first.")
        self.sessions_lost = counter("sessions_lost", "Sessions ended by the loss of the worker.")
        self.queue_seconds = histogram("queue_seconds", "From a block's arrival to its decoding.")
        self.decode_seconds = histogram("decode_seconds", "Latents of a block to pictures.")
        self.encode_seconds = histogram("encode_seconds", "Pictures of a block to media, one profile.")
        self.sessions = Gauge("cascade_decoder_sessions", "Sessions open now.", registry=registry)
        self.pending = Gauge("cascade_decoder_pending_blocks", "Blocks that wait now.", registry=registry)

    def note(self, block: BlockEncoded) -> None:
        self.blocks.inc()
        self.frames.inc(block.num_frames)
        self.queue_seconds.observe(block.queue_s)
        self.decode_seconds.observe(block.decode_s)
        for piece in block.pieces:
            self.encode_seconds.observe(piece.encode_s)
            self.media_bytes.inc(len(piece.data))
