"""What a client sees of each error: status code, reason, details; and what it must not see."""

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2 as details
from grpc_status import rpc_status

from cascade_core.errors import CascadeError, OutOfCapacity, SessionLost
from services.common import errors
from services.common.errors import QuotaExceeded, ServiceError
from services.common.status import describe, find_row, reason_of
from tests.services.echo import Echo, chat, exchange, say, serving

GROUPS = {CascadeError, ServiceError}
MODULES = {"cascade_core.errors", "services.common.errors"}


def tree(root: type[CascadeError]) -> Iterator[type[CascadeError]]:
    for kind in root.__subclasses__():
        if kind.__module__ in MODULES:
            yield from ([] if kind in GROUPS else [kind])
            yield from tree(kind)


def make_error(kind: type[CascadeError]) -> CascadeError:
    return QuotaExceeded("told", subject="tenant:acme") if kind is QuotaExceeded else kind("told")


def parts(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """The google.rpc details by name."""
    status: Any = rpc_status.from_call(error)  # type: ignore[arg-type]
    found = {}
    for packed in status.details:
        part = getattr(details, packed.type_url.rsplit(".", 1)[1])()
        assert packed.Unpack(part)
        found[type(part).__name__] = part
    return found


async def failure(echo: Echo, **call: Any) -> grpc.aio.AioRpcError:
    async with serving(echo) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await say(channel, "x", **call)
        return caught.value


async def test_every_error_of_both_trees_reaches_the_client() -> None:
    echo = Echo()
    kinds = list(tree(CascadeError))
    assert len(kinds) >= 18
    async with serving(echo) as (_, channel):
        for kind in kinds:
            echo.error = make_error(kind)
            row = find_row(echo.error)
            assert row, f"{kind.__name__} has no row"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await say(channel, "x", metadata=(("x-request-id", "r-1"),))
            seen = parts(caught.value)
            assert caught.value.code() is row.code
            assert caught.value.details() == "told"
            assert (seen["ErrorInfo"].reason, seen["ErrorInfo"].domain) == (reason_of(echo.error), "cascade")
            assert seen["RequestInfo"].request_id == "r-1"
            assert ("RetryInfo" in seen) == kind.retryable, kind
            assert ("QuotaFailure" in seen) == (kind is QuotaExceeded)


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (OutOfCapacity("full"), grpc.StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_CAPACITY"),
        (SessionLost("gone"), grpc.StatusCode.UNAVAILABLE, "SESSION_LOST"),
        (errors.Fenced("epoch 3"), grpc.StatusCode.ABORTED, "FENCED"),
        (errors.NotFound("session s"), grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
    ],
)
async def test_the_contract_of_some(error: Exception, code: grpc.StatusCode, reason: str) -> None:
    seen = await failure(Echo(error))
    assert (seen.code(), parts(seen)["ErrorInfo"].reason) == (code, reason)


async def test_a_quota_names_whose_it_is() -> None:
    seen = parts(await failure(Echo(QuotaExceeded("3 sessions", subject="tenant:acme"))))
    assert seen["QuotaFailure"].violations[0].subject == "tenant:acme"


@pytest.mark.parametrize("error", [RuntimeError("secret"), ValueError("secret"), TimeoutError("secret")])
async def test_an_unknown_error_is_internal_and_says_nothing(error: Exception) -> None:
    seen = await failure(Echo(error))
    assert (seen.code(), seen.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert "secret" not in str(rpc_status.from_call(seen))  # type: ignore[arg-type]
    assert parts(seen)["RequestInfo"].request_id


async def test_the_error_inside_a_task_group_counts() -> None:
    group = ExceptionGroup("tasks", [RuntimeError("x"), ExceptionGroup("inner", [SessionLost("gone")])])
    assert (await failure(Echo(group))).code() is grpc.StatusCode.UNAVAILABLE


async def test_a_stream_ends_with_its_error_after_what_was_sent() -> None:
    async with serving(Echo(SessionLost("gone"))) as (_, channel):
        stream = chat(channel)
        assert await exchange(stream, "a") == "a"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await exchange(stream, "fail")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


class Crowd(CascadeError):
    violations = (("field" * 200, "wrong é" * 200),) * 1000


async def test_metadata_stays_under_8_kib_however_much_there_is_to_say() -> None:
    for error in (Crowd("é" * 100_000), errors.NotFound("\U0001f600" * 100_000)):
        seen = await failure(Echo(error))
        assert seen.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
        trailing = sum(len(key) + len(value) * 4 / 3 for key, value in seen.trailing_metadata())
        assert trailing + 3 * len((seen.details() or "").encode()) < 8192
    assert len(describe(Crowd("x"), "r").details) == 3
    await asyncio.sleep(0)


async def test_an_unknown_method_is_unimplemented() -> None:
    async with serving(Echo()) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/cascade.test.Echo/Nothing")(b"", timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
