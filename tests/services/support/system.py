"""The whole system as processes of their own on loopback: two stages, two decoders, two gateways, one Redis.

with running_system() as system:
    system.ready()
    system.busy_stage().kill()
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cascade.v1 import decoder_pb2, decoder_pb2_grpc, stage_pb2, stage_pb2_grpc
from tests.paths import ROOT
from tests.services.support.ports import free_port
from tests.services.support.redis_support import BINARY, DIE_WITH_US, RedisServer

WAIT_S = 120.0
"""Deadline of every wait: only a hang reaches it."""
CALL_S = 5.0
POLL_S = 0.1
"""Between two looks, each of which is a connection of its own to several processes."""
LOG_TAIL_BYTES = 6000
COMMON = {
    "CASCADE_HEALTH_CHECK_INTERVAL_S": "0.1",
    "CASCADE_DRAIN_DEADLINE_S": "20",
    "CASCADE_DRAIN_GRACE_S": "2",
}
STAGE = {
    "CASCADE_STAGE_DEVICE": "cpu",
    "CASCADE_STAGE_NUM_RANKS": "2",
    "CASCADE_STAGE_THREADS_PER_RANK": "1",
    "CASCADE_STAGE_MAX_SESSIONS": "8",
    "CASCADE_HEALTH_STALL_AFTER_S": "1.5",
}
DECODER = {"CASCADE_DECODER_DEVICE": "cpu", "CASCADE_DECODER_THREADS": "1"}
GATEWAY = {"CASCADE_GATEWAY_STALL_TIMEOUT_S": "3"}


class Program:
    """One service process: `python -m services.KIND` on a port that it keeps over restarts."""

    def __init__(
        self, kind: str, number: int, folder: Path, environment: dict[str, str], within: Sequence[str] = ()
    ) -> None:
        """`within`: a command that runs it, such as `ip netns exec NAME`."""
        self.kind = kind
        self._within = within
        self.address = f"127.0.0.1:{free_port()}"
        self.log = folder / f"{kind}-{number}.log"
        self._environment = clean_environment() | COMMON | environment
        self._environment["CASCADE_GRPC_PORT"] = self.address.rpartition(":")[2]
        self._process: subprocess.Popen[bytes] | None = None
        self._former: list[int] = []
        """Process groups of its earlier lives."""

    @property
    def pid(self) -> int:
        assert self._process, f"{self.log.stem} was not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Does nothing where it runs already."""
        if self.is_running:
            return
        if self._process:
            self._former.append(self.pid)
        command = [*DIE_WITH_US, *self._within, sys.executable, "-m", f"services.{self.kind}"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def freeze(self) -> None:
        """SIGSTOP, its children included: connections stay, nobody answers."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """kill -9; what it had started ends by itself, because its parent did."""
        self.send(signal.SIGKILL)
        self.wait_ended()

    def wait_ended(self) -> int:
        """The exit status."""
        assert self._process
        return self._process.wait(WAIT_S)

    def leftovers(self) -> list[psutil.Process]:
        """Processes that outlived the one that had started them."""
        return [process for process in psutil.process_iter() if group_of(process) in self._former]

    def close(self) -> None:
        """End it and its children, whatever state they are in."""
        if self._process is None:
            return
        for group in (*self._former, self.pid):
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self._process.wait(WAIT_S)

    def workers(self) -> list[psutil.Process]:
        """The ranks of a stage, the worker of a decoder."""
        children = psutil.Process(self.pid).children(recursive=True)
        return [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]

    def rss_bytes(self) -> int:
        """Of the process and its children."""
        own = psutil.Process(self.pid)
        return sum(process.memory_info().rss for process in (own, *own.children(recursive=True)))

    def health(self) -> str:
        """What its health service says: SERVING, NOT_SERVING; empty where nobody answers."""
        with grpc.insecure_channel(self.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=CALL_S)
            except grpc.RpcError:
                return ""
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    def status(self) -> Any:
        """StageStatus or DecoderStatus."""
        with grpc.insecure_channel(self.address) as channel:
            watch: Any
            if self.kind == "stage":
                watch = stage_pb2_grpc.StageServiceStub(channel).WatchStatus
                reports = watch(stage_pb2.StageServiceWatchStatusRequest(), timeout=CALL_S)
            else:
                watch = decoder_pb2_grpc.DecoderServiceStub(channel).WatchStatus
                reports = watch(decoder_pb2.DecoderServiceWatchStatusRequest(), timeout=CALL_S)
            report = next(reports)
            reports.cancel()
        return report.status

    def logged(self, *events: str) -> list[dict[str, Any]]:
        """Its log lines of these events."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [line for line in found if line.get("event") in events]

    def tail(self) -> str:
        """The end of its log."""
        text = self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace") if self.log.exists() else ""
        return f"--- {self.log.stem} ({self.address})\n{text}"


class Redis(RedisServer):
    """As RedisServer, but can be started while this process has gRPC calls under way: see DIE_WITH_US."""

    def start(self) -> None:
        options = [part for name, value in self._options.items() for part in (f"--{name}", value)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*DIE_WITH_US, str(BINARY), *options], stdout=log, stderr=log)
        self._until("PONG", "PING")


class System:
    """All processes; tests may break any of them, `ready` mends it."""

    def __init__(self, folder: Path, stage: dict[str, str] | None = None) -> None:
        """`stage`: variables of the stages, besides STAGE."""
        self.redis = Redis()
        self.stages = [Program("stage", number, folder, STAGE | (stage or {})) for number in range(2)]
        self.decoders = [Program("decoder", number, folder, DECODER) for number in range(2)]
        key = folder / "token.key"
        key.write_bytes(secrets.token_bytes(32))
        shared = {
            "CASCADE_GATEWAY_STAGES": ",".join(stage.address for stage in self.stages),
            "CASCADE_GATEWAY_DECODERS": ",".join(decoder.address for decoder in self.decoders),
            "CASCADE_GATEWAY_REDIS_URL": self.redis.url,
            "CASCADE_GATEWAY_TOKEN_KEY_FILE": str(key),
        }
        self.gateways = [Program("gateway", number, folder, GATEWAY | shared) for number in range(2)]

    @property
    def programs(self) -> list[Program]:
        return [*self.stages, *self.decoders, *self.gateways]

    @property
    def target(self) -> str:
        """For a client: the first gateway, then the other."""
        return ",".join(gateway.address for gateway in self.gateways)

    def mend(self) -> None:
        """Start what is down, and thaw what is frozen; does not wait."""
        for program in self.programs:
            program.start()
            program.thaw()

    def ready(self) -> None:
        """Everything runs, serves, holds no session, and is known to both gateways."""
        self.mend()
        for program in self.programs:
            self._wait_serving(program)
        for peer in (*self.stages, *self.decoders):
            self._wait_known(peer)

    def _wait_serving(self, program: Program) -> None:
        self.wait(f"{program.log.stem} serves", lambda: program.health() == "SERVING")
        self.wait(f"{program.log.stem} left nothing", lambda: not program.leftovers())

    def _wait_known(self, peer: Program) -> None:
        self.wait(f"{peer.log.stem} is idle", lambda: peer.status().num_sessions == 0)
        self.wait(f"all know {peer.log.stem}", lambda: all(knows(gateway, peer) for gateway in self.gateways))

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        """Raises AssertionError, with the logs, after WAIT_S."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {WAIT_S:g} s: {what}\n{self.tails()}")
            time.sleep(POLL_S)

    def busy_stage(self) -> Program:
        """The one that has a session."""
        return busy(self.stages)

    def busy_decoder(self) -> Program:
        return busy(self.decoders)

    def close(self) -> None:
        for program in self.programs:
            program.close()
        self.redis.close()

    def tails(self) -> str:
        return "\n".join(program.tail() for program in self.programs)


@contextmanager
def running_system(stage: dict[str, str] | None = None) -> Iterator[System]:
    """Nothing runs yet but Redis: call `ready`. `stage`: as System takes it."""
    folder = Path(tempfile.mkdtemp(prefix="cascade-system-"))
    system = System(folder, stage)
    try:
        yield system
    finally:
        system.close()
        shutil.rmtree(folder, ignore_errors=True)


def busy(programs: Sequence[Program]) -> Program:
    found = [program for program in programs if program.status().num_sessions]
    assert len(found) == 1, f"{len(found)} of them have a session"
    return found[0]


def knows(gateway: Program, peer: Program) -> bool:
    """Whether the gateway follows the process that serves there now."""
    instance = peer.status().server.instance_id
    news = [line for line in gateway.logged("reports", "gone") if line["address"] == peer.address]
    return bool(news) and news[-1]["event"] == "reports" and news[-1]["instance"] == instance


def group_of(process: psutil.Process) -> int | None:
    """None for one that has ended."""
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else os.getpgid(process.pid)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None


def clean_environment() -> dict[str, str]:
    """This one's, without settings of ours."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("CASCADE_")}
    return ours | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
