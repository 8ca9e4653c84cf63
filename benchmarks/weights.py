"""How fast weights come from the disk: our loader with one thread and with several, and others beside it.

python -m benchmarks.weights [--gigabytes 5] [--repeats 3] [--folder FOLDER] [--device cpu] [--out FOLDER]

Each load is a process of its own that finds nothing of the file in memory; one of each kind after the other,
so that what else the machine does meets all alike. Libraries that are not installed are left out.
"""

import argparse
import json
import os
import shlex
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.folders import need_folder, write_whole
from cascade_core.commands.arguments import at_least
from cascade_core.commands.bench import table
from cascade_core.machine import machine
from cascade_core.weights import ahead, weights
from cascade_core.weights.checkpoint import read_tensors

Row = dict[str, Any]
State = Mapping[str, Tensor]
SIDE = 5120
"""Of each tensor, as in a model of 14B."""
DEADLINE_S = 600
SAMPLE_S = 0.02


def write_file(path: Path, gigabytes: float) -> None:
    """Random bfloat16 matrices, made and written one by one."""
    size = 2 * SIDE * SIDE
    count = max(1, int(gigabytes * 1e9 / size))
    entries = {
        f"w{index}": {
            "dtype": "BF16",
            "shape": [SIDE, SIDE],
            "data_offsets": [index * size, (index + 1) * size],
        }
        for index in range(count)
    }
    header = json.dumps(entries).encode()
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        header += b" " * (-len(header) % 8)
        file.write(struct.pack("<Q", len(header)) + header)
        for _ in range(count):
            bits = random.integers(0, 2**16, size // 2, dtype=np.uint16)
            file.write((bits & 0xBFFF).tobytes())  # without this bit all are finite
        file.flush()
        os.fsync(file.fileno())


def forget(path: Path) -> None:
    """Drop the file from the page cache, and no other."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


# Ways to load; each gives the tensors that a model is then filled with.


def ours(path: Path, device: str) -> State:
    return read_tensors(path)


def fastsafetensors(path: Path, device: str) -> State:
    from fastsafetensors import fastsafe_open

    with fastsafe_open([str(path)], device=device) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)


def model_streamer(path: Path, device: str) -> State:
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path))
        return dict(streamer.get_tensors())


Load = Callable[[Path, str], State]
WAYS: dict[str, tuple[Load, int, str]] = {
    "one thread": (ours, 0, "cascade_core"),
    "4 readers": (ours, 4, "cascade_core"),
    "8 readers": (ours, 8, "cascade_core"),
    "fastsafetensors": (fastsafetensors, 0, "fastsafetensors"),
    "runai-model-streamer": (model_streamer, 0, "runai_model_streamer"),
}
"""By name: how tensors are got, threads that read ahead, and the package it needs."""


def load(way: str, path: Path, device: str) -> Row:
    """Fill a model in this process."""
    get, num_readers, _ = WAYS[way]
    ahead.NUM_READERS, ahead.MAX_AHEAD = num_readers, 2 * num_readers
    if not num_readers:
        setattr(weights, "read_ahead", iter)  # noqa: B010 (it is no public name there)
    model = nn.Module()
    with torch.device("meta"):
        for index in range(max(1, path.stat().st_size // (2 * SIDE * SIDE))):
            model.register_parameter(f"w{index}", nn.Parameter(torch.empty(SIDE, SIDE)))
    with peak_memory() as peak:
        started, cpu_started = time.perf_counter(), time.process_time()
        weights.load_state(model, get(path, device), path, torch.device(device), torch.bfloat16)
        if device != "cpu":
            torch.cuda.synchronize()
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    return {"seconds": seconds, "cpu_s": cpu_s, "peak_gb": max(peak) - peak[0]}


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Samples of this process's own memory in GB."""
    samples, over = [own_gb()], threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_S):
            samples.append(own_gb())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def own_gb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024 / 1e9


def measure(path: Path, device: str, repeats: int) -> list[Row]:
    ways = [way for way, (_, _, package) in WAYS.items() if find_spec(package)]
    found: dict[str, list[Row]] = {way: [] for way in ways}
    for repeat in range(repeats):
        for way in ways if repeat % 2 == 0 else ways[::-1]:
            forget(path)
            command = [
                sys.executable,
                "-m",
                "benchmarks.weights",
                "--load",
                way,
                str(path),
                "--device",
                device,
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{way}: {found[way][-1]['seconds']:.2f} s", file=sys.stderr)
    size = path.stat().st_size / 1e9
    return [summary(way, rows, found[ways[0]], size) for way, rows in found.items()]


def summary(way: str, rows: Sequence[Row], first: Sequence[Row], size_gb: float) -> Row:
    """Medians; the ratio to the first way is one within each round."""
    seconds = [row["seconds"] for row in rows]
    ratios = [other["seconds"] / row["seconds"] for row, other in zip(rows, first, strict=True)]
    return {
        "loader": way,
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "gb_s": size_gb / statistics.median(seconds),
        "times one thread": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "cpu_s": statistics.median(row["cpu_s"] for row in rows),
        "peak_gb": max(row["peak_gb"] for row in rows),
    }


def render(results: Row) -> str:
    info = results["machine"]
    lines = [
        "# Weights from the disk",
        f"`{results['command']}` · {info['processor']}, {info['cores']} cores, load {results['load']:.1f} · "
        f"torch {info['torch']} · {info['date']} · {results['gigabytes']:g} GB of bfloat16 to "
        f"{results['device']}, medians of {results['repeats']}",
        table(results["loaders"]),
        "`peak_gb`: memory of the process above what it had before, without pages of mapped files.",
    ]
    return "\n\n".join(lines) + "\n"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.weights", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--gigabytes", type=float, default=5.0, help="size of the file (default: 5)")
    parser.add_argument("--repeats", type=at_least(1), default=3, help="loads of each kind (default: 3)")
    parser.add_argument(
        "--folder", type=Path, help="where the file is made, on the disk to measure; then removed"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda:0")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the table")
    parser.add_argument("--load", nargs=2, metavar=("LOADER", "FILE"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    if options.load:
        way, path = options.load
        print(json.dumps(load(way, Path(path), options.device)))
        return 0
    need_folder(options.out)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="cascade-weights-") as folder:
        path = Path(folder) / "weights.safetensors"
        write_file(path, options.gigabytes)
        loaders = measure(path, options.device, options.repeats)
    results = {
        "command": "python -m benchmarks.weights "
        + shlex.join(sys.argv[1:] if arguments is None else arguments),
        "machine": machine(),
        "load": os.getloadavg()[1],
        "gigabytes": options.gigabytes,
        "repeats": options.repeats,
        "device": options.device,
        "loaders": loaders,
    }
    write_whole(options.out / "weights.json", json.dumps(results, indent=2) + "\n")
    write_whole(options.out / "weights.md", render(results))
    print((options.out / "weights.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
