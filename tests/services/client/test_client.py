"""The SDK's unary calls against a real server: idempotency, repeats, deadlines, errors, pages."""

import asyncio
import socket
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from cascade.v1 import common_pb2, session_pb2
from cascade_client import CascadeClientError, Client, Ended, Tls, Transition
from cascade_client.channel import Channels, parse_addresses
from cascade_client.errors import (
    AlreadyExists,
    Exhausted,
    InvalidRequest,
    NotAllowed,
    NotFound,
    Replaced,
    ServerFault,
    Unavailable,
    WrongState,
)
from cascade_client.resume import LONGEST_WAIT_S, Position, RetryBackoff, may_reconnect
from tests.services.support.certificates import Authority
from tests.services.support.fake_gateway import Code, FakeGateway, Script, failure, retry_info, serving

WAIT_S = 20.0

PNG = b"\x89PNG\r\n\x1a\n made up"


def unavailable() -> deque[object]:
    return deque([failure(Code.UNAVAILABLE, "NOT_READY", "starting", retry_info(0))])


async def test_create_sends_every_field() -> None:
    profile = common_pb2.MediaProfile(id="high", bitrate_kbps=900)
    async with serving() as gateway, Client(gateway.address, api_key="secret") as client:
        session = await client.create(
            {0: "a red circle", 4: {"a blue square": 2.0, "a cat": 1.0}}, model="demo",
            switch_mode="recache", seed=0, width=64, height=32, fps=12.5, profiles=[profile],
            num_blocks=9, idle_timeout_s=90.5, priority="low",
            labels={"team": "x"}, stagger=1, inflight_attention="causal", session_id="mine",
            loras={"style": 0.5}, transitions={4: Transition(2)}, image=PNG, fit="pad", include_start=True,
        )  # fmt: skip
        (request,) = gateway.seen.requests
    assert isinstance(request, session_pb2.CreateSessionRequest)
    assert request.spec == session_pb2.SessionSpec(
        model="demo", prompts=request.spec.prompts, seed=0, width=64, height=32, fps=12.5,
        switch_mode=common_pb2.SWITCH_MODE_RECACHE, profiles=[profile], num_blocks=9,
        idle_timeout={"seconds": 90, "nanos": 500_000_000}, priority=session_pb2.PRIORITY_LOW,
        labels={"team": "x"}, stagger=1, inflight_attention=common_pb2.INFLIGHT_ATTENTION_CAUSAL,
        loras=[{"name": "style", "scale": 0.5}], transitions=request.spec.transitions,
        mixes=request.spec.mixes, start={"image": PNG, "fit": common_pb2.FIT_PAD}, include_start=True,
    )  # fmt: skip
    assert request.spec.prompts[0] == "a red circle"
    assert [(each.text, each.weight) for each in request.spec.mixes[4].prompts] == [
        ("a blue square", 2.0),
        ("a cat", 1.0),
    ]
    assert request.spec.transitions[4].num_blocks == 2
    assert {field.name for field in session_pb2.SessionSpec.DESCRIPTOR.fields} == {
        field.name for field, _ in request.spec.ListFields()
    }, "a field of SessionSpec that `create` cannot set"
    assert session.name == "sessions/mine"
    assert session.num_frames == 9 * 12 - 3
    assert session.resume_token
    assert session.resume_token not in repr(session)
    assert gateway.seen.metadata[0]["authorization"] == "Bearer secret"
    deadline_s = gateway.seen.deadlines_s[0]
    assert deadline_s is not None
    assert 0 < deadline_s < 61  # gRPC rounds up; a picture has to be encoded first


async def test_repeats_carry_the_same_request_id_and_take_effect_once() -> None:
    script = Script(unary_failures=unavailable(), lost_answers=2)  # type: ignore[arg-type]
    async with serving(script) as gateway, Client(gateway.address) as client:
        await client.create("a red circle")
        assert len(gateway.seen.requests) == 4
        assert len({request.request_id for request in gateway.seen.requests}) == 1  # type: ignore[attr-defined]
        assert len(gateway.sessions) == 1


async def test_two_intents_have_two_request_ids_and_an_id_of_ones_own_is_kept() -> None:
    async with serving() as gateway, Client(gateway.address) as client:
        one = await client.create("a red circle")
        assert (await client.create("a red circle")).name != one.name
        mine = await client.create("a red circle", request_id="mine")
        assert (await client.create("a red circle", request_id="mine")).name == mine.name
        with pytest.raises(AlreadyExists) as caught:
            await client.create("another", request_id="mine")
        assert caught.value.reason == "REQUEST_ID_REUSED"


async def test_deadline_is_repeated_then_told() -> None:
    class Slow(FakeGateway):
        async def GetSession(self, request: object, context: object) -> object:
            self.seen.requests.append(request)  # type: ignore[arg-type]
            await asyncio.sleep(WAIT_S)
            raise AssertionError

    async with serving(kind=Slow) as gateway:
        async with Client(gateway.address, deadline_s=0.2, retry_for_s=1.5) as client:
            with pytest.raises(Unavailable) as caught:
                await client.get("x")
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert len(gateway.seen.requests) > 1


async def test_refusals_are_not_repeated() -> None:
    for code, reason, kind in [
        (Code.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", Exhausted),
        (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", Exhausted),
        (Code.UNAUTHENTICATED, "UNAUTHENTICATED", NotAllowed),
        (Code.PERMISSION_DENIED, "PERMISSION_DENIED", NotAllowed),
        (Code.FAILED_PRECONDITION, "SESSION_CLOSED", WrongState),
        (Code.ABORTED, "CONTROLLER_REPLACED", Replaced),
        (Code.INTERNAL, "INTERNAL", ServerFault),
    ]:
        script = Script(unary_failures=deque([failure(code, reason, "no", retry_info(1.5), next_block="7")]))
        async with serving(script) as gateway, Client(gateway.address) as client:
            with pytest.raises(kind) as caught:
                await client.create("a red circle")
            assert len(gateway.seen.requests) == 1
        error = caught.value
        assert (error.code, error.reason, str(error)) == (code, reason, "no")
        assert (error.retry_after_s, error.request_id) == (1.5, "call-1")
        assert error.metadata == {"next_block": "7"}


async def test_rate_limits_are_waited_out() -> None:
    limited = failure(Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", "slow down", retry_info(0.01))
    async with (
        serving(Script(unary_failures=deque([limited, limited]))) as gateway,
        Client(gateway.address) as client,
    ):
        await client.create("a red circle")
        assert len(gateway.seen.requests) == 3


async def test_refused_fields_are_named() -> None:
    async with serving() as gateway, Client(gateway.address) as client:
        with pytest.raises(InvalidRequest) as caught:
            await client.create("a red circle", width=17, height=32)
    error = caught.value
    assert [each.field for each in error.violations] == ["spec.width"]
    assert "spec.width: must be a multiple of 16" in str(error)
    assert error.reason == "INVALID_FIELD"


async def test_details_of_strangers_are_harmless() -> None:
    status = failure(Code.UNKNOWN, "X", "odd", error_details_pb2.Help())
    status.details[0].Pack(error_details_pb2.ErrorInfo(reason="PROXY", domain="elsewhere"))
    async with serving(Script(unary_failures=deque([status]))) as gateway, Client(gateway.address) as client:
        with pytest.raises(ServerFault) as caught:
            await client.get("x")
    assert caught.value.reason == ""


async def test_nobody_there_names_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with Client(address, retry_for_s=0.3) as client:
            with pytest.raises(Unavailable, match=f"no gateway answers at {address}: Connection refused"):
                await client.get("x")


async def test_the_next_address_is_tried() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with (
            serving() as gateway,
            Client(f"127.0.0.1:{taken.getsockname()[1]},{gateway.address}") as client,
        ):
            assert (await client.create("a red circle")).state == "QUEUED"


async def test_after_unavailable_a_new_connection_is_made() -> None:
    """The one in use leads to the gateway that goes away, behind whatever address."""
    script = Script(unary_failures=deque([failure(Code.UNAVAILABLE, "DRAINING", "leaving", retry_info(0))]))
    peers: list[str] = []

    class Noting(FakeGateway):
        async def _enter(self, request: object, context: grpc.aio.ServicerContext) -> None:  # type: ignore[type-arg, override]
            peers.append(str(context.peer()))
            await super()._enter(request, context)  # type: ignore[arg-type]

    async with serving(script, kind=Noting) as gateway, Client(gateway.address) as client:
        await client.create("a red circle")
    assert len(set(peers)) == 2


async def test_a_gateway_that_does_not_answer_is_not_asked_again_before_the_others() -> None:
    """Frozen, or behind a network that swallows everything: its connection stays."""

    class Frozen(FakeGateway):
        async def _enter(self, request: object, context: grpc.aio.ServicerContext) -> None:  # type: ignore[type-arg, override]
            await asyncio.Event().wait()

    async with serving(kind=Frozen) as frozen, serving() as gateway:
        target = f"{frozen.address},{gateway.address}"
        async with Client(target, deadline_s=0.3, retry_for_s=5.0) as client:
            assert (await client.create("a red circle")).state == "QUEUED"


async def test_list_goes_through_all_pages() -> None:
    async with serving() as gateway, Client(gateway.address) as client:
        for number in range(5):
            await client.create("a red circle", labels={"odd": str(number % 2)})
        everything = [session.name async for session in client.list(page_size=2)]
        assert everything == [f"sessions/s{number}" for number in (5, 4, 3, 2, 1)]
        odd = [session.name async for session in client.list(labels={"odd": "1"}, page_size=1)]
        assert odd == ["sessions/s4", "sessions/s2"]
        await client.delete("s4")
        ended = [session.end_reason async for session in client.list(states=["ENDED"])]
        assert ended == ["DELETED"]


async def test_mutations_of_a_session() -> None:
    async with serving() as gateway, Client(gateway.address) as client:
        session = await client.create("a red circle")
        paused = await client.pause(session)
        assert (paused.state, paused.resume_token) == ("PAUSED", session.resume_token)
        assert (await client.resume(session)).state == "ACTIVE"
        receipt = await client.switch(session.name, "a blue square", mode="boundary", at_block=6)
        assert (receipt.state, receipt.first_block_touched) == ("ACCEPTED", None)
        sent = gateway.seen.requests[-1]
        assert isinstance(sent, session_pb2.SwitchPromptRequest)
        assert sent.prompt_switch == session_pb2.PromptSwitch(
            text="a blue square", mode=common_pb2.SWITCH_MODE_BOUNDARY, at_block=6
        )
        token, until = await client.issue_token(session, role="viewer", ttl_s=60)
        assert token
        assert until > datetime.now(UTC)
        assert (await client.delete("s1")).end_reason == "DELETED"
        assert (await client.get("s1")).state == "ENDED"
        with pytest.raises(NotFound) as caught:
            await client.get("nothing")
        assert isinstance(caught.value, CascadeClientError)
        assert caught.value.reason == "SESSION_NOT_FOUND"


async def test_tls_and_mutual_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.issue("server")
    pair = [(key.read_bytes(), certificate.read_bytes())]
    credentials = grpc.ssl_server_credentials(pair, authority.path.read_bytes(), require_client_auth=True)
    mine, secret = authority.issue("client")
    async with serving(credentials=credentials) as gateway:
        tls = Tls(ca=authority.path, certificate=mine, key=secret)
        async with Client(gateway.address, tls=tls) as client:
            session = await client.create("a red circle", num_blocks=2)
            async with client.connect(session) as stream:
                assert [event async for event in stream][-1] == Ended("COMPLETE", 2, None)
        for wrong in (Tls(ca=authority.path), Tls(ca=Authority(tmp_path / "other").path), None):
            async with Client(gateway.address, tls=wrong, retry_for_s=0.2) as client:
                with pytest.raises(Unavailable):
                    await client.get("x")


@pytest.mark.parametrize("target", ["", "localhost", "localhost:", ":1", "a:99999", "a:1,b"])
def test_targets_that_are_no_address(target: str) -> None:
    with pytest.raises(ValueError, match="no gateway address"):
        Client(target)


def test_addresses() -> None:
    assert parse_addresses("a:1, [::1]:2") == ["a:1", "[::1]:2"]
    channels = Channels(["a:1", "b:2"], None, None)
    channels.move("b:2")
    assert channels.address == "a:1"
    channels.move("a:1")
    assert channels.address == "b:2"


def test_backoff_is_the_contracts() -> None:
    asked: list[tuple[float, float]] = []
    backoff = RetryBackoff(lambda low, high: asked.append((low, high)) or high)  # type: ignore[func-returns-value]
    waits = [backoff.next_s() for _ in range(7)]
    assert waits == [0.5, 1, 2, 4, 8, 10, LONGEST_WAIT_S]
    assert {low for low, _ in asked} == {0}
    backoff.reset()
    assert backoff.next_s(at_least_s=3) == 3.5


def test_what_is_worth_a_new_stream() -> None:
    lost = {Code.UNAVAILABLE, Code.CANCELLED, Code.INTERNAL, Code.UNKNOWN}
    assert {code for code in Code if may_reconnect(CascadeClientError("", code))} == lost


def test_position_drops_what_is_known() -> None:
    position = Position()
    assert position.attach(1, may_skip=False) is None
    assert [position.accept(sequence) for sequence in (1, 2, 2, 1, 3)] == [True, True, False, False, True]
    assert position.attach(4, may_skip=False) is None
    assert position.attach(7, may_skip=True) == 4
    assert not position.accept(6)
    assert position.accept(7)
