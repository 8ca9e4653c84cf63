# ruff: noqa: ASYNC240 - small files
"""The command `cascade` as a person has it: real processes, real signals, real files.

`up` runs made-up services here (`fake_gateway.py` under the names of the real ones), so that it is the
supervision that is tested and not the model.
"""

import asyncio
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from cascade.v1 import common_pb2, session_pb2
from cascade_client import Client
from cascade_client.checks.gpus import links, no_gpus
from cascade_client.checks.redis import ping
from tests.paths import ROOT
from tests.services.support.command_support import (
    WAIT_S,
    cascade,
    command,
    environment,
    is_alive,
    running,
    until,
)
from tests.services.support.fake_gateway import (
    BLOCK_FRAMES,
    SEED,
    Code,
    FakeDecoder,
    FakeStage,
    Script,
    failure,
    serving,
    serving_peer,
)
from tests.services.support.media_support import decode
from tests.services.support.redis_support import DIE_WITH_US

ONE_THREAD_EACH = {"CASCADE_STAGE_THREADS_PER_RANK": "1", "CASCADE_DECODER_THREADS": "1"}
"""Beside other tests, more wait for each other."""


async def test_help_and_usage() -> None:
    shown = await cascade("--help")
    assert shown.status == 0
    assert "cascade up" in shown.out
    for name in (
        "up",
        "generate",
        "watch",
        "push",
        "models",
        "sessions",
        "switch",
        "pause",
        "resume",
        "delete",
        "drain",
        "doctor",
    ):
        assert name in shown.out
    assert (await cascade()).out == shown.out
    for wrong in (["nonsense"], ["generate"], ["generate", "x", "--size", "7"], ["up", "--port", "-1"]):
        done = await cascade(*wrong)
        assert done.status == 2
        assert done.err.count("\n") == 1, done.err


@pytest.mark.parametrize(
    ("wrong", "status", "told"),
    [
        ([""], 2, "argument PROMPT: it is empty: say what to show (see cascade generate --help)"),
        (["x", "--seed", "-1"], 2, "argument --seed: '-1' is not a number from 0 to 2^63 - 1 (see "
         "cascade generate --help)"),
        (["x", "--stagger", "0"], 2, "argument --stagger: '0' is not a number of 1 or more (see "
         "cascade generate --help)"),
        (["x", "--at", "9s=y", "--seconds", 3], 1, "--at: 9 s is after the end, 3 s: raise --seconds"),
        (["x", "--at", "4=y", "--blocks", 4], 1, "--at: block 4 is after the last, 3"),
        (["x", "--at", "0=y"], 1, "--at: block 0 has two prompts"),
        (["x", "--at", "10=y", "--seconds", 2], 1, "--at: block 10 is after the last, 2"),
        (["x", "--at", "99s=y", "--blocks", 2], 1, "--at: 99 s is after the last block, 1"),
        (["x", "--out", "/"], 1, "/ is a folder"),
        (["x", "--out", "x.gif"], 1, "--out x.gif: the video is an MP4; choose a name that ends in .mp4"),
        (["x", "--out", "x.webm"], 1, "--out x.webm: the video is an MP4; choose a name that ends in .mp4"),
        (["x", "--out", "-", "--json"], 1, "--out - and --json would both write to standard output"),
        (["x", "--out", "README.md"], 1, "--out README.md: the video is an MP4; choose a name that ends in "
         ".mp4"),
        (["x", "--out", "/nothing/x.mp4"], 1, "cannot write /nothing/x.mp4: there is no folder /nothing"),
    ],
)  # fmt: skip
async def test_generate_refuses_before_it_asks_for_a_session(
    wrong: list[Any], status: int, told: str
) -> None:
    async with serving() as gateway:
        done = await cascade("generate", *wrong, "--gateway", gateway.address)
        assert not gateway.sessions
    assert (done.status, done.err) == (status, f"cascade generate: {told}\n")


@pytest.mark.parametrize("asked", [("--stagger", 2), ("--inflight-attention", "causal")])
async def test_generate_asks_no_former_gateway_for_what_it_would_ignore(asked: tuple[Any, ...]) -> None:
    async with serving(Script(staggers=())) as gateway:
        done = await cascade("generate", "x", *asked, "--gateway", gateway.address)
        assert not gateway.sessions
    told = f"cascade generate: {asked[0]}: the stages of demo leave no choice here\n"
    assert (done.status, done.err) == (1, told)


async def test_generate_says_that_somebody_else_ended_the_session(tmp_path: Path) -> None:
    async with serving(Script(pace_s=0.02)) as gateway, Client(gateway.address) as client:
        making = asyncio.create_task(cascade("generate", "x", "--gateway", gateway.address, cwd=tmp_path))
        await asyncio.to_thread(until, lambda: gateway.seen.acks and gateway.seen.acks[-1] >= 2, "two acks")
        await client.delete("s1")
        done = await making
    assert done.status == 1
    assert "cascade generate: the session ended early (deleted); video.mp4 holds " in done.err


async def test_nobody_there_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = await cascade("sessions", "--gateway", address)
    assert done.status == 1
    start = "start it: run `cascade up` in another terminal"
    assert done.err == f"cascade sessions: no gateway answers at {address}: Connection refused; {start}\n"
    assert "cannot read --api-key-file" in (await cascade("sessions", "--api-key-file", "/nothing")).err


def test_the_command_imports_no_torch_and_no_services() -> None:
    code = "import sys, cascade_client.cli; print([m for m in sys.modules if m.split('.')[0] in " \
        "('torch', 'services', 'cascade_core', 'numpy', 'av', 'grpc_status')])"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=WAIT_S
    )
    assert done.stdout == "[]\n", done.stderr


async def test_generate_saves_a_video_that_plays(tmp_path: Path) -> None:
    script = Script(num_queued=2, lose_before=[4], recover_before=[6])
    out = tmp_path / "circle.mp4"
    async with serving(script) as gateway:
        done = await cascade(
            "generate", "a red circle", "--at", "3=a blue square", "--blocks", 8, "--seed", 7,
            "--size", "64x32", "--stagger", 1, "--inflight-attention", "causal", "--out", out,
            "--gateway", gateway.address,
        )  # fmt: skip
        spec = gateway.sessions["sessions/s1"].message.spec
    assert done.status == 0, done.err
    assert (dict(spec.prompts), spec.seed, spec.width, spec.height, spec.num_blocks) == (
        {0: "a red circle", 3: "a blue square"}, 7, 64, 32, 8
    )  # fmt: skip
    assert (spec.stagger, spec.inflight_attention) == (1, common_pb2.INFLIGHT_ATTENTION_CAUSAL)
    assert done.out == f"saved {(8 * BLOCK_FRAMES - 3) / 16:.1f} s (93 pictures) to {out} (seed 7)\n"
    for told in ("queue: place 1 of 1", "reconnected after", "recovery: done after 1.2 s (rebuilt)"):
        assert told in done.err
    assert len(decode(out.read_bytes())) == 8 * BLOCK_FRAMES - 3
    assert [path.name for path in tmp_path.iterdir()] == ["circle.mp4"]


async def test_generate_by_seconds_counts_in_blocks_where_the_model_is_known(tmp_path: Path) -> None:
    async with serving() as gateway:
        done = await cascade(
            "generate", "a red circle", "--at", "3s=a blue square", "--seconds", 5, "--json",
            "--gateway", gateway.address, cwd=tmp_path,
        )  # fmt: skip
        session = gateway.sessions["sessions/s1"].message
        table = await cascade("sessions", "--gateway", gateway.address)
    assert done.status == 0, done.err
    assert (dict(session.spec.prompts), session.spec.num_blocks) == (
        {0: "a red circle", 4: "a blue square"}, 7
    )  # fmt: skip
    assert json.loads(done.out)["seed"] == SEED
    assert table.out.splitlines()[1].split()[:2] == ["sessions/s1", "complete"]


async def test_generate_has_later_prompts_take_over_gradually(tmp_path: Path) -> None:
    mix = '{"a red circle": 1, "a blue square": 3}'
    async with serving() as gateway:
        done = await cascade(
            "generate", mix, "--at", "3s=a blue square", "--over", "1.5s", "--interpolation", "slerp",
            "--seconds", 5, "--gateway", gateway.address, cwd=tmp_path,
        )  # fmt: skip
        spec = gateway.sessions["sessions/s1"].message.spec
        for words, told in (
            (("--over", "2"), "--over: needs a later prompt, given by --at"),
            (("--at", "3=b", "--over", "65"), "--over: 65 is longer than 64 blocks"),
            (("--at", "3=b", "--over", "99s"), "--over: 99s is longer than 64 blocks"),
            (("--at", "3=b", "--over", "soon"), "neither blocks, such as 4, nor seconds, such as 3s"),
            (("--at", "3=b", "--interpolation", "slerp"), "--interpolation: needs --over"),
            (("--at", '3={"b": "much"}'), "no mix of prompts, such as"),
        ):
            refused = await cascade("generate", "a", *words, "--gateway", gateway.address, cwd=tmp_path)
            assert refused.status != 0
            assert told in refused.err
    assert done.status == 0, done.err
    assert {part.text: part.weight for part in spec.mixes[0].prompts} == {
        "a red circle": 1,
        "a blue square": 3,
    }
    assert dict(spec.prompts) == {4: "a blue square"}
    (transition,) = spec.transitions.values()
    assert (transition.num_blocks, transition.interpolation) == (2, common_pb2.INTERPOLATION_SLERP)


async def test_over_in_seconds_waits_until_blocks_are_known(tmp_path: Path) -> None:
    async with serving(Script(pace_s=0.02, has_models=False)) as gateway:
        done = await cascade(
            "generate", "a red circle", "--at", "4=a blue square", "--over", "1.5s", "--seconds", 5,
            "--gateway", gateway.address, cwd=tmp_path,
        )  # fmt: skip
        asked = gateway.sessions["sessions/s1"].asked
    assert done.status == 0, done.err
    assert [(each.text, each.at_block, each.transition.num_blocks) for each in asked] == [
        ("a blue square", 4, 2)
    ]


async def test_switch_over(tmp_path: Path) -> None:
    async with serving() as gateway:
        await Client(gateway.address).create("a red circle", session_id="s1")
        done = await cascade(
            "switch", "s1", "a blue square", "--over", "3s", "--json", "--gateway", gateway.address
        )
        (asked,) = gateway.sessions["sessions/s1"].asked
    assert done.status == 0, done.err
    assert asked.transition.num_blocks == 4
    assert json.loads(done.out)["last_block_mixed"] is None


async def test_switch_cut() -> None:
    async with serving() as gateway:
        await Client(gateway.address).create("a red circle", session_id="s1")
        for words in (("--cut",), ("--mode", "cut")):
            done = await cascade("switch", "s1", "a blue square", *words, "--gateway", gateway.address)
            assert done.status == 0, done.err
        asked = gateway.sessions["sessions/s1"].asked
    assert [each.mode for each in asked] == [common_pb2.SWITCH_MODE_CUT] * 2


async def test_generate_by_seconds_switches_and_ends_the_session(tmp_path: Path) -> None:
    """While no stage is up, nobody knows how long a block is."""
    async with serving(Script(pace_s=0.02, has_models=False)) as gateway:
        done = await cascade(
            "generate", "a red circle", "--at", "3s=a blue zorp", "--seconds", 5, "--json",
            "--gateway", gateway.address, cwd=tmp_path,
        )  # fmt: skip
        session = gateway.sessions["sessions/s1"]
    assert done.status == 0, done.err
    report = json.loads(done.out)
    assert report["path"] == "video.mp4"
    assert report["duration_s"] >= 5
    assert len(decode((tmp_path / "video.mp4").read_bytes())) == report["num_frames"]
    assert [receipt.first_block_touched for receipt in session.receipts] == [round((3 * 16 + 3) / 12)]
    assert "prompt: seen from 2.8 s on (block 4); unknown words: zorp" in done.err
    assert session.message.end.reason == session_pb2.END_REASON_DELETED


async def test_ctrl_c_keeps_what_was_made_and_ends_the_session(tmp_path: Path) -> None:
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        out = tmp_path / f"{number}.mp4"
        async with serving(Script(pace_s=0.05)) as gateway:
            process = await asyncio.create_subprocess_exec(
                *command("generate", "a red circle", "--out", out, "--gateway", gateway.address),
                env=environment(), stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            await asyncio.to_thread(
                until, lambda g=gateway: g.seen.acks and g.seen.acks[-1] >= 3, "three acks"
            )
            process.send_signal(number)
            _, err = await asyncio.wait_for(process.communicate(), WAIT_S)
            session = gateway.sessions["sessions/s1"].message
        assert process.returncode == status, err
        assert b"Traceback" not in err
        assert len(decode(out.read_bytes())) >= 3 * BLOCK_FRAMES - 3
        assert session.end.reason == session_pb2.END_REASON_DELETED


async def test_a_full_disk_is_told_and_what_was_stored_plays(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for it: the kernel refuses to let the file grow."""
    out = tmp_path / "video.mp4"
    limit = 6000
    run = (
        f"import resource, signal, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "from cascade_client.cli import main; sys.exit(main())"
    )
    async with serving(Script()) as gateway:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", run, "generate", "x", "--blocks", "30", "--out", str(out),
            "--gateway", gateway.address, env=environment(), stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, err = await asyncio.wait_for(process.communicate(), WAIT_S)
        sent = gateway.sessions["sessions/s1"].message
    assert process.returncode == 1
    assert f"cannot write {out}: {os.strerror(errno.EFBIG)}; {out} holds the first" in err.decode()
    assert 0 < out.stat().st_size <= limit
    assert len(decode(out.read_bytes())) >= BLOCK_FRAMES - 3
    assert sent.end.reason == session_pb2.END_REASON_DELETED


async def test_generate_says_why_a_session_failed(tmp_path: Path) -> None:
    why = failure(Code.INVALID_ARGUMENT, "INVALID_PROMPT", "the prompt has 900 tokens")
    end = session_pb2.SessionEnd(reason=session_pb2.END_REASON_FAILED, status=why)
    async with serving(Script(end_with=end)) as gateway:
        done = await cascade("generate", "x", "--blocks", 2, "--gateway", gateway.address, cwd=tmp_path)
        script = Script(unary_failures=deque([failure(Code.INTERNAL, "INTERNAL", "internal error")]))
        gateway.script = script
        defect = await cascade("generate", "x", "--gateway", gateway.address, cwd=tmp_path)
    assert (done.status, defect.status) == (1, 1)
    assert (
        "the session ended early (failed: the prompt has 900 tokens); video.mp4 holds the first 1.3 s"
        in done.err
    )
    assert defect.err == "cascade generate: internal error (request id call-1)\n"
    nowhere = await cascade("generate", "x", "--out", "/nothing/x.mp4", "--gateway", gateway.address)
    assert nowhere.status == 1


async def test_watch_to_a_file_and_to_a_pipe(tmp_path: Path) -> None:
    async with serving(Script(pace_s=0.05)) as gateway, Client(gateway.address) as client:
        session = await client.create("a red circle", num_blocks=60)
        async with client.connect(session) as stream:
            viewers = [
                asyncio.create_task(
                    cascade("watch", "s1", "--out", out, "--gateway", gateway.address, cwd=tmp_path)
                )
                for out in ("copy.mp4",)
            ]
            process = await asyncio.create_subprocess_exec(
                *command("watch", session.name, "--out", "-", "--gateway", gateway.address),
                env=environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            async for _ in stream:
                pass
        piped, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
        (copy,) = await asyncio.gather(*viewers)
    assert copy.status == 0, copy.err
    assert len(decode((tmp_path / "copy.mp4").read_bytes())) % BLOCK_FRAMES in (0, BLOCK_FRAMES - 3)
    assert len(decode(piped)) >= BLOCK_FRAMES
    assert "the session has ended: complete" in copy.err


async def test_a_pipe_that_closes_ends_watch_quietly() -> None:
    async with serving(Script(pace_s=0.02)) as gateway, Client(gateway.address) as client:
        session = await client.create("a red circle")
        async with client.connect(session) as stream:
            watch = " ".join(command("watch", "s1", "--out", "-", "--gateway", gateway.address))
            shell = f"{watch} | head -c 900"
            process = await asyncio.create_subprocess_shell(
                f"{shell}; echo -n ' ' ${{PIPESTATUS[0]}} >&2", executable="/bin/bash", env=environment(),
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            talking = asyncio.create_task(process.communicate())
            while not talking.done():
                await asyncio.wait_for(anext(stream), WAIT_S)
            _, err = await talking
    assert b"Traceback" not in err
    assert err.split()[-1] == b"0"


async def test_sessions_switch_pause_resume_delete() -> None:
    async with serving() as gateway, Client(gateway.address) as client:
        await client.create("a red circle" * 9, labels={"a": "b"})
        await client.create("a blue square")
        await client.delete("s2")
        at = {"CASCADE_CLIENT_GATEWAY": gateway.address}
        table = (await cascade("sessions", **at)).out.splitlines()
        assert table[1].split()[:3] == ["sessions/s2", "ended", "demo"]
        assert table[2].endswith("…")
        listed = json.loads((await cascade("sessions", "--json", "--state", "queued", **at)).out)
        assert [each["name"] for each in listed] == ["sessions/s1"]
        assert (await cascade("pause", "s1", **at)).out == "sessions/s1 is paused\n"
        assert (
            json.loads((await cascade("resume", "s1", "--json", **at)).out)["state"] == "SESSION_STATE_ACTIVE"
        )

        receipt = json.loads(
            (await cascade("switch", "s1", "a zorp", "--json", "--mode", "boundary", **at)).out
        )
        assert (receipt["state"], receipt["error"]) == ("ACCEPTED", None)
        gone = await cascade("switch", "s1", "x", "--wait", "--timeout", "0.2", **at)
        assert (gone.status, gone.err) == (1, "cascade switch: accepted, but not applied within 0.2 s\n")
        waiting = asyncio.create_task(cascade("switch", "s1", "a zorp", "--at-block", "3", "--wait", **at))
        while len(gateway.sessions["sessions/s1"].receipts) < 3:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
        gateway.sessions["sessions/s1"].apply_before(3)
        applied = await waiting
        assert applied.out == (
            "applied: seen from 2.1 s on (block 3), fully from 3.6 s on (block 5); unknown words: zorp\n"
        )
        assert (await cascade("delete", "s1", **at)).out == "sessions/s1 is ended\n"
        missing = await cascade("delete", "s9", **at)
        assert (missing.status, missing.err) == (1, "cascade delete: no session sessions/s9\n")


async def test_the_api_key_is_sent(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret\n")
    async with serving() as gateway:
        await cascade("sessions", "--gateway", gateway.address, "--api-key-file", key)
    assert gateway.seen.metadata[0]["authorization"] == "Bearer secret"


async def test_drain_finds_out_what_it_drains() -> None:
    stage, decoder = FakeStage(), FakeDecoder()
    async with serving_peer(stage) as one, serving_peer(decoder) as two, serving() as gateway:
        drained = await cascade("drain", one, "--timeout", 7, "--wait", "--reason", "upgrade")
        assert drained.status == 0
        assert drained.out == "the stage is empty: safe to delete\n"
        assert "the stage drains: 1 sessions" in drained.err
        assert (stage.drains[0].timeout.seconds, stage.drains[0].reason) == (7, "upgrade")
        as_json = await cascade("drain", two, "--json")
        assert json.loads(as_json.out)["kind"] == "decoder"
        assert json.loads(as_json.out)["safe_to_delete"] is True
        neither = await cascade("drain", gateway.address)
        assert neither.err == f"cascade drain: {gateway.address} is neither a stage nor a decoder\n"
    gone = await cascade("drain", one)
    assert gone.err == f"cascade drain: nobody answers at {one}: Connection refused\n"


async def test_doctor_finds_what_is_wrong() -> None:
    async with serving() as gateway:
        well = await cascade("doctor", "--json", "--gateway", gateway.address)
    found = {each["name"]: each for each in json.loads(well.out)}
    assert found[f"gateway {gateway.address}"]["status"] == "ok"
    assert found[f"gateway {gateway.address}"]["text"] == "serves demo with LoRA ink, clay"
    assert found["client packages"]["status"] == "ok"
    assert found["weights of demo"]["status"] == "ok"
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        ill = await cascade("doctor", "--gateway", f"127.0.0.1:{port}", "--redis", "redis://127.0.0.1:1/0")
    assert ill.status == 1
    assert "fail  Redis: does not answer: Connection refused" in ill.out
    assert f"fail  gateway 127.0.0.1:{port}: something listens there that is no gateway" in ill.out


def test_doctor_reads_links() -> None:
    assert links([0, 0]).status == "ok"
    assert links([0, None]).status == "warn"


@pytest.mark.parametrize(
    ("password", "answer"), [("", "+PONG"), (":right", "+PONG"), (":wrong", "-WRONGPASS")]
)
def test_redis_is_asked_in_its_own_protocol(password: str, answer: str, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    options = ["--requirepass", "right"] if password else []
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", *options],
        cwd=tmp_path, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:

        def asked() -> str:
            try:
                return ping(f"redis://{password}@127.0.0.1:{port}/0")
            except ConnectionRefusedError:
                return ""

        assert until(asked, "redis").startswith(answer)
    finally:
        server.kill()
        server.wait()


def test_up_starts_tells_and_stops(tmp_path: Path) -> None:
    with running(tmp_path, "--stages", 2, "--ranks", 3, "--device", "cpu", "--model", "mine") as up:
        ready = up.event("ready")
        assert sorted(ready["pids"]) == ["decoder-0", "gateway-0", "stage-0", "stage-1"]
        assert len({*ready["stage"], *ready["decoder"], *ready["gateway"]}) == 4
        pids = list(ready["pids"].values())
        assert len({os.getpgid(pid) for pid in [*pids, up.process.pid]}) == 5, "groups of their own"
        done = asyncio.run(cascade("sessions", "--gateway", ready["gateway"][0]))
        assert done.out == "no sessions\n"
        up.process.send_signal(signal.SIGINT)
        finished = up.finish()
        assert finished.status == 0
        assert not any(is_alive(pid) for pid in pids)
    stage, gateway = up.log("stage-0"), up.log("gateway-0")
    assert stage["CASCADE_STAGE_MODEL"] == gateway["CASCADE_GATEWAY_DEFAULT_MODEL"] == "mine"
    assert (stage["CASCADE_STAGE_NUM_RANKS"], stage["CASCADE_STAGE_DEVICE"]) == ("3", "cpu")
    assert stage["CASCADE_GRPC_HOST"] == "127.0.0.1"
    assert gateway["CASCADE_GATEWAY_STAGES"] == ",".join(ready["stage"])
    assert gateway["CASCADE_GATEWAY_DECODERS"] == ready["decoder"][0]
    assert "CASCADE_CLIENT_GATEWAY" not in gateway, "it would be a wrong setting there"
    assert up.log("decoder-0")["CASCADE_DECODER_MODEL"] == "mine"


def test_up_restarts_what_dies_and_takes_its_children_with_it(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        ready = up.event("ready")
        os.kill(ready["pids"]["decoder-0"], signal.SIGKILL)
        died = up.event("died")
        assert (died["name"], died["status"]) == ("decoder-0", -signal.SIGKILL)
        again = up.event("restarted")
        assert again["name"] == "decoder-0"
        assert is_alive(again["pid"])
        address = ready["decoder"][0]
        until(lambda: asyncio.run(cascade("drain", address, "--json")).status == 0, "the decoder again")
        pids = [*ready["pids"].values(), again["pid"]]
        up.process.kill()
        up.process.wait(WAIT_S)
        until(lambda: not any(is_alive(pid) for pid in pids), "the children's end")


def test_up_can_be_stopped_before_it_is_ready(tmp_path: Path) -> None:
    with running(tmp_path, "--model", "slow") as up:
        until(lambda: (up.logs / "gateway-0.log").exists(), "the last child")
        up.process.send_signal(signal.SIGINT)
        finished = up.finish()
    assert finished.status == 0
    assert json.loads(finished.out.splitlines()[-1]) == {"event": "stopped"}


def test_up_says_why_a_service_did_not_start(tmp_path: Path) -> None:
    with running(tmp_path, "--model", "broken") as up:
        finished = up.finish()
    assert finished.status == 1
    assert (
        "cascade up: stage-0 did not start: stage: no model of that name: broken (its log: " in finished.err
    )


def test_up_with_several_gateways_brings_redis_and_pages(tmp_path: Path) -> None:
    with running(tmp_path, "--gateways", 2, "--redis", "auto") as up:
        ready = up.event("ready")
        assert len(ready["gateway"]) == 2
        assert ping(f"redis://{ready['redis'][0]}/0") == "+PONG"
        gateways = [up.log("gateway-0"), up.log("gateway-1")]
        (key,) = {each["CASCADE_GATEWAY_TOKEN_KEY_FILE"] for each in gateways}
        assert len(Path(key).read_bytes()) == 32
        assert Path(key).stat().st_mode & 0o777 == 0o600
    assert {each["CASCADE_GATEWAY_REDIS_URL"] for each in gateways} == {f"redis://{ready['redis'][0]}/0"}
    pages = [f"http://localhost:{log['CASCADE_HTTP_PORT']}" for log in gateways]
    assert ready["http"] == pages
    assert len(set(pages)) == 2
    assert "CASCADE_HTTP_PORT" not in up.log("stage-0")


def test_up_serves_no_pages_where_it_shall_not_and_ends_by_sigterm(tmp_path: Path) -> None:
    with running(tmp_path, "--http-port", "off") as up:
        ready = up.event("ready")
        assert ready["http"] == []
        assert "CASCADE_HTTP_PORT" not in up.log("gateway-0")
        up.process.send_signal(signal.SIGTERM)
        assert up.finish().status == 0
        assert not any(is_alive(pid) for pid in ready["pids"].values())


def readme_example(gateway: str) -> str:
    """The Python of the client's README, with another address in it."""
    readme = (ROOT / "cascade_client/README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert code.count('"localhost:50051"') == 1
    return str(code.replace("localhost:50051", gateway))


def test_the_whole_system_from_up_to_a_video(tmp_path: Path) -> None:
    """The real stage, decoder and gateway with the demo model, and Redis; a gateway dies on the way. The
    example of the client's README then runs against the other."""
    up = subprocess.Popen(
        [*DIE_WITH_US, *command(
            "up", "--json", "--port", 0, "--http-port", 0, "--gateways", 2, "--redis", "auto",
            "--log-dir", tmp_path,
        )], cwd=tmp_path, env=environment(**ONE_THREAD_EACH),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert up.stdout
        events = (json.loads(line) for line in up.stdout)
        ready = next(event for event in events if event["event"] == "ready")
        out = tmp_path / "circle.mp4"
        making = subprocess.Popen(
            command(
                "generate", "a red circle moves left", "--at", "2=a blue square", "--blocks", 8, "--out", out,
                "--stagger", 1, "--inflight-attention", "causal", "--gateway", ",".join(ready["gateway"]),
            ),
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        until(lambda: list(tmp_path.glob(".circle.mp4.*.part")) or making.poll() is not None, "a session")
        os.kill(ready["pids"]["gateway-0"], signal.SIGKILL)
        told, err = making.communicate(timeout=4 * WAIT_S)
        assert making.returncode == 0, err
        assert "93 pictures" in told
        assert len(decode(out.read_bytes())) == 8 * BLOCK_FRAMES - 3
        example = subprocess.run(
            [sys.executable, "-c", readme_example(ready["gateway"][1])], cwd=tmp_path, env=environment(),
            capture_output=True, text=True, timeout=4 * WAIT_S,
        )  # fmt: skip
        assert example.returncode == 0, example.stderr
        with urllib.request.urlopen(ready["http"][1] + "/readyz", timeout=WAIT_S) as answer:
            assert answer.read() == b"ready\n"
        assert len(decode((tmp_path / "video.mp4").read_bytes())) == 12 * BLOCK_FRAMES - 3
        up.send_signal(signal.SIGTERM)
        assert up.wait(WAIT_S) == 0
    finally:
        up.kill()
        up.wait()


async def test_up_refuses_what_cannot_work(tmp_path: Path) -> None:
    gone = await cascade("up", "--redis", "redis://127.0.0.1:1/0", "--port", 0, cwd=tmp_path)
    assert (gone.status, gone.err.startswith("cascade up: --redis: it does not answer: ")) == (1, True)
    several = await cascade("up", "--gateways", 2, cwd=tmp_path)
    assert (several.status, "add --redis auto" in several.err) == (1, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        busy = await cascade("up", "--port", port, cwd=tmp_path)
    assert (busy.status, busy.err) == (
        1, f"cascade up: port {port} is taken: choose another with --port, or 0 for any free one\n"
    )  # fmt: skip
    wrong = await cascade("up", "--port", 0, cwd=tmp_path, CASCADE_HTTP_PORT="web")
    assert wrong.err == "cascade up: CASCADE_HTTP_PORT: 'web' is not a port, 0 to 65535\n"
    typo = await cascade("up", "--http-port", "on", cwd=tmp_path)
    assert "'on' is not a port, 0 to 65535, or `off`" in typo.err


def test_a_machine_without_gpus_is_enough_for_the_demo_model_alone() -> None:
    assert no_gpus("demo").status == "ok"
    assert no_gpus("krea-14b").status == "warn"
    assert "krea-14b" in no_gpus("krea-14b").advice
