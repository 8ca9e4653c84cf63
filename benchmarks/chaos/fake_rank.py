"""A rank that computes nothing: it keeps to the schedule and makes bytes that say what they were made of.

The engine runs this in place of `cascade_core.ranks.fork_server`; see `launch.py`.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from benchmarks.chaos.content import NOTHING, block_of, make_block, prompt_mark
from cascade_core.arrays import Array
from cascade_core.ranks.fork_server import main
from cascade_core.ranks.messages import (
    AddPrompt,
    Command,
    Drop,
    Embedding,
    Encode,
    Encoded,
    Load,
    Open,
    Opened,
    Ready,
    Reply,
    StartTimes,
    Tick,
    Ticked,
)
from cascade_core.ranks.pipe import ChildEnd
from cascade_core.schedule import TickPlan

FREE_BYTES = 2**36
TICK_S = 0.001


@dataclass
class Session:
    """What one rank knows of it."""

    seed: int
    shape: tuple[int, ...]
    """Of a block's latents."""
    prompts: dict[int, bytes]
    digests: dict[int, bytes] = field(default_factory=lambda: {-1: NOTHING})
    """Of blocks that are clean."""


class FakeRank:
    """Every rank follows every session, as the schedule is the same on all; each emits its own blocks."""

    def __init__(self, pipe: "ChildEnd[Command, Reply]", load: Load) -> None:
        self._pipe = pipe
        self._load = load
        self._sessions: dict[int, Session] = {}
        pipe.send(Ready("cpu", FREE_BYTES, 2, False, StartTimes(0.0, 0.0, 0.0)))

    def handle(self, command: Command) -> None:
        match command:
            case Tick():
                time.sleep(TICK_S)
                self._pipe.send(Ticked(self._tick(command.plan), TICK_S))
            case Encode():
                rows = np.frombuffer(prompt_mark(command.prompt), np.uint8).astype(np.float32)
                self._pipe.send(Encoded(command.request, Embedding(rows[None])))
            case Open():
                self._open(command)
            case AddPrompt():
                self._sessions[command.session].prompts[command.prompt] = mark_of(command.embedding)
            case Drop():
                self._sessions.pop(command.session, None)

    def _open(self, command: Open) -> None:
        shape = self._load.card.latent_shape(command.height, command.width)
        prompts: Mapping[int, bytes] = {number: mark_of(rows) for number, rows in command.prompts.items()}
        session = Session(command.seed, shape, dict(prompts))
        for number, latents in command.context.items():
            session.digests[number] = block_of(latents).digest
        self._sessions[command.session] = session
        self._pipe.send(Opened(command.session))

    def _tick(self, plan: TickPlan) -> Array | None:
        session = self._sessions.get(plan.session)
        if session is None or plan.emits is None:
            return None
        work = next(work for work in plan.works if work.block == plan.emits)
        before = session.digests.get(work.block - 1, NOTHING)
        block = make_block(session.seed, work.block, session.prompts[work.prompt], before)
        session.digests = {work.block: block.digest}
        is_ours = work.block % self._load.config.num_ranks == self._load.rank
        return block.latents(session.shape) if is_ours else None


def mark_of(rows: Array) -> bytes:
    return rows.reshape(-1).astype(np.uint8).tobytes()


def run(descriptor: int) -> NoReturn:
    """`descriptor`: of the rank's end of the socket pair."""
    pipe: ChildEnd[Command, Reply] = ChildEnd(descriptor)
    load = pipe.commands.get()
    assert isinstance(load, Load)
    rank = FakeRank(pipe, load)
    while True:
        rank.handle(pipe.commands.get())
    os._exit(1)


if __name__ == "__main__":
    main(run)
