"""The process that opens one file that a video is to begin with. Started by `StartProcess` as

    python -m services.decoder.start_worker

Whoever sent the file may mean ill: the process serves nobody else, has neither torch nor a GPU, no variables
of ours, a bound on memory and on time, and from the file's first byte on no way to open files, sockets or
processes. It takes a header (JSON) and the file from standard input, and answers with messages
(`start_messages.py`).
"""

import os
import pkgutil
import resource
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import av
import psutil
from PIL import Image, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401

from cascade_core.errors import UnusableFile
from cascade_core.media.start import clip, still  # noqa: F401
from cascade_core.media.start.pictures import open_start
from services.decoder.start_messages import FAULT, NUMBER, PICTURE, Task, pack, read_task

GRACE_CPU_S = 2
"""Beyond the time that the file may take and the code keeps by itself: for what never returns to it."""
MIB = 2**20
NOT_NEEDED = ("av.__main__", "av.datasets", "av.device")


def close_doors(memory_bytes: int, cpu_s: float) -> None:
    """From here on: so much more memory, so much time, and nothing that is not open."""
    used = psutil.Process().memory_info().vms
    spent = sum(os.times()[:2])
    bounds = {
        resource.RLIMIT_AS: used + memory_bytes,
        resource.RLIMIT_CPU: int(spent + cpu_s) + GRACE_CPU_S,
        resource.RLIMIT_NOFILE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    with suppress(OSError):  # not Linux: then the system chooses whom to kill for want of memory
        Path("/proc/self/oom_score_adj").write_text("1000")
    for what, most in bounds.items():
        resource.setrlimit(what, (most, most))


def answer(task: Task, output: BinaryIO) -> None:
    try:
        start = open_start(task.file, task.shape, task.bounds)
        output.write(pack(NUMBER, str(start.num_pictures).encode()))
        for picture in start.pictures:
            output.write(pack(PICTURE, picture.tobytes()))
            output.flush()
    except UnusableFile as error:
        output.write(pack(FAULT, str(error).encode()))
    except MemoryError:
        wrong = f"takes more than {task.memory_bytes // MIB} MiB of memory to open; send a smaller one"
        output.write(pack(FAULT, wrong.encode()))
    output.flush()


def import_all() -> None:
    """Whatever a file can lead to, before the doors close: PyAV imports its kinds of streams when it meets
    them."""
    Image.preinit()
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if module.name not in NOT_NEEDED:
            import_module(module.name)


def main() -> None:
    import_all()
    task = read_task(sys.stdin.buffer)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries say of a file is not for our logs
    close_doors(task.memory_bytes, task.bounds.max_cpu_s)
    answer(task, sys.stdout.buffer)
    os._exit(0)  # Python's own way out opens files


if __name__ == "__main__":
    main()
