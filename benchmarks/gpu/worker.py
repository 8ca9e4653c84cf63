"""What surrounds a tick in the worker: latents to the host, messages packed, sent, read."""

import pickle
import socket
import statistics
import threading
import time
from collections.abc import Callable

import torch

from benchmarks.gpu.samples import Row, percentile
from cascade_core.config import ModelCard
from cascade_core.ranks.messages import Open, Tick, Ticked
from cascade_core.ranks.pipe import HEADER, pack, read_exactly
from cascade_core.schedule import Shape, Timeline, context_blocks, plan_tick

WARM_UP = 3


def measure_worker(card: ModelCard, device: torch.device, repeats: int) -> list[Row]:
    """Host time of each, which a tick waits for; `megabytes` is what it moves."""
    latents = torch.randn(card.latent_shape(card.video.height, card.video.width), device=device)
    array = latents.cpu().numpy()
    plan, _ = plan_tick(Timeline(0), Shape(card.sampling.num_passes, 1, 1, card.window))
    assert plan
    window = card.window
    primed = context_blocks(window, window.sink_blocks + window.window_blocks)
    opening = Open(0, 0, card.video.height, card.video.width, dict.fromkeys(primed, array), {})
    rows = [timed("latents to the host", array.nbytes, repeats, lambda: latents.cpu().numpy())]
    rows += measure_message("a plan", Tick(plan), repeats)
    rows += measure_message("a clean block", Ticked(array, 0.0), repeats)
    return rows + measure_message("an opening with a window", opening, repeats)


def measure_message(name: str, message: object, repeats: int) -> list[Row]:
    packed = pack(message)
    size = len(packed)
    return [
        timed(f"{name}, packed", size, repeats, lambda: pack(message)),
        timed(f"{name}, unpacked", size, repeats, lambda: pickle.loads(packed[HEADER.size :])),
        timed(f"{name}, through a socket pair", size, repeats, lambda: travel(packed)),
    ]


def timed(what: str, num_bytes: int, repeats: int, call: Callable[[], object]) -> Row:
    times = []
    for _ in range(WARM_UP + repeats):
        started = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - started))
    return {
        "what": what,
        "megabytes": num_bytes / 1e6,
        "ms": statistics.median(times[WARM_UP:]),
        "p95_ms": percentile(times[WARM_UP:], 95),
    }


def travel(packed: bytes) -> None:
    """Sent by one thread and read by another, as between two processes."""
    ours, theirs = socket.socketpair()
    with ours, theirs, theirs.makefile("rb") as stream:
        sender = threading.Thread(target=ours.sendall, args=(packed,))
        sender.start()
        read_exactly(stream, len(packed))
        sender.join()
