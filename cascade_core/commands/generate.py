"""One video from prompts: the engine, the decoding process, and what they measured."""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from cascade_core.commands.begin_from import BeginningOptions
from cascade_core.commands.beginning import Beginning, begin, check_beginning
from cascade_core.config import (
    EngineConfig,
    ModelCard,
    SwitchMode,
    check_engine,
    find_card,
    uses_random_weights,
)
from cascade_core.engine.engine import Engine
from cascade_core.engine.session import (
    MAX_UNREAD_EVENTS,
    BlockTiming,
    Ended,
    Event,
    LatentBlock,
    PromptApplied,
)
from cascade_core.errors import CascadeError, InvalidConfig
from cascade_core.loras import Choices
from cascade_core.machine import machine
from cascade_core.media.decoding import DecodeJob, Decoding
from cascade_core.media.media import partial_path
from cascade_core.media.piped import STANDARD_OUTPUT, is_piped
from cascade_core.prompts import Prompt, Transition, readable
from cascade_core.ranks.group import in_daemon_thread
from cascade_core.request import SessionRequest, check_request, with_defaults
from cascade_core.weights.locate import locate_part

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerateOptions:
    """One run of `cascade-engine generate`."""

    engine: EngineConfig
    prompt: Prompt
    num_blocks: int
    output: Path | None = None
    """MP4; None: latents only."""
    latents: Path | None = None
    """safetensors with `latents` [blocks, F, C, h, w]."""
    json: Path | None = None
    """The measured figures."""
    switches: Mapping[int, Prompt] = field(default_factory=dict)
    """Block at whose start the prompt changes."""
    transition: Transition | None = None
    """How these take over; None: at once, as `switch_mode` has it."""
    switch_mode: SwitchMode = "immediate"
    loras: Choices = ()
    """From the first block to the last."""
    seed: int = 0
    width: int = 0
    height: int = 0
    decoder: Literal["vae", "taehv"] = "vae"
    beginning: BeginningOptions | None = None
    """What it goes on from; needs an `output`."""
    decoder_weights: Path | None = None
    """VAE folder or `.pth`, or TAEHV file; None: the VAE beside the model's weights."""


@dataclass(frozen=True)
class Progress:
    """How far it is: told when the session opens, and after each block."""

    num_blocks: int
    num_frames: int
    elapsed_s: float
    """Since the session opened."""


async def generate(
    options: GenerateOptions,
    report: Callable[[Progress], None],
    warn: Callable[[str], None] = log.warning,
) -> dict[str, Any]:
    """Generate a video; returns the measured figures. Raises CascadeError; nothing is left running.

    `warn` gets a sentence for each prompt with words that the model does not know.
    """
    card = find_card(options.engine.model)
    check_options(options, card)
    cores = os.cpu_count() or 1
    config = share_cores(options.engine, cores) if options.output else options.engine
    weights = await in_daemon_thread(partial(locate_decoder, options, card))  # may download
    run = Run(card, keeps_latents=options.latents is not None)
    async with await Engine.start(config) as engine:
        job = decode_job(options, card, weights, engine.status.device, cores)
        async with Decoding(job) if job else nullcontext() as decoding:
            request = session_request(options)
            run.beginning = await begin(options.beginning, request, engine, decoding)
            if options.beginning:
                request = run.beginning.behind(request, engine)
            session = await engine.open(request)
            run.opened_s = time.monotonic()
            run.unknown_words = {
                readable(session.request.prompts[block]): words
                for block, words in session.unknown_words.items()
            }
            for prompt, words in run.unknown_words.items():
                warn(unknown_words_warning(prompt, words))
            report(run.progress())
            async for event in session:
                run.note(event)
                if isinstance(event, LatentBlock):
                    if decoding:
                        await decoding.append(event.latents)
                    report(run.progress())
            if decoding:
                await decoding.finish()
            run.written_s = time.monotonic()
    figures = run.figures(options, config)
    if options.latents:
        tensors = {"latents": torch.stack(run.latents)}
        write(options.latents, lambda place: save_file(tensors, place))
    if options.json:
        text = json.dumps(figures, indent=2) + "\n"
        write(options.json, lambda place: place.write_text(text))
    return figures


@dataclass
class Run:
    """What one generation produced and when."""

    card: ModelCard
    keeps_latents: bool = False
    latents: list[Tensor] = field(default_factory=list)
    timings: list[BlockTiming] = field(default_factory=list)
    receipts: list[PromptApplied] = field(default_factory=list)
    unknown_words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By prompt."""
    num_frames: int = 0
    num_unthrottled: int = 0
    """Blocks among the first MAX_UNREAD_EVENTS events."""
    opened_s: float = 0.0
    written_s: float = 0.0
    """When the last block's frames were in the complete file."""
    end_reason: str = ""
    beginning: Beginning = field(default_factory=Beginning)

    def note(self, event: Event) -> None:
        match event:
            case LatentBlock():
                if self.keeps_latents:
                    self.latents.append(event.latents)
                self.timings.append(event.timing)
                self.num_frames += self.card.num_frames(event.index)
                if len(self.timings) + len(self.receipts) <= MAX_UNREAD_EVENTS:
                    self.num_unthrottled += 1
            case PromptApplied():
                self.receipts.append(self.beginning.receipt(event))
            case Ended():
                self.end_reason = event.reason

    def progress(self) -> Progress:
        num_shown = self.beginning.num_blocks - self.beginning.num_hidden
        return Progress(num_shown + len(self.timings), self.num_frames, time.monotonic() - self.opened_s)

    def figures(self, options: GenerateOptions, config: EngineConfig) -> dict[str, Any]:
        """For `--json`.

        fps_denoise: frames over the time from opening the session until their blocks were clean. With an
        MP4 only over the blocks of the first MAX_UNREAD_EVENTS events: later ones may have waited for the
        decoder. On the CPU the decoder takes its share of the cores even there.
        fps_with_decode: all frames over the time from opening the session to the complete file.
        """
        counted = self.num_unthrottled if options.output else len(self.timings)
        first = self.beginning.num_blocks
        counted_frames = sum(self.card.num_frames(first + block) for block in range(counted))
        denoise_s = self.timings[counted - 1].finished_s - self.opened_s
        decode_s = self.written_s - self.opened_s
        return {
            "model": self.card.name,
            "random_weights": uses_random_weights(config, self.card),
            "num_blocks": len(self.timings),
            "num_frames": self.num_frames,
            "end_reason": self.end_reason,
            "fps_denoise": round(counted_frames / denoise_s, 2),
            "fps_with_decode": round(self.num_frames / decode_s, 2) if options.output else None,
            "first_block_s": round(self.timings[0].finished_s - self.opened_s, 4),
            "block_latency_s": [round(timing.latency_s, 4) for timing in self.timings],
            "tick_s": [round(timing.tick_s, 4) for timing in self.timings],
            "unknown_words": dict(self.unknown_words),
            "prompt_switches": [asdict(receipt) for receipt in self.receipts],
            "engine": asdict(config),
            "seed": options.seed,
            "machine": machine(),
        }


def unknown_words_warning(prompt: str, words: Sequence[str]) -> str:
    names = ", ".join(f'"{word}"' for word in words)
    return f'prompt "{prompt}": the model does not know {names}, which it ignores'


def decode_threads(cores: int) -> int:
    """Decoding takes about as long as denoising, so it gets half of the cores."""
    return max(1, cores // 2)


def share_cores(config: EngineConfig, cores: int) -> EngineConfig:
    """Leave the decoding process its cores: more threads than cores slow both down."""
    if config.threads_per_rank is not None:
        return config
    return replace(config, threads_per_rank=max(1, (cores - decode_threads(cores)) // config.num_ranks))


def session_request(options: GenerateOptions) -> SessionRequest:
    """The whole prompt timeline is known from the start."""
    gradual = options.transition
    return SessionRequest(
        prompts={**options.switches, 0: options.prompt},
        transitions=dict.fromkeys(options.switches, gradual) if gradual else {},
        seed=options.seed,
        width=options.width,
        height=options.height,
        num_blocks=options.num_blocks,
        switch_mode=options.switch_mode,
        loras={0: options.loras},
    )


def locate_decoder(options: GenerateOptions, card: ModelCard) -> Path | None:
    """The decoder's weights; None: random, or no video is wanted. May download; raises WeightsError."""
    if options.output is None or options.decoder_weights or uses_random_weights(options.engine, card):
        return options.decoder_weights
    return locate_part(card, options.engine.weights, "vae")


def decode_job(
    options: GenerateOptions, card: ModelCard, weights: Path | None, device: str, cores: int
) -> DecodeJob | None:
    """How the video is decoded; None where only latents are wanted."""
    if options.output is None:
        return None
    return DecodeJob(
        card=card,
        decoder=options.decoder,
        weights=weights,
        output=options.output,
        width=options.width or card.video.width,
        height=options.height or card.video.height,
        device=device.partition(":")[0],
        threads=decode_threads(cores),
    )


def check_options(options: GenerateOptions, card: ModelCard) -> None:
    """Fail before the model is loaded, not after."""
    check_engine(options.engine, card)
    request = with_defaults(session_request(options), options.engine, card)
    check_request(request, options.engine, card)
    late = [block for block in options.switches if not 0 < block < options.num_blocks]
    if late:
        raise InvalidConfig(f"--switch: block {late[0]} is not in 1..{options.num_blocks - 1}")
    check_outputs({"-o": options.output, "--latents": options.latents, "--json": options.json})
    if options.output is None and options.latents is None:
        raise InvalidConfig("give an output: -o VIDEO.mp4, --latents FILE.safetensors, or both")
    if options.output:
        check_decoder(options, card)
    if options.beginning:
        check_beginning(options.beginning, card, options.decoder, options.output)


def check_outputs(paths: Mapping[str, Path | None]) -> None:
    """By flag: every file can be written, and no two are the same."""
    flags: dict[str, str] = {}
    for flag, path in paths.items():
        if path is None:
            continue
        if not os.path.isdir(path.parent):  # unlike Path.is_dir, no error for a name that is too long
            raise InvalidConfig(f"{flag} {path}: the folder {path.parent} does not exist")
        if os.path.isdir(path):
            raise InvalidConfig(f"{flag} {path}: is a folder")
        if not os.access(path.parent, os.W_OK) and not is_piped(path):
            raise InvalidConfig(f"{flag} {path}: the folder {path.parent} cannot be written")
        if (other := flags.setdefault(os.path.realpath(path), flag)) != flag:
            raise InvalidConfig(f"{flag} {path}: {other} names the same file")


def check_decoder(options: GenerateOptions, card: ModelCard) -> None:
    """What can be known of the decoder's weights without the network."""
    weights = options.decoder_weights
    if weights and not os.path.exists(weights):
        raise InvalidConfig(f"--decoder-weights {weights}: no such file or folder")
    if options.decoder == "taehv" and not weights and not uses_random_weights(options.engine, card):
        raise InvalidConfig("--decoder taehv needs --decoder-weights, the path of taew2_1's weights")


def pour(path: Path, write_to: Callable[[Path], object]) -> None:
    """Write to a pipe or a device, where nobody can rename or go back. Raises CascadeError."""
    try:
        with TemporaryDirectory() as folder:
            write_to(whole := Path(folder) / "whole")
            into = os.dup(1) if path == STANDARD_OUTPUT else path
            with open(into, "wb") as file, whole.open("rb") as source:
                shutil.copyfileobj(source, file)
    except (OSError, SafetensorError) as error:
        raise CascadeError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None


def write(path: Path, write_to: Callable[[Path], object]) -> None:
    """Write in one step, so that no half file stays behind. Raises CascadeError."""
    if is_piped(path):
        pour(path, write_to)
        return
    unfinished = partial_path(path, os.getpid())
    try:
        write_to(unfinished)
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        raise CascadeError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None
    finally:
        with suppress(OSError):  # a name that is too long cannot even be looked for
            unfinished.unlink()
