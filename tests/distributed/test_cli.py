"""The command as a person uses it: exit status, one sentence, files, nothing left running."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import av
import psutil
import pytest
from safetensors.torch import load_file

from cascade_core.commands import bench, cli
from tests.engine_support import rank_processes, write_card

SMALL = ("generate", "--weights", "random", "--prompt", "a red circle", "--size", "32x48", "--blocks", "3")

COMMAND = (sys.executable, "-m", "cascade_core.commands.cli")
MARK = f"cascade-test-{os.getpid()}"
ENVIRONMENT = os.environ | {"CASCADE_TEST_MARK": MARK}


def run(*arguments: object, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=ENVIRONMENT)


Here = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str]) -> Here:
    """`run` without a process of its own, which would import torch anew: exit status, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            cli.main([*map(str, arguments)])
        except SystemExit as exit:
            status = exit.code
        else:
            status = 0
        return status, *capfd.readouterr()

    return call


def left_running() -> list[int]:
    """Processes started by these tests that still run: they inherit the mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("CASCADE_TEST_MARK") == MARK:
                found.append(process.pid)
    return found


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("gen", "generate"),
        ("generate --dev", "--device"),
        ("generate --device cu", "cuda"),
        ("plan --gpu l", "l40s"),
        ("plan --no-c", "--no-compile"),
    ],
)
def test_a_shell_completes_the_words(words: str, answer: str, here: Here) -> None:
    _, script, _ = here("completion", "bash")
    count = len(words.split())
    complete = f"COMP_WORDS=(cascade-engine {words}); COMP_CWORD={count}; _shtab_cascade_engine"
    ask = f"{script}\n{complete}; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", ask], text=True, capture_output=True, timeout=30)
    assert (done.stdout, done.stderr) == (f"{answer}\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_for_every_shell(shell: str, here: Here) -> None:
    status, script, _ = here("completion", shell)
    assert status == 0
    assert "generate" in script
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True, timeout=30)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_commands_that_compute_nothing_do_not_wait_for_torch() -> None:
    words = ["models", "--json"]
    call = f"from cascade_core.commands.cli import main; main({words})"
    ask = f"import sys; {call}; print(sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", ask], text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "'cascade_core.commands.listing'" in done.stderr
    assert "'torch'" not in done.stderr


@pytest.mark.parametrize("words", ["models", "completion bash"])
def test_a_reader_that_has_had_enough_ends_it_quietly(words: str) -> None:
    command = shlex.join([sys.executable, "-m", "cascade_core.commands.entry", *words.split()])
    script = f"set -o pipefail; {command} | true"
    done = subprocess.run(["bash", "-c", script], text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_generate_writes_video_latents_and_figures(tmp_path: Path) -> None:
    video, latents, figures = tmp_path / "a.mp4", tmp_path / "a.safetensors", tmp_path / "a.json"
    result = run(
        *SMALL, "--switch", '2:"a blue square"', "--ranks", 2, "--stagger", 2,
        "--inflight-attention", "causal",
        "-o", video, "--latents", latents, "--json", figures,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Random weights" in result.stderr
    with av.open(str(video)) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 9 + 12 + 12
    assert (frames[0].width, frames[0].height) == (32, 48)
    assert load_file(latents)["latents"].shape == (3, 3, 16, 6, 4)
    written = json.loads(figures.read_text())
    assert written["num_frames"] == 33
    assert written["fps_denoise"] > 0
    assert [switch["first_block_full"] for switch in written["prompt_switches"]] == [1]
    assert written["random_weights"] is True


@pytest.mark.slow
def test_the_same_seed_gives_the_same_latents_on_any_number_of_ranks(tmp_path: Path, here: Here) -> None:
    one, two, other = (tmp_path / f"{name}.safetensors" for name in ("one", "two", "other"))
    for options in (("--latents", one), ("--latents", two, "--ranks", 3), ("--latents", other, "--seed", 1)):
        status, _, errors = here(*SMALL, *options)
        assert status == 0, errors
    first = load_file(one)["latents"]
    assert (first - load_file(two)["latents"]).abs().max() < 1e-4
    assert (first - load_file(other)["latents"]).abs().max() > 0.1


BAD_INPUT = [
    (("--model", "wan"), "model 'wan' is unknown; known: bench, causal-forcing-1.3b"),
    (("--prompt", "  "), "the one for block 0 is empty"),
    (("--prompt", "word " * 100), "100 words"),
    (("--size", "100x64"), "--size: 100 is not a multiple of 16"),
    (("--size", "64"), "'64' is not WIDTHxHEIGHT"),
    (("--ranks", "6"), "--ranks: 6 is not in 1..5"),
    (("--ranks", "0"), "--ranks: Input should be greater than or equal to 1"),
    (("--stagger", "9"), "--stagger: 9 is not in 1..5"),
    (("--blocks", "0"), "--blocks: 0 is not at least 1"),
    (("--tick-deadline", "0"), "--tick-deadline: Input should be greater than 0"),
    (("--switch", "1:a", "--switch", "1:b"), "--switch: block 1 is given twice"),
    (("--json", "/no/such/folder/x.json"), "--json /no/such/folder/x.json: the folder"),
    (("--latents", "/tmp"), "--latents /tmp: is a folder"),
    (
        ("--json", "/tmp/same", "--latents", "/tmp/same"),
        "--json /tmp/same: --latents names the same file",
    ),
    (
        ("--decoder-weights", "/no/such/file", "-o", "/tmp/never.mp4"),
        "--decoder-weights /no/such/file: no such file or folder",
    ),
    (("--blocks", "four"), "--blocks: invalid int value"),
    (("--switch", "3"), "'3' is not BLOCK=PROMPT"),
    (("--at", "8="), "'8=' is not BLOCK=PROMPT"),
    (("--switch", "8:"), "'8:' is not BLOCK=PROMPT"),
    (("--at", "7=a square"), "--switch: block 7 is not in 1..2"),
    (("-o", "/tmp/x.gif"), "-o /tmp/x.gif: the video is an MP4; choose a name that ends in .mp4"),
    (("--json", __file__), f"{__file__} exists: choose another name, or add --overwrite"),
    (("a", "red", "circle"), "words that belong together go into quotes"),
    (("--switch", "7:a square"), "--switch: block 7 is not in 1..2"),
    (("--model", "bench", "--size", "4096x4096"), "not enough memory for a session of 4096x4096"),
    (("--device", "cuda", "--ranks", "5"), "5 ranks need as many GPUs"),
]


def test_bad_input_is_one_sentence_and_exit_status_2(tmp_path: Path, here: Here) -> None:
    output = tmp_path / "x.safetensors"
    wrong = []
    for arguments, expected in BAD_INPUT:
        status, _, errors = here(*SMALL, "--latents", output, *arguments)
        *before, complaint = errors.strip().splitlines()
        # What the model's loading or the ranks find out comes after the bar.
        is_told = not before or before[-1].split("\r")[-1].startswith("loading")
        if (
            (status, is_told) != (2, True)
            or not complaint.startswith("cascade-engine")
            or expected not in complaint
        ):
            wrong.append((arguments, expected, status, errors))
        assert not output.exists(), arguments
        assert not rank_processes(), arguments
    assert not wrong


def test_weights_that_are_not_there_are_told(tmp_path: Path, here: Here) -> None:
    status, _, errors = here(*SMALL, "--weights", "/no/such/file", "-o", tmp_path / "x.mp4")
    assert status == 2, errors
    assert errors.splitlines()[-1].startswith("cascade-engine")
    assert "no such file or folder" in errors
    assert "Traceback" not in errors


def test_an_output_folder_that_is_not_there_is_told_before_the_work(tmp_path: Path, here: Here) -> None:
    status, _, errors = here(*SMALL, "-o", tmp_path / "none" / "x.mp4")
    assert status == 2
    assert "does not exist" in errors
    assert here(*SMALL)[0] == 2  # no output at all


def test_sigterm_leaves_nothing_behind(tmp_path: Path) -> None:
    """As Ctrl-C in tests/distributed/test_terminal.py."""
    process = start_generating(tmp_path)
    os.killpg(process.pid, signal.SIGTERM)  # as `timeout` does: to every process of the group
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert errors.strip().endswith("cascade-engine: stopped")
    assert "Traceback" not in errors
    assert "resource_tracker" not in errors
    assert list(tmp_path.iterdir()) == []
    assert not left_running()


@pytest.mark.slow
def test_a_killed_decoder_ends_the_run_and_leaves_nothing_behind(tmp_path: Path) -> None:
    process = start_generating(tmp_path)
    (partial,) = tmp_path.iterdir()
    os.kill(int(partial.name.split(".")[-2]), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.strip().endswith("cascade-engine: the decoding process died")
    assert list(tmp_path.iterdir()) == []
    assert not left_running()


def start_generating(folder: Path) -> subprocess.Popen[str]:
    """A long run whose video has begun."""
    command = [*COMMAND, *SMALL[:-1], "2000", "-o", str(folder / "x.mp4")]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=ENVIRONMENT
    )
    deadline = time.monotonic() + 60
    while not list(folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(folder.iterdir()), "generation never began"
    return process


def test_what_is_asked_of_other_hardware_is_told_with_the_flag(tmp_path: Path, here: Here) -> None:
    status, _, errors = here(*SMALL, "--quantize-attention", "--latents", tmp_path / "x.safetensors")
    assert status == 2
    assert errors.splitlines()[-1].startswith("cascade-engine: --quantize-attention: needs FlashAttention 3 ")


@pytest.mark.slow
def test_generate_in_fp8(tmp_path: Path, here: Here, caplog: pytest.LogCaptureFixture) -> None:
    figures = tmp_path / "x.json"
    status, _, errors = here(
        *SMALL, "--quantize", "fp8", "--latents", tmp_path / "x.safetensors", "--json", figures
    )
    assert status == 0, errors
    assert "fp8 is slow on a CPU" in caplog.text
    assert json.loads(figures.read_text())["engine"]["quantize"] == "fp8"


def test_models_lists_licence_sizes_and_missing_files(here: Here) -> None:
    _, table, _ = here("models")
    assert "self-forcing-1.3b" in table
    assert "licence" in table
    models = {model["name"]: model for model in json.loads(here("models", "--json")[1])}
    assert models["bench"]["random_only"]
    assert models["demo"]["missing_files"] == []
    assert models["krea-14b"]["num_parameters"] == pytest.approx(14.3e9, rel=0.01)
    assert models["krea-14b"]["fp8_weights_bytes"] == pytest.approx(14.4e9, rel=0.02)
    assert models["self-forcing-1.3b"]["missing_files"]
    assert models["self-forcing-1.3b"]["session_bytes"] > 4 * 2**30


def test_bench_tells_bad_input_at_once(tmp_path: Path, here: Here) -> None:
    for arguments, expected in (
        (("--blocks", "0"), "--blocks: 0 is not a whole number of at least 1"),
        (("--out", "/dev/null/x"), "--out /dev/null/x: cannot be written"),
        (("--model", "wan"), "model 'wan' is unknown"),
    ):
        status, _, errors = here("bench", "--out", tmp_path, *arguments)
        assert status == 2, arguments
        assert expected in errors
        assert len(errors.splitlines()) == 1


def check_tables(folder: Path) -> None:
    tables = json.loads((folder / "cpu.json").read_text())
    assert [row["ranks"] for row in tables["speedup"]] == [1, 1, 2, 2, 2]
    assert tables["speedup"][0]["speedup"] == 1
    assert {row["mode"] for row in tables["switch"]} == {"immediate", "boundary", "recache"}
    assert [row["latent_frames"] for row in tables["length"]][-1] == 90
    assert tables["machine"]["cores"] == os.cpu_count()
    written = (folder / "cpu.md").read_text()
    for name, title in bench.TITLES.items():
        assert (title in written) == (name in tables)


@pytest.mark.slow
def test_bench_writes_the_tables_that_are_asked_for(
    tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but one, of a tiny model in the place of the demo's."""
    card = write_card(tmp_path)
    find_card = bench.find_card
    monkeypatch.setattr(bench, "find_card", lambda name: find_card(str(card) if name == "demo" else name))
    tables = ("speedup", "switch", "window", "length")
    quick = ("--model", card, "--blocks", 2, "--frames", 90, "--only", *tables)
    status, _, errors = here("bench", "--out", tmp_path / "out", *quick)
    assert status == 0, errors
    check_tables(tmp_path / "out")
    assert "first_block" not in json.loads((tmp_path / "out/cpu.json").read_text())


@pytest.mark.slow
def test_bench_writes_all_tables_of_the_demo_model(tmp_path: Path) -> None:
    result = run("bench", "--out", tmp_path, "--model", "demo", "--blocks", 2, "--frames", 90, timeout_s=240)
    assert result.returncode == 0, result.stderr
    check_tables(tmp_path)
    assert len(json.loads((tmp_path / "cpu.json").read_text())["window"]) == 5
