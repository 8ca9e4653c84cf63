"""How many threads a process has that shares a machine with others."""

import os
import subprocess
import sys

import pytest
import torch

from cascade_core.config import find_card
from cascade_core.machine import num_threads
from services.decoder.pictures import PictureDecoder
from services.decoder.settings import DecoderSettings
from tests.paths import ROOT

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("variable", "num_processes", "expected"),
    [
        (None, 1, CORES),
        (None, 2, max(1, CORES // 2)),
        (None, 1000, 1),
        ("3", 1, 3),
        ("3", 5, 3),
        (" 4,2 ", 1, 4),
        ("0", 1, CORES),
        ("many", 1, CORES),
        ("", 1, CORES),
    ],
)
def test_a_share(
    variable: str | None, num_processes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert num_threads(num_processes) == expected


@pytest.mark.parametrize(("threads", "expected"), [(None, 3), (2, 2)])
def test_a_decoder_keeps_to_it(threads: int | None, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `cascade up` shares out the cores."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    try:
        PictureDecoder(find_card("demo"), DecoderSettings(kind="taehv", weights="random", threads=threads))
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


UNTOUCHED = """
import torch

def touched(*_):
    raise AssertionError("a fork of a process that has touched a GPU cannot use one")

for name in ("_cuda_getDeviceCount", "_cuda_init", "_cuda_getCurrentRawStream"):
    setattr(torch._C, name, touched)
import cascade_core.ranks.fork_server
import cascade_core.ranks.worker
assert not torch.cuda.is_initialized()
"""


def test_what_ranks_are_forked_from_touches_no_gpu() -> None:
    subprocess.run([sys.executable, "-c", UNTOUCHED], check=True, timeout=60, cwd=ROOT)
