"""What the command `cascade` says to words that are nearly right, and to programs."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cascade import __version__
from cascade_client.cli import main
from tests.conftest import Open
from tests.paths import ROOT
from tests.services.support.command_support import WAIT_S, cascade, command, environment, running
from tests.services.support.fake_gateway import serving

NO_UNIX = """
import asyncio, os, sys
from asyncio import base_events, unix_events

def add_signal_handler(self, number, callback, *arguments):
    raise NotImplementedError

unix_events._UnixSelectorEventLoop.add_signal_handler = add_signal_handler
for name in ("sysconf", "sched_getaffinity"):
    delattr(os, name)
sys.modules["fcntl"] = None
from cascade_client.cli import main
sys.exit(main())
"""
"""What Windows lacks of what the client's commands might use."""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["generate", "a", "red", "circle"], '; words that belong together go into quotes, as in "a'),
        (["switch", "s1", "a", "blue", "square"], "words that belong together go into quotes"),
        (["resume", "my session!"], "'my session!' is no session's name; `cascade sessions` lists them"),
        (["watch", "S1"], "'S1' is no session's name"),
        (["push", "s1"], "name the receiver by URL or by --url-file, not both"),
        (["push", "s1", "ftp://host"], "has to begin with rtmp://, rtmps://, srt://, http:// or https://"),
        (["push", "s1", "--url-file", "none.txt"], "cannot read --url-file none.txt: No such file"),
        (["generate", "x", "--image", "none.png"], "cannot read --image none.png: No such file or directory"),
        (["generate", "x", *("--lora=a", "--lora=b", "--lora=c", "--lora=d")], "--lora: at most 3 at a time"),
        (["switch", "s1", "x", "--lora", "ink=1", "--lora", "ink=0.5"], "--lora: each one once"),
        (["generate", "x", "--model", "My Model"], "'My Model' is no model's name"),
        (["sessions", "--gateway", "http://gate:50051"], "a gateway's has no http: gate:50051"),
        (["sessions", "--gateway", "https://gate/"], "a gateway's has no http: gate:50051"),
        (["sessions", "--gateway", "http://gate:8080"], "a gateway's has no http: gate:50051"),
        (["sessions", "--gateway", "::1:50051"], "an IPv6 address stands in brackets, such as [::1]:50051"),
        (["drain", "fe80::1:50061"], "an IPv6 address stands in brackets, such as [fe80::1]:50061"),
        (["drain", "fd00::5"], "an IPv6 address stands in brackets, such as [fd00::5]:50051"),
        (["drain", "fe80::1%eth0:50061"], "an IPv6 address stands in brackets, such as [fe80::1%eth0]:50061"),
        (["drain", "[fd00::5]"], "is no gateway address; it looks like localhost:50051"),
        (["sessions", "--gateway", "[10.0.0.5]:50051"], "is no gateway address; it looks like"),
        (["sessions", "--gateway", "[[::1]]:50051"], "is no gateway address; it looks like"),
        (["sessions", "--gateway", "gate:50051:50051"], "is no gateway address; it looks like"),
        (["sessions", "--gateway", "http://[::1]:8080/"], "a gateway's has no http: [::1]:50051"),
        (["sessions", "--gateway", "http://[::1]"], "a gateway's has no http: [::1]:50051"),
        (["sessions", "--gateway", "http://[::1]:50052/x"], "a gateway's has no http: [::1]:50052"),
        (["sessions", "--gateway", "nowhere"], "no gateway address; it looks like localhost:50051"),
    ],
)  # fmt: skip
async def test_what_is_nearly_right_is_told_the_right_form(words: list[str], told: str) -> None:
    done = await cascade(*words)
    assert told in done.err
    assert done.err.count("\n") == 1
    assert done.status in (1, 2)


async def test_programs_get_errors_as_json() -> None:
    async with serving() as gateway:
        missing = await cascade("delete", "s9", "--json", "--gateway", gateway.address)
    error = json.loads(missing.out)["error"]
    assert (missing.status, error["code"], error["message"]) == (1, "NOT_FOUND", "no session sessions/s9")
    assert error["request_id"] == "call-1"
    assert missing.err == "cascade delete: no session sessions/s9\n"
    usage = await cascade("generate", "--json")
    assert usage.status == 2
    assert "required: PROMPT" in json.loads(usage.out)["error"]["message"]


def test_the_version_and_completions_for_every_shell() -> None:
    assert asyncio.run(cascade("--version")).out == f"cascade {__version__}\n"
    script = asyncio.run(cascade("completion", "bash")).out
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, timeout=WAIT_S)
    assert (checked.returncode, checked.stderr) == (0, "")
    ask = f"{script}\nCOMP_WORDS=(cascade gen); COMP_CWORD=1; _shtab_cascade; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", ask], text=True, capture_output=True, timeout=WAIT_S)
    assert done.stdout == "generate\n", done.stderr
    for shell in ("zsh", "fish"):
        assert "generate" in asyncio.run(cascade("completion", shell)).out


@pytest.mark.parametrize("module", ["grpc", "argparse"])
def test_ctrl_c_while_it_is_still_being_imported(module: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", *command("sessions", "--gateway", "127.0.0.1:1")[1:]],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr
    for line in process.stderr:
        if line.split("|")[-1].strip() == module:
            process.send_signal(signal.SIGINT)
            break
    rest = process.communicate(timeout=WAIT_S)[1]
    assert "Traceback" not in rest
    assert process.returncode == 130


@pytest.mark.parametrize("words", [("generate", "x", "--blocks", "2"), ("sessions",), ("doctor",)])
async def test_the_clients_commands_need_nothing_that_windows_lacks(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    async with serving() as gateway:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", NO_UNIX, *words, "--gateway", gateway.address, cwd=tmp_path,
            env=environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, err = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode == 0, err


async def test_doctor_looks_for_the_model_that_was_asked_for() -> None:
    found = json.loads((await cascade("doctor", "--json", "--model", "self-forcing-1.3b")).out)
    names = [each["name"] for each in found if each["name"].startswith("weights")]
    assert names == ["weights of self-forcing-1.3b"]
    (weights,) = [each for each in found if each["name"] in names]
    assert weights["advice"].startswith("cascade-engine download --model self-forcing-1.3b --to FOLDER")


def test_up_says_on_the_screen_that_weights_cannot_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No hub listens there, and the services would try for minutes."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with running(tmp_path, "--model", "self-forcing-1.3b") as up:
        warning = up.event("warning")["text"]
    assert warning.startswith("the weights of self-forcing-1.3b are not here, and http://127.0.0.1:1 does ")
    assert "cascade-engine download --model self-forcing-1.3b --to FOLDER" in warning


def test_a_second_up_leaves_the_logs_of_the_first_alone(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        first.event("ready")
        former = (first.logs / "stage-0.log").read_text()
        with running(tmp_path) as second:
            done = second.finish()
        assert done.status == 1
        assert f"--log-dir: another `cascade up` writes its logs in {first.logs}" in done.err
        assert (first.logs / "stage-0.log").read_text() == former != ""


@pytest.mark.parametrize("columns", [40, pytest.param(80, marks=pytest.mark.slow), 200])
def test_nothing_is_coloured(terminal: Open, columns: int) -> None:
    for words in ((), ("generate", "--help"), ("doctor", "--gateway", "127.0.0.1:1")):
        shown = terminal(*command(*words), columns=columns, environment=environment(NO_COLOR="1"))
        assert shown.finish() == 0, shown.text()
        colours = {char.fg for row in shown._screen.buffer.values() for char in row.values()}
        assert colours <= {"default"}


def test_the_entry_of_the_package_is_the_guarded_one() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert 'cascade = "cascade.__main__:main"' in text
    assert 'cascade-engine = "cascade_core.commands.entry:main"' in text


@pytest.mark.parametrize("columns", [40, 80])
def test_help_fits_the_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Except commands, which are copied whole."""
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main([]) == 0
    names = re.findall(r"^    ([a-z]+)", capsys.readouterr().out.partition("COMMAND\n")[2], re.MULTILINE)
    assert {"up", "generate", "completion"} < {*names}
    for arguments in ([], *([name] for name in names)):
        with pytest.raises(SystemExit):
            main([*arguments, "--help"])
        usage, *lines = capsys.readouterr().out.splitlines()
        assert usage.startswith(" ".join(["usage: cascade", *arguments]))
        assert not [line for line in lines if len(line) > columns and not line.startswith("  cascade ")]
        assert len(usage) <= max(columns, 46), usage
