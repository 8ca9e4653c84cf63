"""Becomes a service, as this benchmark wants it:

python -m benchmarks.chaos.launch stage|decoder|gateway demo|fake OFFSET_S

`fake`: ranks and the decoder's worker are processes that compute nothing; all else is the service itself.
OFFSET_S: how far its clock (`time.time`, by which it reckons) is ahead of this machine's.
"""

import runpy
import sys
import time
from importlib import import_module
from types import ModuleType
from typing import Any


def skew(offset_s: float) -> None:
    """Shift the wall clock of this process; durations are measured by another one."""
    real, real_ns = time.time, time.time_ns
    keep_clock_of_grpc()
    time.time = lambda: real() + offset_s
    time.time_ns = lambda: real_ns() + int(offset_s * 1e9)


def keep_clock_of_grpc() -> None:
    """It compares `time.time` with deadlines by the machine's clock. No public way leads to what it asks."""
    cygrpc: Any = import_module("grpc._cython.cygrpc")
    clock = ModuleType("time")
    clock.__dict__.update(time.__dict__)
    cygrpc.time = clock


def use_fakes(kind: str) -> None:
    if kind == "stage":
        from cascade_core.ranks.processes import ForkServer

        ForkServer.module = "benchmarks.chaos.fake_rank"
    elif kind == "decoder":
        from services.decoder.process import WorkerProcess

        WorkerProcess.module = "benchmarks.chaos.fake_worker"


def main() -> None:
    kind, engine, offset_s = sys.argv[1:]
    del sys.argv[1:]
    if offset_s != "0":
        skew(float(offset_s))
    if engine == "fake":
        use_fakes(kind)
    runpy.run_module(f"services.{kind}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
