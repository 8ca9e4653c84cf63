"""What a client sees of each error: status code, reason, details; and what it must not see."""

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2 as details
from grpc_status import rpc_status

from cascade.v1 import common_pb2
from cascade_core.errors import (
    CascadeError,
    InvalidConfig,
    InvalidPrompt,
    OutOfCapacity,
    SessionClosed,
    SessionLost,
    UnknownModel,
    UserError,
    WeightsError,
)
from services.common import errors
from services.common.errors import QuotaExceeded, ServiceError
from services.common.status import describe, reason_of
from services.common.validation import InvalidField
from tests.paths import ROOT
from tests.services.support.echo import Echo, chat, exchange, say, serving

GROUPS = {CascadeError, ServiceError, UserError}
MODULES = {"cascade_core.errors", "services.common.errors", "services.common.validation"}
COMMON = ROOT / "proto/cascade/v1/common.proto"
SPECIAL: dict[type[CascadeError], Callable[[], CascadeError]] = {
    QuotaExceeded: lambda: QuotaExceeded("told", subject="tenant:acme"),
    errors.Fenced: lambda: errors.Fenced("told", epoch=7),
    errors.BlockNotAhead: lambda: errors.BlockNotAhead("told", next_block=9),
    errors.RateLimited: lambda: errors.RateLimited("told", 2.5),
    errors.UnsupportedMedia: lambda: errors.UnsupportedMedia("told", field="spec.fps"),
    InvalidField: lambda: InvalidField([("told", "wrong")]),
}


def tree(root: type[CascadeError]) -> Iterator[type[CascadeError]]:
    for kind in root.__subclasses__():
        if kind.__module__ in MODULES:
            yield from ([] if kind in GROUPS else [kind])
            yield from tree(kind)


def make_error(kind: type[CascadeError]) -> CascadeError:
    return SPECIAL.get(kind, lambda: kind("told"))()


def promised() -> dict[str, tuple[str, bool]]:
    """What the contract says: reason -> (status code, whether RetryInfo tells when to repeat)."""
    body = COMMON.read_text().split("enum ErrorReason {")[1].split("\n}")[0]
    entries = re.findall(r"((?:  //.*\n)+)  ERROR_REASON_(\w+) = \d+;", body)
    found = {}
    for comment, reason in entries:
        code, _, repeat = comment.strip().removeprefix("// ").partition(", ")
        found[reason] = (code, repeat.startswith(("wait", "at once")))
    del found["UNSPECIFIED"]
    return found


def parts(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """The google.rpc details by name."""
    return unpacked(rpc_status.from_call(error))  # type: ignore[arg-type]


def unpacked(status: Any) -> dict[str, Any]:
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


def test_reasons_of_the_contract_and_classes_of_errors_are_the_same() -> None:
    said = promised()
    assert said.keys() == {name.removeprefix("ERROR_REASON_") for name in common_pb2.ErrorReason.keys()[1:]}
    seen = {reason_of(make_error(kind)) for kind in tree(CascadeError)}
    assert seen == said.keys()
    assert {reason_of(kind("x")) for kind in (InvalidConfig, WeightsError, OSError)} == {"INTERNAL"}


async def test_every_error_reaches_the_client_as_the_contract_says() -> None:
    echo, said = Echo(), promised()
    async with serving(echo) as (_, channel):
        for kind in tree(CascadeError):
            echo.error = make_error(kind)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await say(channel, "x", metadata=(("x-request-id", "r-1"),))
            seen, reason = parts(caught.value), reason_of(echo.error)
            code, tells_when = said[reason]
            assert caught.value.code().name == code, kind
            assert caught.value.details() == ("internal error" if reason == "INTERNAL" else str(echo.error))
            assert (seen["ErrorInfo"].reason, seen["ErrorInfo"].domain) == (reason, "cascade")
            assert seen["RequestInfo"].request_id == "r-1"
            assert ("RetryInfo" in seen) == tells_when, kind
            assert ("QuotaFailure" in seen) == (kind is QuotaExceeded)


def test_details_of_an_error_reach_the_client() -> None:
    def told(error: CascadeError) -> dict[str, Any]:
        return unpacked(describe(error, "r"))

    assert told(errors.Fenced("x", epoch=7))["ErrorInfo"].metadata == {"epoch": "7"}
    assert told(errors.BlockNotAhead("x", next_block=9))["ErrorInfo"].metadata == {"next_block": "9"}
    closed = errors.with_details(SessionClosed("x"), metadata={"end_reason": "IDLE"})
    assert told(closed)["ErrorInfo"].metadata == {"end_reason": "IDLE"}
    assert told(errors.RateLimited("x", 2.5))["RetryInfo"].retry_delay.ToMilliseconds() == 2500
    field = errors.with_details(InvalidPrompt("too long"), violations=[("text", "has 600 tokens")])
    assert told(field)["BadRequest"].field_violations[0].field == "text"
    fenced = errors.with_details(errors.Fenced("x", epoch=7), violations=[("open.epoch", "is not above 7")])
    assert told(fenced)["ErrorInfo"].metadata == {"epoch": "7"}
    model = errors.with_details(UnknownModel("x"), metadata={"known": "model, " * 1000})
    assert 1000 < len(told(model)["ErrorInfo"].metadata["known"].encode()) <= 1024
    assert told(model)["RequestInfo"].request_id == "r"


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (OutOfCapacity("full"), grpc.StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_CAPACITY"),
        (SessionLost("gone"), grpc.StatusCode.UNAVAILABLE, "SESSION_LOST"),
        (errors.Fenced("epoch 3", epoch=3), grpc.StatusCode.ABORTED, "FENCED"),
        (errors.SessionNotFound("session s"), grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"),
        (InvalidConfig("/secret"), grpc.StatusCode.INTERNAL, "INTERNAL"),
    ],
)
async def test_the_contract_of_some(error: Exception, code: grpc.StatusCode, reason: str) -> None:
    seen = await failure(Echo(error))
    assert (seen.code(), parts(seen)["ErrorInfo"].reason) == (code, reason)


async def test_a_quota_names_whose_it_is() -> None:
    seen = parts(await failure(Echo(QuotaExceeded("3 sessions", subject="tenant:acme"))))
    assert seen["QuotaFailure"].violations[0].subject == "tenant:acme"


class Mute(SessionLost):
    """Cannot be told: telling it fails."""

    def __str__(self) -> str:
        raise KeyError("secret")


@pytest.mark.parametrize(
    "error",
    [
        *(kind("secret") for kind in (RuntimeError, ValueError, TimeoutError, StopAsyncIteration)),
        asyncio.CancelledError("secret"),  # of something that the handler waited for: the call is not
        BaseExceptionGroup("secret", [asyncio.CancelledError("secret")]),
        Mute(""),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_unknown_error_is_internal_and_says_nothing(error: BaseException) -> None:
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
    for error in (Crowd("é" * 100_000), errors.SessionNotFound("\U0001f600" * 100_000)):
        seen = await failure(Echo(error))
        assert seen.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
        trailing = sum(len(key) + len(value) * 4 / 3 for key, value in seen.trailing_metadata())
        assert trailing + 3 * len((seen.details() or "").encode()) < 8192
    status = describe(Crowd("x"), "r")
    assert unpacked(status).keys() == {"ErrorInfo", "RequestInfo", "BadRequest"}
    await asyncio.sleep(0)


async def test_an_unknown_method_is_unimplemented() -> None:
    async with serving(Echo()) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/cascade.test.Echo/Nothing")(b"", timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
