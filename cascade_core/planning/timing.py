"""How long a GPU takes for a pass: its data sheet, how much of that is reached, and what a pass needs."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from cascade_core.config import ModelCard
from cascade_core.planning.counts import View, attention_flop, product_flop
from cascade_core.planning.gpus import Architecture, DataSheet
from cascade_core.planning.low_rank import Loras
from cascade_core.planning.traces import Overheads, find_decoder

PRODUCTS = 0.7
"""Part of the data sheet's throughput that large matrix products reach. Assumed: no published figure tells
products from attention."""
ATTENTION = 0.494
"""The same of attention, always in bfloat16. Fixed by FlashDreams' 344 ms on an H100."""
COPIES = 0.8
"""Part of the data sheet's bandwidth that element-wise kernels, and gathers over links, reach. Assumed."""
KERNEL_US = 11.2
"""What each kernel adds to a pass beyond its work. Fixed by LongLive's 20.7 FPS."""
OF_ARCHITECTURE: dict[Architecture, float] = {"hopper": 1.0, "blackwell": 0.645, "ada": 1.0}
"""Part of the above that products and attention reach on GPUs of this kind. Blackwell's is fixed by
FlashDreams' 203 ms on a GB200; of Ada nothing is published."""
CONVOLUTIONS = 0.1
"""Part of the data sheet's throughput that decoders reach. Fixed by 400 ms that the Wan VAE takes for 12
pictures of 832x480 in public reports, taken to be of an H100."""
PICTURES = 4
"""Of a latent frame, but the first."""


@dataclass(frozen=True)
class Parts:
    """Milliseconds of one rank's tick, by what takes them."""

    products: float = 0.0
    attention: float = 0.0
    elementwise: float = 0.0
    launches: float = 0.0
    gather: float = 0.0
    """Waiting for keys and values of the other ranks, beyond the attention that hides it."""

    @property
    def total(self) -> float:
        return sum(float(getattr(self, field.name)) for field in fields(self))


@dataclass(frozen=True)
class Roofline:
    """One model on one kind of GPU."""

    card: ModelCard
    gpu: DataSheet
    tokens: int
    """Of a block."""
    overheads: Overheads
    fp8: bool = False
    """Products in FP8, as the overheads are."""
    loras: Loras = field(default_factory=Loras)
    """Whose products stay in bfloat16."""

    def rank_parts(self, views: Sequence[View], is_joint: bool, received_bytes: float) -> Parts:
        """Of a rank that makes one pass of each of these blocks; `is_joint`: other blocks are in flight."""
        gpu, reached = self.gpu, OF_ARCHITECTURE[self.gpu.architecture]
        gather = max(0.0, received_bytes / (1e6 * COPIES * gpu.link_gb_s) - self.clean_ms(views))
        if not views:
            return Parts(gather=gather)
        overhead = self.overheads.of_rank(len(views), is_joint)
        moved = overhead.elementwise_bytes
        dims, peak = self.card.transformer, gpu.fp8_tflop_s if self.fp8 else gpu.bf16_tflop_s
        moved += len(views) * self.loras.moved_bytes(dims, self.tokens)
        products = len(views) * product_flop(self.card, self.tokens) / peak
        products += len(views) * self.loras.flop(dims, self.tokens) / gpu.bf16_tflop_s
        return Parts(
            products=products / (1e9 * PRODUCTS * reached),
            attention=sum(self._attention_ms(view.blocks) for view in views),
            elementwise=moved / (1e6 * COPIES * gpu.memory_gb_s),
            launches=(overhead.num_kernels + self.loras.num_kernels(dims)) * KERNEL_US / 1e3,
            gather=gather,
        )

    def clean_ms(self, views: Sequence[View]) -> float:
        """What a gather can hide behind."""
        return sum(self._attention_ms(view.clean, text=False) for view in views)

    def _attention_ms(self, num_blocks: float, text: bool = True) -> float:
        reached = ATTENTION * OF_ARCHITECTURE[self.gpu.architecture]
        flop = attention_flop(self.card, self.tokens, num_blocks, text)
        return flop / (1e9 * reached * self.gpu.bf16_tflop_s)


def decode_ms(decoder: str, card: ModelCard, gpu: DataSheet, height: int, width: int) -> float | None:
    """Of one latent frame, by `vae` or `taehv`; None: the card's VAE was not traced."""
    trace = find_decoder(decoder, card)
    if trace is None:
        return None
    flop = trace.flop * height * width / trace.pixels
    return flop / (1e9 * CONVOLUTIONS * OF_ARCHITECTURE[gpu.architecture] * gpu.bf16_tflop_s)
