"""The client without `async`, in a thread of its own, against a gateway on this loop."""

import asyncio
import inspect
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import TypeVar

import pytest

from cascade_client import (
    Attached,
    Client,
    Ended,
    MediaInit,
    NotFound,
    Segment,
    Stream,
    SyncClient,
    SyncStream,
    Unavailable,
)
from tests.services.support.fake_gateway import BLOCK_FRAMES, FPS, FakeGateway, Script, serving
from tests.services.support.media_support import decode

T = TypeVar("T")
WAIT_S = 30.0


async def run(program: Callable[[SyncClient], T], script: Script | None = None) -> T:
    def whole(address: str) -> T:
        with SyncClient(address) as client:
            return program(client)

    async with asyncio.timeout(WAIT_S), serving(script) as gateway:
        return await asyncio.to_thread(whole, gateway.address)


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_it_has_the_names_and_the_arguments_of_the_other() -> None:
    assert public(SyncClient) == public(Client)
    assert public(SyncStream) >= public(Stream)
    for here, there in ((SyncClient, Client), (SyncStream, Stream)):
        for name in public(there) & public(here) - {"close", "ack"}:
            member = getattr(there, name)
            if callable(member) and name != "connect":
                assert inspect.signature(getattr(here, name)) == inspect.signature(member), name


async def test_a_session_from_its_creation_to_its_end(tmp_path: Path) -> None:
    def program(client: SyncClient) -> None:
        session = client.create("a red circle", num_blocks=6, labels={"for": "me"}, stagger=2)
        assert session.message.spec.stagger == 2
        assert [each.name for each in client.list(labels={"for": "me"})] == [session.name]
        assert client.get(session).name == session.name
        assert client.switch(session, "a blue square", at_block=4).state == "ACCEPTED"
        token, _ = client.issue_token(session, role="viewer")
        assert token
        with client.connect(session) as stream:
            events = list(stream)
            assert stream.last_sequence == 6
            assert stream.name == session.name
        assert isinstance(events[0], Attached)
        assert isinstance(events[-1], Ended)
        assert [event.sequence for event in events if isinstance(event, Segment)] == [1, 2, 3, 4, 5, 6]
        init, *segments = [event.data for event in events if isinstance(event, MediaInit | Segment)]
        assert len(decode(init + b"".join(segments))) == 6 * BLOCK_FRAMES - 3
        with pytest.raises(NotFound):
            client.get("sessions/nothing")

    await run(program, Script(lose_before=[3]))


async def test_steered_saved_and_looked_at(tmp_path: Path) -> None:
    def program(client: SyncClient) -> None:
        with client.connect(client.create("a red circle")) as stream:
            assert stream.switch("a blue square").state == "ACCEPTED"
            saved = stream.save(tmp_path / "video.mp4", seconds=2)
            assert len(decode(saved.path.read_bytes())) == 3 * BLOCK_FRAMES - 3
            frame = next(stream.frames())
            assert frame.time_s == pytest.approx((3 * BLOCK_FRAMES - 3) / FPS)
            stream.pause()
            stream.resume()
            assert stream.end().reason == "DELETED"

    await run(program)


async def test_a_deadline_for_the_next_event() -> None:
    """It loses nothing."""

    def program(client: SyncClient) -> None:
        session = client.create("a red circle")
        with client.connect(session, auto_ack=False, max_unacked_segments=2) as stream:
            segments = (event.sequence for event in stream if isinstance(event, Segment))
            assert [next(segments), next(segments)] == [1, 2]
            with pytest.raises(TimeoutError):
                list(stream.events(within_s=0.1))
            stream.ack(2)
            assert [next(segments), next(segments)] == [3, 4]
            with pytest.raises(ValueError, match="was not received"):
                stream.ack(99)

    await run(program)


async def test_another_thread_steers_and_another_closes() -> None:
    """Who waits when the client is closed is told so, instead of waiting on."""
    async with asyncio.timeout(WAIT_S), serving() as gateway:
        await asyncio.to_thread(steer_and_close, gateway)


def steer_and_close(gateway: FakeGateway) -> None:
    client = SyncClient(gateway.address)
    stream = client.connect(client.create("a red circle"), auto_ack=False).__enter__()
    failed: list[BaseException] = []
    is_waiting = threading.Event()

    def read() -> None:
        try:
            for event in stream:
                if isinstance(event, Segment):
                    is_waiting.set()
        except Unavailable as error:
            failed.append(error)

    reader = Thread(target=read)
    reader.start()
    is_waiting.wait(WAIT_S)
    assert stream.switch("a blue square").state == "ACCEPTED"
    client.close()
    reader.join(WAIT_S)
    assert "closed" in str(failed[0])
    with pytest.raises(Unavailable, match="closed"):
        client.get("s1")
    client.close()
    assert not [each for each in threading.enumerate() if each.name == "cascade-client"]


PROGRAM = """
import asyncio, sys
from cascade_client import SyncClient
to_thread = asyncio.to_thread
async def late(*work, **options):  # as on a busy machine
    await asyncio.sleep(0.3)
    return await to_thread(*work, **options)
asyncio.to_thread = late
with SyncClient(sys.argv[1]) as client:
    with client.connect(client.create("a red circle")) as stream:
        stream.save("video.mp4", lambda event, saved: print(saved.num_segments, flush=True))
"""


async def test_ctrl_c_ends_a_program_that_saves(tmp_path: Path) -> None:
    async with serving(Script(pace_s=0.02)) as gateway:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, gateway.address, cwd=tmp_path, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout
        async with asyncio.timeout(WAIT_S):
            while (await process.stdout.readline()).strip() != b"3":
                pass
            process.send_signal(signal.SIGINT)
            _, said = await process.communicate()
    assert said.decode().splitlines()[-1] == "KeyboardInterrupt"
    assert process.returncode == -signal.SIGINT
    assert len(decode(await asyncio.to_thread((tmp_path / "video.mp4").read_bytes))) >= 3 * BLOCK_FRAMES - 3
