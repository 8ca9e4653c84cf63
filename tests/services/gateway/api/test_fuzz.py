"""Requests and streams at random, whole and broken: every answer is one of the contract's, and the service
stays well."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascade.v1 import common_pb2
from cascade.v1 import session_pb2 as pb
from tests.services.common.test_errors import parts, unpacked
from tests.services.support.fake_stage import REFUSED
from tests.services.support.gateway_support import PROMPT, Town, town

REASONS = {name.removeprefix("ERROR_REASON_") for name, _ in common_pb2.ErrorReason.items()}
FORBIDDEN = {"INTERNAL", "UNSPECIFIED"}
SETTINGS = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
NUM_CALLS = 40
NAMES = st.sampled_from(
    ["sessions/a", "sessions/b", "sessions/nobodys", "sessions/", "a", "", "sessions/A", "\x00"]
)
IDS = st.sampled_from(["r1", "r2", "r3", "", "with space", "x" * 65, "ä", "create/0"])
TEXTS = st.one_of(st.sampled_from([PROMPT, "a blue square", REFUSED, "", " "]), st.text(max_size=20))
BLOCKS = st.sampled_from([0, 1, 5, 1000, 2**31 - 1, 2**31, 2**64 - 1])
NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 5, 7, 15, 16, 64, 65, 500, 501, 4096, 2**32 - 1])
FLOATS = st.sampled_from([0.0, 0.5, 1.0, 16.0, 120.0, 121.0, -1.0, float("nan"), float("inf")])
SECONDS = st.builds(lambda seconds: {"seconds": seconds}, st.sampled_from([-1, 0, 1, 10, 60, 86400, 86401]))


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


PROFILES = st.lists(some(id=st.sampled_from(["a", "b", "B", ""]), encoder=st.integers(0, 3)), max_size=5)
SPECS = some(
    model=st.sampled_from(["", "demo", "other", "DEMO"]),
    prompts=st.dictionaries(BLOCKS, TEXTS, max_size=4) | st.just({0: PROMPT}),
    switch_mode=st.integers(0, 5),
    stagger=st.integers(0, 18),
    inflight_attention=st.integers(0, 3),
    seed=BLOCKS,
    width=NUMBERS,
    height=NUMBERS,
    fps=FLOATS,
    profiles=PROFILES,
    num_blocks=BLOCKS,
    idle_timeout=SECONDS,
    priority=st.integers(0, 4),
    labels=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
)
GOOD_SPECS = st.fixed_dictionaries(
    {"prompts": st.just({0: PROMPT})}, optional={"num_blocks": st.integers(1, 9)}
)
SWITCHES = some(text=TEXTS, mode=st.integers(0, 5), at_block=BLOCKS)
TOKENS = st.one_of(st.just("TOKEN"), st.text(max_size=30), st.just("x" * 2049))
SESSION_IDS = st.sampled_from(["a", "b", "", "-a", "A", "x" * 64])
CALLS = st.one_of(
    st.tuples(
        st.just("CreateSession"),
        some(request_id=IDS, session_id=SESSION_IDS, spec=SPECS)
        | st.fixed_dictionaries({"request_id": IDS, "session_id": SESSION_IDS, "spec": GOOD_SPECS}),
    ),
    st.tuples(st.just("GetSession"), some(name=NAMES)),
    st.tuples(
        st.just("ListSessions"),
        some(
            page_size=NUMBERS,
            page_token=TOKENS,
            states=st.lists(st.integers(0, 8), max_size=9),
            labels=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
        ),
    ),
    st.tuples(st.just("DeleteSession"), some(name=NAMES, request_id=IDS)),
    st.tuples(st.just("SwitchPrompt"), some(name=NAMES, request_id=IDS, prompt_switch=SWITCHES)),
    st.tuples(st.just("PauseSession"), some(name=NAMES, request_id=IDS)),
    st.tuples(st.just("ResumeSession"), some(name=NAMES, request_id=IDS)),
    st.tuples(st.just("IssueResumeToken"), some(name=NAMES, role=st.integers(0, 3), ttl=SECONDS)),
)
ATTACHES = some(
    name=NAMES,
    role=st.integers(0, 3),
    resume_token=TOKENS,
    after_sequence=BLOCKS,
    profile_id=st.sampled_from(["", "default", "other", "A"]),
    max_unacked_segments=NUMBERS,
    client=st.text(max_size=5),
)
GOOD_ATTACHES = st.fixed_dictionaries(
    {"name": st.sampled_from(["sessions/a", "sessions/b"])},
    optional={"role": st.integers(0, 2), "max_unacked_segments": st.integers(0, 64)},
)
MESSAGES = st.one_of(
    st.builds(lambda sequence: {"ack": {"sequence": sequence}}, BLOCKS),
    st.builds(lambda fields: {"switch_prompt": fields}, some(request_id=IDS, prompt_switch=SWITCHES)),
    st.builds(lambda fields: {"set_paused": fields}, some(request_id=IDS, paused=st.booleans())),
    st.builds(lambda request_id: {"end": {"request_id": request_id}}, IDS),
    st.builds(lambda fields: {"attach": fields}, ATTACHES),
    st.just({}),
)
STREAMS = st.tuples(
    st.one_of(
        st.builds(lambda fields: {"attach": fields}, ATTACHES),
        st.builds(lambda fields: {"attach": fields}, GOOD_ATTACHES),
        MESSAGES,
    ),
    st.lists(MESSAGES, max_size=6),
    st.booleans(),
)


@asynccontextmanager
async def busy_town() -> AsyncIterator[tuple[Town, str]]:
    """With two sessions, and a token of the first."""
    async with asyncio.timeout(60), town(max_calls_per_s=100_000.0) as place:
        created = await place.anybody.create(session_id="a")
        await place.anybody.create(session_id="b")
        yield place, created.resume_token


async def check_well(place: Town) -> None:
    """A session plays to its end."""
    for session in ("a", "b"):
        await place.anybody.delete(f"sessions/{session}", "the-end")
    name = await place.anybody.name(num_blocks=2)
    async with place.anybody.attached(name) as stream:
        await stream.until_over()
    assert stream.end_reason == "COMPLETE"


def check_error(error: grpc.aio.AioRpcError) -> None:
    """As the contract has it."""
    info = parts(error)["ErrorInfo"]
    assert info.domain == "cascade"
    assert info.reason in REASONS - FORBIDDEN, error
    assert error.code() not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), error


@given(calls=st.lists(CALLS, min_size=1, max_size=NUM_CALLS))
@SETTINGS
def test_any_calls_are_answered_as_the_contract_says(calls: list[tuple[str, dict[str, Any]]]) -> None:
    asyncio.run(make_calls(calls))


async def make_calls(calls: list[tuple[str, dict[str, Any]]]) -> None:
    async with busy_town() as (place, _):

        async def make(method: str, fields: dict[str, Any]) -> None:
            try:
                request = getattr(pb, f"{method}Request")(**fields)
            except (ValueError, TypeError):
                return  # the library does not let it pass: a surrogate, for example
            try:
                await place.anybody.call(method, request)
            except grpc.aio.AioRpcError as error:
                check_error(error)

        await asyncio.gather(*(make(method, fields) for method, fields in calls))
        await check_well(place)


@given(streams=st.lists(STREAMS, min_size=1, max_size=12))
@SETTINGS
def test_any_streams_end_as_the_contract_says(streams: list[tuple[Any, list[Any], bool]]) -> None:
    asyncio.run(open_streams(streams))


async def open_streams(streams: list[tuple[Any, list[Any], bool]]) -> None:
    async with busy_town() as (place, token):

        async def open_one(first: dict[str, Any], others: list[Any], is_half_closed: bool) -> None:
            stream = place.anybody.stream(acks=False)
            stream.start()
            try:
                for message in (first, *others):
                    await stream.send(**with_token(message, token))
                    await asyncio.sleep(0.005)
                if is_half_closed:
                    await stream.call.done_writing()
            except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
                await stream.until_over()
            await asyncio.sleep(0.05)
            if stream.error and "from Core" not in str(stream.error.details()):
                check_error(stream.error)
            for failed in stream.all("request_failed"):
                assert unpacked(failed.status)["ErrorInfo"].reason in REASONS - FORBIDDEN
            assert stream.sequences == sorted(set(stream.sequences))
            await stream.cut()

        await asyncio.gather(*(open_one(*stream) for stream in streams))
        await check_well(place)


def with_token(message: dict[str, Any], token: str) -> dict[str, Any]:
    """A good token in place of `TOKEN`."""
    if message.get("attach", {}).get("resume_token") != "TOKEN":
        return message
    return {"attach": message["attach"] | {"resume_token": token}}
