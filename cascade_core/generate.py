"""One video from prompts: the engine, the decoding process, and what they measured."""

import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from cascade_core.config import (
    EngineConfig,
    ModelCard,
    SwitchMode,
    check_engine,
    find_card,
    uses_random_weights,
)
from cascade_core.decoding import DecodeJob, Decoding
from cascade_core.engine import Engine
from cascade_core.errors import CascadeError, InvalidConfig
from cascade_core.locate import locate_part
from cascade_core.machine import machine
from cascade_core.request import SessionRequest, check_request, with_defaults
from cascade_core.schedule import engine_shape
from cascade_core.session import Ended, LatentBlock, PromptApplied


@dataclass(frozen=True)
class GenerateOptions:
    """One run of `cascade-engine generate`."""

    engine: EngineConfig
    prompt: str
    num_blocks: int
    output: Path | None = None
    """MP4; None: latents only."""
    latents: Path | None = None
    """safetensors with `latents` [blocks, F, C, h, w]."""
    switches: dict[int, str] = field(default_factory=dict)
    """Block at whose start the prompt changes."""
    switch_mode: SwitchMode = "immediate"
    seed: int = 0
    width: int = 0
    height: int = 0
    decoder: Literal["vae", "taehv"] = "vae"
    decoder_weights: Path | None = None
    """VAE folder or `.pth`, or TAEHV file; None: the VAE beside the model's weights."""


@dataclass(frozen=True)
class Progress:
    """After each block."""

    num_blocks: int
    num_frames: int
    elapsed_s: float


async def generate(options: GenerateOptions, report: Callable[[Progress], None]) -> dict[str, Any]:
    """Generate a video; returns the measured figures. Raises CascadeError; nothing is left running."""
    card = find_card(options.engine.model)
    check_options(options, card)
    run = Run(card)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(await Engine.start(options.engine))
        job = decode_job(options, card, engine.status.device)
        decoding = await stack.enter_async_context(Decoding(job)) if job else None
        session = await engine.open(session_request(options))
        run.opened_s = time.monotonic()
        async for event in session:
            match event:
                case LatentBlock():
                    run.blocks.append(event)
                    if decoding:
                        await decoding.append(event.latents)
                    report(Progress(len(run.blocks), run.num_frames, time.monotonic() - run.opened_s))
                case PromptApplied():
                    run.receipts.append(event)
                case Ended():
                    run.end_reason = event.reason
    if options.latents:
        save_latents(options.latents, run.blocks)
    return run.figures(options)


@dataclass
class Run:
    """What one generation produced and when."""

    card: ModelCard
    blocks: list[LatentBlock] = field(default_factory=list)
    receipts: list[PromptApplied] = field(default_factory=list)
    opened_s: float = 0.0
    end_reason: str = ""

    @property
    def num_frames(self) -> int:
        return sum(self.card.num_frames(block.index) for block in self.blocks)

    def figures(self, options: GenerateOptions) -> dict[str, Any]:
        """For `--json`. FPS is frames over the time from opening the session to its last block."""
        elapsed_s = time.monotonic() - self.opened_s
        denoise_s = self.blocks[-1].timing.finished_s - self.opened_s
        return {
            "model": self.card.name,
            "random_weights": uses_random_weights(options.engine, self.card),
            "num_blocks": len(self.blocks),
            "num_frames": self.num_frames,
            "end_reason": self.end_reason,
            "fps_denoise": round(self.num_frames / denoise_s, 2),
            "fps_with_decode": round(self.num_frames / elapsed_s, 2) if options.output else None,
            "first_block_s": round(self.blocks[0].timing.finished_s - self.opened_s, 4),
            "block_latency_s": [round(block.timing.latency_s, 4) for block in self.blocks],
            "tick_s": [round(block.timing.tick_s, 4) for block in self.blocks],
            "prompt_switches": [asdict(receipt) for receipt in self.receipts],
            "engine": asdict(options.engine),
            "seed": options.seed,
            "machine": machine(),
        }


def session_request(options: GenerateOptions) -> SessionRequest:
    """The whole prompt timeline is known from the start."""
    return SessionRequest(
        prompts={**options.switches, 0: options.prompt},
        seed=options.seed,
        width=options.width,
        height=options.height,
        num_blocks=options.num_blocks,
        switch_mode=options.switch_mode,
    )


def decode_job(options: GenerateOptions, card: ModelCard, device: str) -> DecodeJob | None:
    """How the video is decoded; None where only latents are wanted."""
    if options.output is None:
        return None
    random = uses_random_weights(options.engine, card) and options.decoder_weights is None
    weights = options.decoder_weights
    if weights is None and not random and options.decoder == "vae":
        weights = locate_part(card, options.engine.weights, "vae")
    if weights is None and not random:
        raise InvalidConfig("--decoder taehv needs --decoder-weights, the path of taew2_1's weights")
    return DecodeJob(
        card=card,
        decoder=options.decoder,
        weights=weights,
        output=options.output,
        width=options.width or card.video.width,
        height=options.height or card.video.height,
        device=device.partition(":")[0],
        threads=max(1, (os.cpu_count() or 2) // 2),
    )


def check_options(options: GenerateOptions, card: ModelCard) -> None:
    """Fail before the model is loaded, not after."""
    check_engine(options.engine, card)
    request = with_defaults(session_request(options), card)
    check_request(request, card, engine_shape(options.engine, card))
    for path in (options.output, options.latents):
        if path and not path.parent.is_dir():
            raise InvalidConfig(f"output {path}: the folder {path.parent} does not exist")
    if options.output is None and options.latents is None:
        raise InvalidConfig("give an output: -o VIDEO.mp4, --latents FILE.safetensors, or both")
    late = [block for block in options.switches if not 0 < block < options.num_blocks]
    if late:
        raise InvalidConfig(f"--switch: block {late[0]} is not in 1..{options.num_blocks - 1}")


def save_latents(path: Path, blocks: list[LatentBlock]) -> None:
    """Write [blocks, F, C, h, w] in one step, so that no half file stays behind."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file({"latents": torch.stack([block.latents for block in blocks])}, partial)
        partial.replace(path)
    except OSError as error:
        raise CascadeError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
