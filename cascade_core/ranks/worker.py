"""The process of one rank: reads commands, runs ticks, answers. Forked by `fork_server.py`.

It dies with its parent: a thread of its own reads the socket, and the end of the stream is the end of the
process, even in the middle of a collective that never returns.
"""

import os
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor

from cascade_core.errors import CascadeError
from cascade_core.model.text import load_text_encoder
from cascade_core.ranks.compiling import compile_model, never_again
from cascade_core.ranks.loading import build_runner, free_bytes, pick_device, pick_dtype
from cascade_core.ranks.messages import (
    AddPrompt,
    Command,
    Drop,
    Embedding,
    Encode,
    Encoded,
    Failed,
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
from cascade_core.ranks.tick_queue import tick_queue
from cascade_core.ranks.warm_up import warm_up

Pipe = ChildEnd[Command, Reply]
"""The rank's end of the socket pair."""


class RankWorker:
    """Model, sessions and text encoder of one rank."""

    def __init__(self, pipe: Pipe, load: Load) -> None:
        """Loads weights and joins the group; takes minutes for large models."""
        started = time.monotonic()
        torch.set_num_threads(load.threads)
        config, card = load.config, load.card
        self._pipe = pipe
        device = pick_device(config, load.rank)
        dtype = pick_dtype(config, device)
        self._runner, join_s = build_runner(load, device, dtype)
        self._ticks = tick_queue(device, self._answer, partial(self._give_up, "a tick"))
        if load.rank == 0:
            self._text = load_text_encoder(card, load.files, device, dtype)
            self._text_thread = ThreadPoolExecutor(1, thread_name_prefix="text")
        loaded = time.monotonic()
        loras = self._runner.loras
        compiled = compile_model(self._runner.model, config, card, loras)
        warm_up(self._runner, config, card)
        if compiled:
            never_again()
        times = StartTimes(loaded - started - join_s, join_s, time.monotonic() - loaded)
        memory = free_bytes(device, config.num_ranks) - (loras.copied_bytes if loras else 0)
        pipe.send(Ready(str(device), memory, dtype.itemsize, compiled, times))

    def handle(self, command: Command) -> None:
        match command:
            case Tick():
                self._ticks.run(partial(self._runner.tick, command.plan))
            case Encode():
                self._text_thread.submit(self._encode, command)
            case Open():
                self._open(command)
            case AddPrompt():
                rows = torch.from_numpy(command.embedding)
                self._runner.forget_prompts(command.session, command.forget)
                self._runner.add_prompt(command.session, command.prompt, rows, command.choice)
            case Drop():
                self._runner.close(command.session)

    def _answer(self, latents: Tensor | None, compute_s: float) -> None:
        self._pipe.send(Ticked(None if latents is None else latents.numpy(), compute_s))

    def _open(self, command: Open) -> None:
        try:
            context = {block: torch.from_numpy(latents) for block, latents in command.context.items()}
            first_frame = None if command.first_frame is None else torch.from_numpy(command.first_frame)
            size = command.height, command.width
            self._runner.open(command.session, command.seed, *size, context, first_frame)
            for prompt, embedding in command.prompts.items():
                choice = command.choices.get(prompt, ())
                self._runner.add_prompt(command.session, prompt, torch.from_numpy(embedding), choice)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._runner.close(command.session)
            self._pipe.send(Opened(command.session, f"out of memory: {error}"))
        else:
            self._pipe.send(Opened(command.session))

    def _encode(self, command: Encode) -> None:
        """Runs on the text thread. What is not the caller's fault takes the rank down, loudly."""
        try:
            rows = self._text.encode(command.prompt).float().numpy()
            embedding = Embedding(rows, self._text.unknown_words(command.prompt))
        except CascadeError as error:
            self._pipe.send(Encoded(command.request, error=error))
        except Exception:
            self._give_up("text encoder")
        else:
            self._pipe.send(Encoded(command.request, embedding))

    def _give_up(self, what: str) -> NoReturn:
        """In the handler of an exception on a thread of its own."""
        self._pipe.send(Failed(f"{what}: {traceback.format_exc(limit=-3)}"))
        os._exit(1)


def is_out_of_memory(error: Exception) -> bool:
    """On the CPU torch has no error class of its own for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)


def run(descriptor: int) -> NoReturn:
    """Serve the engine until it is gone. `descriptor`: of the rank's end of the socket pair."""
    pipe = Pipe(descriptor)
    try:
        load = pipe.commands.get()
        assert isinstance(load, Load)
        worker = RankWorker(pipe, load)
        while True:
            worker.handle(pipe.commands.get())
    except Exception as error:
        known = error if isinstance(error, CascadeError) else None
        pipe.send(Failed(str(error) if known else traceback.format_exc(limit=-5), known))
        os._exit(1)  # leaving the group in order would wait for the others
