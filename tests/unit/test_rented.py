"""`make gpu`: the order of its steps, its end, what it writes, and what it says where it cannot run."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks.rented import found
from benchmarks.rented.__main__ import main
from benchmarks.rented.outcomes import Outcome, write_report
from benchmarks.rented.packages import CannotRun
from benchmarks.rented.run import Deadline, run_steps
from benchmarks.rented.steps import Step, make_steps
from tests.paths import ROOT

MACHINE = {"num_gpus": 1, "gpu": "G|1", "torch": "2.13.0", "python": "3.11.7", "date": "2026-11-30"}
LONG_S = 600.0


def step(name: str, program: str, estimate_s: float = 60.0) -> Step:
    return Step(name, estimate_s, (sys.executable, "-c", program))


class Run:
    """Steps run into a folder; what the report said after each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reports: list[str] = []

    def report(self, outcomes: Sequence[Outcome]) -> None:
        write_report(self.folder, MACHINE, "make gpu", outcomes)
        self.reports.append((self.folder / "report.md").read_text())

    def __call__(self, *steps: Step, seconds: float = LONG_S) -> list[Outcome]:
        return run_steps(steps, Deadline(seconds), self.folder, self.report, self.folder / "packages")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_step_that_fails_does_not_stop_the_rest(run: Run) -> None:
    write = f"open({str(run.folder / 'last.md')!r}, 'w').write('# What it measured')"
    outcomes = run(
        step("first", "print('hello')"), step("broken", "print('x')\nraise SystemExit('no | memory')"),
        step("killed", "import os; os.kill(os.getpid(), 9)"), step("last", write),
    )  # fmt: skip
    assert [(each.step, each.state) for each in outcomes] == [
        ("first", "done"), ("broken", "failed"), ("killed", "failed"), ("last", "done"),
    ]  # fmt: skip
    assert outcomes[1].reason == "exit status 1: no | memory"
    assert outcomes[2].reason == "exit status -9: it says nothing"
    assert (run.folder / "first.log").read_text() == "hello\n"


def test_the_report_is_written_after_each_step(run: Run) -> None:
    (run.folder / "one.json").write_text('{"figure": 3}')
    write = "open({!r}, 'w').write('# Tables of {}')"
    names = ("one", "two")
    run(*(step(name, write.format(str(run.folder / f"{name}.md"), name)) for name in names))
    first, second = run.reports
    assert "| one | done |" in first
    assert "# Tables of one" in first
    assert "two" not in first
    assert second.index("# Tables of one") < second.index("# Tables of two")
    assert "`make gpu` · 1 x G|1 · torch 2.13.0" in second
    content = json.loads((run.folder / "report.json").read_text())
    assert [each["step"] for each in content["steps"]] == ["one", "two"]
    assert content["machine"] == MACHINE
    assert content["tables"] == {"one": {"figure": 3}}


def test_a_step_that_does_not_fit_is_left_out_and_a_shorter_one_is_not(run: Run) -> None:
    outcomes = run(step("long", "", 500.0), step("short", "", 50.0), seconds=100)
    assert [each.state for each in outcomes] == ["skipped", "done"]
    assert outcomes[0].reason.startswith("takes 500 s, 9")
    assert not (run.folder / "long.log").exists()


def test_a_step_that_overruns_is_ended_with_all_that_it_started(run: Run) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True)"
    child = f"{deaf}; time.sleep({LONG_S})"
    program = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        f"time.sleep({LONG_S})"
    )
    outcomes = run(step("hangs", program, 5.0), step("next", ""))
    assert [each.state for each in outcomes] == ["ended", "done"]
    assert outcomes[0].reason.startswith("took longer than 10 s: ")
    orphan = int((run.folder / "hangs.log").read_text())
    assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE


def test_all_is_over_at_the_given_second(run: Run) -> None:
    """The first would have as long again; what comes after it finds no time left."""
    started = time.monotonic()
    sleeps = step("sleeps", f"import time; time.sleep({LONG_S})", 5.0)
    outcomes = run(sleeps, step("late", "", 5.0), seconds=10)
    assert time.monotonic() - started < LONG_S / 10
    assert [each.state for each in outcomes] == ["ended", "skipped"]
    assert outcomes[0].reason.startswith("took longer than 7 s")


def test_steps_find_the_checkout_and_what_was_installed_for_them(run: Run) -> None:
    (run.folder / "packages").mkdir()
    (run.folder / "packages" / "made_up.py").write_text("WORD = 'found'")
    (done,) = run(step("finds", "import made_up, benchmarks.rented; print(made_up.WORD)"))
    assert done.state == "done"
    assert (run.folder / "finds.log").read_text() == "found\n"


def test_the_most_wanted_comes_first() -> None:
    steps = make_steps("cuda", "out/gpu")
    names = [each.name for each in steps]
    wanted = ("1.3b", "1.3b-compiled", "longlive-compiled", "14b-compiled")
    order = ["tests", *(f"gpu-{each}" for each in wanted)]
    assert [name for name in names if name in order] == order
    assert len(set(names)) == len(names)
    words = [" ".join(each.command) for each in steps]
    assert sum("--quantize fp8" in each for each in words) == 2
    assert {"kernels", "decoders", "worker", "engine"} <= {word for each in words for word in each.split()}
    assert not any("--tiny" in each for each in words)
    on_cpu = make_steps("cpu", "out/gpu")
    assert [each.name for each in on_cpu] == names
    assert all("--tiny" in each.command for each in on_cpu if "benchmarks.gpu" in each.command)


def test_a_dry_run_names_every_step(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--dry-run", "--seconds", "150", "--out", str(tmp_path / "none")]) == 0
    said = capsys.readouterr().out
    for each in make_steps("cuda", ""):
        assert f"{each.name}: " in said
    assert "gpu-1.3b: 50 s\n" in said
    assert "gpu-14b: 110 s, if time is left\n" in said
    assert not (tmp_path / "none").exists()


def test_an_old_python_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 14))
    assert main([]) == 2
    assert "gpu: needs Python 3.11 or newer, this is" in capsys.readouterr().err


def test_an_unknown_step_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", "--steps", "gpu-2b"]) == 2
    assert "no step gpu-2b; there are tests, gpu-1.3b," in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "--silent", "gpu", f"PYTHON={sys.executable}"], cwd=ROOT, env=os.environ | {"MAKEFLAGS": ""},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "gpu: no CUDA device here; `make gpu DEVICE=cpu` tries" in done.stderr


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ('{"torch": "2.10.1+cu130", "num_gpus": 1}', r"torch 2\.10\.1\+cu130 is too old: 2\.11 or newer"),
        ('{"torch": "2.11.0a0+git", "num_gpus": 0}', "no CUDA device"),
        (None, "torch does not run in .*: ModuleNotFoundError: No module named 'torch'"),
    ],
)
def test_a_machine_that_cannot_run_it(
    answer: str | None, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = f"print({answer!r})" if answer else "raise ModuleNotFoundError(\"No module named 'torch'\")"
    monkeypatch.setattr(found, "LOOK", program)
    with pytest.raises(CannotRun, match=sentence):
        found.look("cuda")


def test_the_plan_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two real steps of it; all of them by night."""
    for name in ("tests.md", "gpu-kernels.md", "report.md"):
        (tmp_path / name).write_text("of an earlier run")
    words = ["--device", "cpu", "--steps", "gpu-kernels", "tests", "--out", str(tmp_path)]
    assert main(words) == 0
    report = (tmp_path / "report.md").read_text()
    assert report.index("| tests | done |") < report.index("| gpu-kernels | done |")
    assert "## Attention kernels alone" in report
    assert "of an earlier run" not in report
    assert re.search(r"\d+ (passed|skipped)", (tmp_path / "tests.log").read_text())
    assert f"tables: {tmp_path / 'report.md'}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_whole_plan_on_a_cpu(tmp_path: Path) -> None:
    assert main(["--device", "cpu", "--seconds", "2900", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "report.json").read_text())
    assert [each["step"] for each in content["steps"]] == [each.name for each in make_steps("cpu", "")]
