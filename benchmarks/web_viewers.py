"""Many viewers of one session, over WebSocket or WebRTC, and what they cost the gateway.

python -m benchmarks.web_viewers --url ws://HOST:PORT/v1/sessions/... --token TOKEN --viewers N --seconds S

The command is the own process of those over WebSocket (`web_whep_viewers`: of the others): it prints what
they received as one line of JSON.
"""

import argparse
import asyncio
import json
import os
import struct
import sys
import time
from typing import Any

import grpc
import websockets

from benchmarks.services_fakes import STAMPS
from benchmarks.services_load import fake, line_of
from benchmarks.services_processes import MIB, ROOT, Measured, child, service
from benchmarks.services_real import quantile
from benchmarks.web_page import http_port
from cascade.v1 import session_pb2
from cascade.v1.session_pb2_grpc import SessionServiceStub
from cascade_client.keep_status import keep_status

Row = dict[str, Any]
NUM_VIEWERS, NUM_WEBRTC_VIEWERS = (100, 200, 400), (4, 8, 16)
SECONDS = 20.0
INTERVAL_S, LATENT_BYTES, SEGMENT_BYTES = 0.75, 600_000, 150_000
JOIN_S = 60.0
Request = session_pb2.ConnectRequest


async def measure(num_viewers: int, *, is_webrtc: bool = False) -> Row:
    """Start everything, let them watch, end it."""
    async with (
        fake("stage", "--bytes", LATENT_BYTES, "--interval", INTERVAL_S) as stage,
        fake("film" if is_webrtc else "decoder", "--bytes", SEGMENT_BYTES) as decoder,
        service("services.gateway", settings(stage, decoder)) as gateway,
        grpc.aio.insecure_channel(gateway.address, [("grpc.max_receive_message_length", -1)]) as channel,
    ):
        stub: Any = SessionServiceStub(channel)
        spec = session_pb2.SessionSpec(prompts={0: "a red circle moves left"})
        create = session_pb2.CreateSessionRequest(request_id="bench", spec=spec)
        created = await stub.CreateSession(create, timeout=JOIN_S, wait_for_ready=True)
        controlling = asyncio.create_task(control(stub, created.resume_token))
        viewer = session_pb2.CONNECT_ROLE_VIEWER
        issue = session_pb2.IssueResumeTokenRequest(name=created.session.name, role=viewer)
        token = (await stub.IssueResumeToken(issue, timeout=JOIN_S)).resume_token
        place = f"127.0.0.1:{http_port(gateway.text())}/v1/{created.session.name}"
        module, url = (
            ("web_whep_viewers", f"http://{place}/whep")
            if is_webrtc
            else ("web_viewers", f"ws://{place}/connect")
        )
        async with viewers(module, url, token, num_viewers) as process:
            await line_of(process, JOIN_S)
            before, started = gateway.usage(), time.monotonic()
            first = (await stub.GetSession(session_pb2.GetSessionRequest(name=created.session.name))).session
            tally = json.loads(await line_of(process, SECONDS + JOIN_S))
            after, seconds = gateway.usage(), time.monotonic() - started
            last = (await stub.GetSession(session_pb2.GetSessionRequest(name=created.session.name))).session
        controlling.cancel()
    cores, due = (after.cpu_s - before.cpu_s) / seconds, seconds / INTERVAL_S
    late_ms = sorted(tally["late_ms"])
    return {
        "viewers": num_viewers,
        "of_playback": tally["num_segments"] / (num_viewers * SECONDS / INTERVAL_S),
        "made": (last.last_sequence - first.last_sequence) / due,
        **(
            {}
            if is_webrtc
            else {"late_p50_ms": quantile(late_ms, 0.5), "late_p99_ms": quantile(late_ms, 0.99)}
        ),
        "gateway_cores": cores,
        "viewers_per_core": num_viewers / cores,
        "grown_mib": (after.rss_bytes - before.rss_bytes) / MIB,
        "gateway_rss_mib": after.rss_bytes / MIB,
    }


def settings(stage: Measured, decoder: Measured) -> dict[str, str]:
    return {
        "CASCADE_GATEWAY_STAGES": stage.address,
        "CASCADE_GATEWAY_DECODERS": decoder.address,
        "CASCADE_GATEWAY_MAX_VIEWERS": str(max(NUM_VIEWERS)),
        "CASCADE_HTTP_WEBRTC": "true",
        "CASCADE_HTTP_WEBRTC_HOST": "127.0.0.1",
        "CASCADE_DRAIN_DEADLINE_S": "1",
        "CASCADE_HTTP_PORT": "0",
    }


async def control(stub: Any, token: str) -> None:
    """Acknowledge all that comes, as a controller does that plays."""
    call = stub.Connect()
    keep_status(call)
    await call.write(Request(attach=Request.Attach(resume_token=token)))
    while (message := await call.read()) is not grpc.aio.EOF:
        if message.HasField("segment"):
            await call.write(Request(ack=Request.Ack(sequence=message.segment.sequence)))


def viewers(module: str, url: str, token: str, number: int) -> Any:
    options = {"--url": url, "--token": token, "--viewers": number, "--seconds": SECONDS}
    arguments = [str(part) for option in options.items() for part in option]
    command = (sys.executable, "-m", f"benchmarks.{module}", *arguments)
    pipe, environment = asyncio.subprocess.PIPE, {**os.environ, "PYTHONPATH": str(ROOT)}
    return child("viewers", command, environment, stdout=pipe, limit=64 * MIB)


class Watching:
    """All viewers of this process."""

    def __init__(self) -> None:
        self.num_segments = 0
        self.late_ms: list[float] = []
        self.is_counting = False

    async def watch(self, url: str, token: str, has_joined: asyncio.Event) -> None:
        """Until it is cancelled."""
        options: dict[str, Any] = {"compression": None, "max_size": None, "subprotocols": ["cascade.v1"]}
        async with websockets.connect(url, **options) as socket:
            attach = {"resumeToken": token, "role": "CONNECT_ROLE_VIEWER"}
            await socket.send(json.dumps({"attach": attach}))
            async for message in socket:
                if isinstance(message, bytes) and len(message) > SEGMENT_BYTES:
                    has_joined.set()
                    self._take(message)

    def _take(self, message: bytes) -> None:
        if not self.is_counting:
            return
        start = 4 + struct.unpack_from(">I", message)[0]
        sent_s = STAMPS.unpack_from(message, start)[2]
        self.num_segments += 1
        self.late_ms.append(1e3 * (time.monotonic() - sent_s))


async def watch_all(arguments: argparse.Namespace) -> None:
    watching, joined = Watching(), [asyncio.Event() for _ in range(arguments.viewers)]
    tasks = [asyncio.create_task(watching.watch(arguments.url, arguments.token, event)) for event in joined]
    async with asyncio.timeout(JOIN_S):
        await asyncio.gather(*(event.wait() for event in joined))
    print("ready", flush=True)
    watching.is_counting = True
    done, _ = await asyncio.wait(tasks, timeout=arguments.seconds, return_when=asyncio.FIRST_COMPLETED)
    watching.is_counting = False
    for task in done:
        task.result()
        raise RuntimeError("a viewer's stream has ended")
    print(json.dumps({"num_segments": watching.num_segments, "late_ms": watching.late_ms}), flush=True)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def arguments_of(description: str) -> argparse.Namespace:
    """From the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--viewers", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(watch_all(arguments_of(__doc__ or "")))
