"""What a video of `cascade-engine generate` goes on from: a file, its latents, the request behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from cascade_core.commands.begin_from import BeginningOptions
from cascade_core.config import ModelCard
from cascade_core.engine.engine import Engine
from cascade_core.engine.session import PromptApplied
from cascade_core.errors import InvalidConfig
from cascade_core.media.decoding import Decoding
from cascade_core.media.start.start_file import StartFile, StartShape
from cascade_core.request import SessionRequest

T = TypeVar("T")
MAX_BLOCKS = 64
"""Of a clip that is part of the video."""


@dataclass(frozen=True)
class Beginning:
    """The latents of it."""

    blocks: Sequence[Tensor] = ()
    """Of a clip [F, C, h, w] each; of a picture that is the first [1, C, h, w]."""
    is_first_frame: bool = False
    is_shown: bool = False

    @property
    def num_blocks(self) -> int:
        """Blocks before the first that is made."""
        return 0 if self.is_first_frame else len(self.blocks)

    @property
    def num_hidden(self) -> int:
        """Of those, blocks that the video does not have."""
        return 0 if self.is_shown else self.num_blocks

    def behind(self, request: SessionRequest, engine: Engine) -> SessionRequest:
        """The request, to be made after it. Raises InvalidConfig."""
        if self.is_first_frame:
            return replace(request, first_frame=self.blocks[0])
        first = self.num_blocks
        num_blocks = (request.num_blocks or 0) - (first - self.num_hidden)
        if num_blocks < 1:
            raise InvalidConfig(f"--blocks: must be above {first}, the blocks of the clip that is shown")
        return replace(
            request,
            prompts=self._moved(request.prompts),
            transitions=self._moved(request.transitions),
            loras=self._moved(request.loras),
            start_block=first,
            context={block: self.blocks[block] for block in engine.context_blocks(first)},
            num_blocks=num_blocks,
        )

    def receipt(self, applied: PromptApplied) -> PromptApplied:
        """In the video's numbers."""
        touched, full = (
            max(0, block - self.num_hidden)
            for block in (applied.first_block_touched, applied.first_block_full)
        )
        return replace(applied, first_block_touched=touched, first_block_full=full)

    def _moved(self, by_block: Mapping[int, T]) -> dict[int, T]:
        """The first prompt rules the clip, too."""
        return {block + self.num_hidden if block else 0: value for block, value in by_block.items()}


async def begin(
    options: BeginningOptions | None, request: SessionRequest, engine: Engine, decoding: Decoding | None
) -> Beginning:
    """Encoded by the process that decodes, and put before its first block. Raises UnusableFile and
    InvalidConfig."""
    if options is None:
        return Beginning()
    assert decoding, "check_beginning asks for a video"
    card, window = engine.card, engine.shape.window
    looks_back = window.sink_blocks + window.window_blocks
    shape = StartShape(
        request.width or card.video.width,
        request.height or card.video.height,
        Fraction(card.video.fps).limit_denominator(1001),
        window.block_frames,
        MAX_BLOCKS if options.is_shown else max(1, min(looks_back, MAX_BLOCKS)),
    )
    file = StartFile(options.kind, read(options), options.fit, options.last_s)
    is_first_frame = options.kind == "image" and card.image_start == "first_frame"
    blocks = await decoding.encode(file, shape, 0 if is_first_frame else card.still_blocks)
    beginning = Beginning(blocks, is_first_frame, options.is_shown and not is_first_frame)
    for block in () if is_first_frame else blocks:
        await decoding.append(block, is_shown=beginning.is_shown)
    return beginning


def check_beginning(options: BeginningOptions, card: ModelCard, decoder: str, output: Path | None) -> None:
    """Raise InvalidConfig."""
    flag = f"--{options.kind}"
    if not options.path.is_file():
        raise InvalidConfig(f"{flag} {options.path}: no such file")
    if output is None:
        raise InvalidConfig(f"{flag}: needs -o VIDEO.mp4, whose process encodes it")
    if decoder == "taehv":
        raise InvalidConfig(f"{flag}: --decoder taehv cannot encode; leave it out")


def read(options: BeginningOptions) -> bytes:
    try:
        return options.path.read_bytes()
    except OSError as error:
        raise InvalidConfig(f"--{options.kind} {options.path}: {error.strerror}") from None
