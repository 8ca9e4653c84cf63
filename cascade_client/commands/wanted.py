"""What one video is to be: its length, and its prompts by block."""

import math
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field

from cascade.v1 import common_pb2, session_pb2
from cascade_client.commands.arguments import Change, Over
from cascade_client.console import CommandFailed
from cascade_client.prompts import MAX_TRANSITION_BLOCKS, Interpolation, Prompt, Transition
from cascade_client.session import FIRST_BLOCK_SHORT
from cascade_client.start import file_bytes

DEFAULT_SECONDS = 20.0
MAX_LORAS = 3


@dataclass(frozen=True)
class Wanted:
    """What the person asked for, as far as it can be told in blocks."""

    prompts: dict[int, Prompt]
    num_blocks: int | None
    """None: nobody has the model yet, so the session is ended after `seconds`."""
    seconds: float | None
    """None: counted in blocks."""
    later: Sequence[Change] = field(default=())
    """Those that wait until the length of a block is known."""
    over: Over | None = None
    """How long later prompts take over; None: at once."""
    interpolation: Interpolation = "linear"

    def transition(self, fps: float, block_frames: int) -> Transition | None:
        """Of each later prompt, in blocks. Raises CommandFailed."""
        if self.over is None:
            return None
        block_s = 4 * block_frames / fps if fps else 0.0
        num_blocks = self.over.num_blocks or max(1, round((self.over.seconds or 0.0) / block_s))
        if num_blocks > MAX_TRANSITION_BLOCKS:
            raise CommandFailed(f"--over: {self.over} is longer than {MAX_TRANSITION_BLOCKS} blocks")
        return Transition(num_blocks, self.interpolation)


def check(options: Namespace) -> None:
    """What needs no gateway. Raises CommandFailed."""
    check_start(options)
    seconds = None if options.blocks else options.seconds or DEFAULT_SECONDS
    for change in options.at:
        if seconds and change.seconds and change.seconds >= seconds:
            raise CommandFailed(
                f"--at: {change.seconds:g} s is after the end, {seconds:g} s: raise --seconds"
            )
    timeline([change for change in options.at if change.block is not None], options.prompt, options.blocks)
    if options.over and not options.at:
        raise CommandFailed("--over: needs a later prompt, given by --at")
    check_over(options)
    check_loras(options)


def check_loras(options: Namespace) -> None:
    """Raises CommandFailed."""
    if len(options.lora) > MAX_LORAS:
        raise CommandFailed(f"--lora: at most {MAX_LORAS} at a time")
    if len({name for name, _ in options.lora}) < len(options.lora):
        raise CommandFailed("--lora: each one once")


def check_over(options: Namespace) -> None:
    """Raises CommandFailed."""
    if options.interpolation and not options.over:
        raise CommandFailed("--interpolation: needs --over")
    if options.over and (options.over.num_blocks or 0) > MAX_TRANSITION_BLOCKS:
        raise CommandFailed(f"--over: {options.over} is longer than {MAX_TRANSITION_BLOCKS} blocks")


def check_start(options: Namespace) -> None:
    """Reads the file. Raises CommandFailed."""
    for name in ("image", "video"):
        try:
            if path := getattr(options, name):
                setattr(options, name, file_bytes(name, path))
        except ValueError as error:
            raise CommandFailed(f"--{error}") from None
        except OSError as error:
            raise CommandFailed(f"cannot read --{name} {path}: {error.strerror or error}") from None
    if options.last and not options.video:
        raise CommandFailed("--last: needs --video")
    for flag, is_given in (("--fit", options.fit), ("--include-start", options.include_start)):
        if is_given and not (options.image or options.video):
            raise CommandFailed(f"{flag}: needs --image or --video")


def check_choice(options: Namespace, model: session_pb2.Model | None) -> None:
    """A gateway of a former release would take no notice; others check it. Raises CommandFailed."""
    asked = {"--stagger": options.stagger, "--inflight-attention": options.inflight_attention}
    for flag, value in asked.items():
        if value and model and not model.staggers:
            raise CommandFailed(f"{flag}: the stages of {model.name} leave no choice here")
    listed = [lora.name for lora in model.loras] if model else []
    for name, _ in options.lora if model else ():
        if name not in listed:
            known = (
                f"is not one of {', '.join(listed)}" if listed else "is not listed: no stage here lists any"
            )
            raise CommandFailed(f"--lora: {name} {known}")
    if (options.image or options.video) and model and not model.image_start:
        flag = "--image" if options.image else "--video"
        raise CommandFailed(f"{flag}: this gateway, or its stages, cannot begin from a file")
    if options.over and model and not model.max_transition_blocks:
        raise CommandFailed(f"--over: the stages of {model.name} are of a former release")


def plan(options: Namespace, model: session_pb2.Model | None) -> Wanted:
    """In blocks, where the model is known. Raises CommandFailed."""
    seconds = None if options.blocks else options.seconds or DEFAULT_SECONDS
    if model is None:
        waits = bool(options.over and options.over.seconds)
        now = [change for change in options.at if change.block is not None and not waits]
        later = [change for change in options.at if change.block is None or waits]
        prompts = timeline(now, options.prompt, options.blocks)
        return Wanted(prompts, options.blocks, seconds, later, options.over, way(options))
    scale = Scale(model, num_missing_frames(options, model))
    num_blocks = options.blocks or math.ceil(scale.blocks_until(seconds or 0.0) - 1e-6)
    changes = [in_blocks(change, num_blocks, scale) for change in options.at]
    prompts = timeline(changes, options.prompt, num_blocks)
    return Wanted(prompts, num_blocks, seconds, (), options.over, way(options))


def way(options: Namespace) -> Interpolation:
    return options.interpolation or "linear"


def timeline(changes: Sequence[Change], first: Prompt, num_blocks: int | None) -> dict[int, Prompt]:
    prompts = {0: first}
    for change in changes:
        block = change.block or 0
        if block in prompts:
            raise CommandFailed(f"--at: block {block} has two prompts")
        if num_blocks and block >= num_blocks:
            raise CommandFailed(f"--at: block {block} is after the last, {num_blocks - 1}")
        prompts[block] = change.prompt
    return prompts


@dataclass(frozen=True)
class Scale:
    """Seconds to blocks."""

    model: session_pb2.Model
    num_missing_frames: int
    """How many pictures block 0 has less than the others."""

    def blocks_until(self, seconds: float) -> float:
        return (seconds * self.model.fps + self.num_missing_frames) / (4 * self.model.block_frames)


def num_missing_frames(options: Namespace, model: session_pb2.Model) -> int:
    """None where it goes on from a clip that is not part of it, and from a picture that stands still."""
    is_clip = options.video or (options.image and model.image_start == common_pb2.IMAGE_START_CLIP)
    return 0 if is_clip and not options.include_start else FIRST_BLOCK_SHORT


def in_blocks(change: Change, num_blocks: int, scale: Scale) -> Change:
    """At the block that starts nearest to its moment."""
    if change.seconds is None:
        return change
    until = scale.blocks_until(change.seconds)
    if until >= num_blocks:
        raise CommandFailed(f"--at: {change.seconds:g} s is after the last block, {num_blocks - 1}")
    return Change(change.prompt, block=min(max(1, round(until)), num_blocks - 1))
