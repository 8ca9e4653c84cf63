"""What one video is to be: its length, and its prompts by block."""

import math
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field

from cascade.v1 import session_pb2
from cascade_client.commands.arguments import Change
from cascade_client.console import CommandFailed
from cascade_client.session import FIRST_BLOCK_SHORT

DEFAULT_SECONDS = 20.0


@dataclass(frozen=True)
class Wanted:
    """What the person asked for, as far as it can be told in blocks."""

    prompts: dict[int, str]
    num_blocks: int | None
    """None: nobody has the model yet, so the session is ended after `seconds`."""
    seconds: float | None
    """None: counted in blocks."""
    later: Sequence[Change] = field(default=())
    """Those that wait until the length of a block is known."""


def check(options: Namespace) -> None:
    """What needs no gateway. Raises CommandFailed."""
    seconds = None if options.blocks else options.seconds or DEFAULT_SECONDS
    for change in options.at:
        if seconds and change.seconds and change.seconds >= seconds:
            raise CommandFailed(
                f"--at: {change.seconds:g} s is after the end, {seconds:g} s: raise --seconds"
            )
    timeline([change for change in options.at if change.block is not None], options.prompt, options.blocks)


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


def plan(options: Namespace, model: session_pb2.Model | None) -> Wanted:
    """In blocks, where the model is known. Raises CommandFailed."""
    seconds = None if options.blocks else options.seconds or DEFAULT_SECONDS
    if model is None:
        now = [change for change in options.at if change.block is not None]
        later = [change for change in options.at if change.block is None]
        return Wanted(timeline(now, options.prompt, options.blocks), options.blocks, seconds, later)
    num_blocks = options.blocks or math.ceil(blocks_until(seconds or 0.0, model) - 1e-6)
    changes = [in_blocks(change, num_blocks, model) for change in options.at]
    return Wanted(timeline(changes, options.prompt, num_blocks), num_blocks, seconds)


def timeline(changes: Sequence[Change], first: str, num_blocks: int | None) -> dict[int, str]:
    prompts = {0: first}
    for change in changes:
        block = change.block or 0
        if block in prompts:
            raise CommandFailed(f"--at: block {block} has two prompts")
        if num_blocks and block >= num_blocks:
            raise CommandFailed(f"--at: block {block} is after the last, {num_blocks - 1}")
        prompts[block] = change.prompt
    return prompts


def in_blocks(change: Change, num_blocks: int, model: session_pb2.Model) -> Change:
    """At the block that starts nearest to its moment."""
    if change.seconds is None:
        return change
    until = blocks_until(change.seconds, model)
    if until >= num_blocks:
        raise CommandFailed(f"--at: {change.seconds:g} s is after the last block, {num_blocks - 1}")
    return Change(change.prompt, block=min(max(1, round(until)), num_blocks - 1))


def blocks_until(seconds: float, model: session_pb2.Model) -> float:
    return (seconds * model.fps + FIRST_BLOCK_SHORT) / (4 * model.block_frames)
