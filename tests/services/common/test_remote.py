"""What a service makes of another's refusal, and of its silence."""

from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from cascade_core.errors import CascadeError, SessionLost
from services.common import errors
from services.common.packing import MAX_STATUS_BYTES
from services.common.remote import LOST, TRAILER, RemoteError, remote_error
from services.common.status import describe, find_row
from services.common.validation import InvalidField
from tests.services.common.test_errors import failure, parts, unpacked
from tests.services.support.echo import Echo, chat, exchange, say, serving

Code = grpc.StatusCode


async def refusal(error: BaseException) -> RemoteError:
    return remote_error(await failure(Echo(error)))


async def test_a_refusal_keeps_code_reason_and_details() -> None:
    seen = await refusal(errors.Fenced("moved on", epoch=7))
    assert (seen.code, seen.reason, seen.retry_after_s) == (Code.ABORTED, "FENCED", None)
    assert seen.metadata == {"epoch": "7"}
    assert str(seen) == "FENCED: moved on"
    assert not seen.retryable
    assert not seen.is_lost


@pytest.mark.parametrize(
    ("error", "reason", "retry_after_s"),
    [
        (SessionLost("a rank died"), "SESSION_LOST", 0.0),
        (errors.RateLimited("slow down", 2.25), "RATE_LIMITED", 2.25),
        (RuntimeError("secret"), "INTERNAL", None),
    ],
)
async def test_when_to_repeat(error: Exception, reason: str, retry_after_s: float | None) -> None:
    seen = await refusal(error)
    assert (seen.reason, seen.retry_after_s) == (reason, retry_after_s)
    assert seen.retryable == (retry_after_s is not None)
    assert not seen.is_lost, "somebody there gave a reason"


async def test_the_error_of_a_stream_is_read_alike() -> None:
    async with serving(Echo(SessionLost("gone"))) as (_, channel):
        stream = chat(channel)
        await exchange(stream, "a")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await exchange(stream, "fail")
    assert remote_error(caught.value).reason == "SESSION_LOST"


async def test_a_peer_that_is_gone_or_silent_is_lost() -> None:
    async with serving(Echo()) as (server, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await chat(channel, timeout=0.2).read()
        silent = remote_error(caught.value)
        address = f"127.0.0.1:{server.port}"
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await say(channel, "x")
    gone = remote_error(caught.value)
    assert (silent.code, gone.code) == (Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE)
    assert silent.is_lost
    assert gone.is_lost


class Trailing(Echo):
    """Ends each call as a library or proxy might."""

    def __init__(self, code: grpc.StatusCode, trailer: bytes) -> None:
        super().__init__()
        self.code, self.trailer = code, trailer

    async def say(self, request: StringValue, context: Any) -> StringValue:
        await context.abort(self.code, "no more", ((TRAILER, self.trailer),))
        raise AssertionError


@pytest.mark.parametrize(
    "trailer",
    [b"\xff\xff", describe(errors.Fenced("other", epoch=1), "r").SerializeToString(), b""],
    ids=["damaged", "of another code", "empty"],
)
async def test_details_that_do_not_belong_to_the_call_are_passed_over(trailer: bytes) -> None:
    seen = remote_error(await failure(Trailing(Code.UNAVAILABLE, trailer)))
    assert (seen.code, seen.reason, seen.status.message) == (Code.UNAVAILABLE, "", "no more")
    assert seen.is_lost


@pytest.mark.parametrize(
    "error",
    [
        errors.BlockNotAhead("too late", next_block=12),
        errors.QueueFull("1000 wait"),
        InvalidField([("spec.fps", "must be at least 1")]),
    ],
)
async def test_a_refusal_is_handed_on_as_it_was_said(error: CascadeError) -> None:
    behind = await failure(Echo(error), metadata=(("x-request-id", "inner"),))
    front = await failure(Echo(remote_error(behind)), metadata=(("x-request-id", "outer"),))
    seen, expected = parts(front), parts(behind)
    assert (front.code(), front.details()) == (behind.code(), behind.details())
    assert expected.pop("RequestInfo").request_id == "inner"
    assert seen.pop("RequestInfo").request_id == "outer"
    assert seen == expected


@pytest.mark.parametrize("code", sorted(LOST, key=lambda code: code.name))
def test_the_loss_of_a_peer_is_told_in_our_words(code: grpc.StatusCode) -> None:
    status = describe(RemoteError(Status(code=code.value[0], message="ipv4:10.0.0.7:50061")), "r")
    assert (status.code, unpacked(status)["ErrorInfo"].reason) == (Code.UNAVAILABLE.value[0], "NOT_READY")
    assert "10.0.0.7" not in str(status)


@pytest.mark.parametrize("code", [Code.UNIMPLEMENTED, Code.RESOURCE_EXHAUSTED, Code.UNAUTHENTICATED])
def test_what_a_library_refused_is_a_defect_of_ours(code: grpc.StatusCode) -> None:
    error = RemoteError(Status(code=code.value[0], message="secret"))
    assert find_row(error) is None, "so it is logged"
    status = describe(error, "r")
    assert (status.code, status.message) == (Code.INTERNAL.value[0], "internal error")


def test_another_domain_is_no_reason_of_ours() -> None:
    status = Status(code=Code.UNAVAILABLE.value[0])
    status.details.add().Pack(details.ErrorInfo(reason="FENCED", domain="proxy", metadata={"epoch": "1"}))
    seen = RemoteError.from_status(status)
    assert (seen.reason, seen.metadata, seen.is_lost) == ("", {}, True)


def test_a_huge_status_is_cut_and_keeps_its_reason() -> None:
    status = describe(errors.Fenced("x", epoch=3), "inner")
    status.message = "é" * 1_000_000
    for _ in range(1000):
        status.details.add().Pack(details.DebugInfo(detail="x" * 1000))
    passed = describe(RemoteError.from_status(status), "outer")
    assert passed.ByteSize() <= MAX_STATUS_BYTES
    assert unpacked(passed)["ErrorInfo"].metadata == {"epoch": "3"}
    assert unpacked(passed)["RequestInfo"].request_id == "outer"


PART_TYPES = st.sampled_from([details.ErrorInfo, details.RetryInfo, details.RequestInfo, details.BadRequest])
PARTS = st.builds(
    lambda kind, value: PackedAny(type_url=f"type.googleapis.com/{kind.DESCRIPTOR.full_name}", value=value),
    PART_TYPES,
    st.binary(max_size=64),
)


@given(st.integers(-(2**31), 2**31 - 1), st.text(max_size=50), st.lists(PARTS, max_size=5))
def test_any_status_of_a_peer_can_be_handed_on(code: int, message: str, found: list[PackedAny]) -> None:
    error = RemoteError.from_status(Status(code=code, message=message, details=found))
    status = describe(error, "r")
    assert 0 < status.code <= 16
    assert status.ByteSize() <= MAX_STATUS_BYTES
