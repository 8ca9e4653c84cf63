"""Schemathesis reads the OpenAPI document and attacks what it describes: valid requests and broken ones."""

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from hashlib import sha256
from itertools import count
from typing import Any

import pytest
import pytest_asyncio
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode, checks
from schemathesis.specs.openapi.checks import positive_data_acceptance

from cascade.v1 import session_pb2
from services.web.openapi import document
from tests.services.support.fake_decoder import UNUSABLE
from tests.services.support.gateway_support import STATES
from tests.services.support.video_support import WebTown, browsing, web_town

OPERATIONS = [
    f"{verb.upper()} {path}"
    for path, verbs in document()["paths"].items()
    for verb in verbs
    if not path.endswith("/connect")  # a WebSocket
]
NUM_EXAMPLES = 15
CALL_S = 20.0
REFUSALS = ["400", "401", "403", "404", "405", "409", "413", "415", "429", "431", "503"]
EXCLUDED = [checks.not_a_server_error, positive_data_acceptance]
"""Server errors are looked at below. What the document allows may be refused: a request_id comes in the
header or in the body, a page token must be one of ours."""
LORAS = {"ink": "i1", "clay": "c1", "neon": "n1"}


STRANGE_NUMBERS = (-0.0, 1e-320, 1e300, "NaN", "Infinity", "-Infinity", "1", "", True, None)


def base64_of(*files: bytes) -> SearchStrategy[str]:
    return st.sampled_from([b64encode(file).decode() for file in files])


def bodies(*, are_good: bool) -> dict[str, SearchStrategy[dict[str, Any]]]:
    """What these calls are asked for, beside what Schemathesis makes up: that is never a file, nor the name
    of what there is. What is not good, nearly is."""

    def mostly(good: SearchStrategy[Any], *wrong: Any) -> SearchStrategy[Any]:
        return good if are_good else st.one_of(good, good, st.sampled_from(wrong))

    def some(needed: dict[str, Any], optional: dict[str, Any]) -> SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries(needed | optional) | st.fixed_dictionaries(needed, optional=optional)

    fits = mostly(st.sampled_from(["FIT_CROP", "FIT_PAD", "FIT_UNSPECIFIED"]), "FIT_STRETCH", 7, None)
    lasts = mostly(st.sampled_from(["0.001s", "2s", "60s"]), "0s", "-1s", "60.1s", "2", "", None)
    images = mostly(base64_of(b"picture", bytes(1000)), "", "=", "a b", None, 7, {})
    videos = mostly(base64_of(b"clip", bytes(40)), *(b64encode(UNUSABLE).decode(), "-_-_", "", None))
    starts = st.one_of(
        st.fixed_dictionaries({"image": images}, optional={"fit": fits}),
        st.fixed_dictionaries({"video": videos}, optional={"fit": fits, "last": lasts}),
    )
    both = {"image": b64encode(b"one").decode(), "video": b64encode(b"two").decode()}
    starts = mostly(starts, {}, None, {"last": "2s"}, both)
    texts = mostly(st.sampled_from(["a red circle", "ein Kreis \u2b24"]), "", " \n", "x" * 32769, None)
    weights = mostly(st.floats(1e-6, 1000.0), 0, -1, 1000.001, *STRANGE_NUMBERS)
    parts = st.lists(st.fixed_dictionaries({"text": texts, "weight": weights}), min_size=1, max_size=8)
    mixes = st.fixed_dictionaries({"prompts": mostly(parts, [], [{}], None, [{"text": "x"}] * 9)})
    ways = mostly(st.sampled_from(["INTERPOLATION_LINEAR", "INTERPOLATION_SLERP"]), "x", None)
    lengths = mostly(st.integers(1, 64), 0, 65, -1, 1.5, 2**32, "4", None)
    transitions = st.fixed_dictionaries({"numBlocks": lengths}, optional={"interpolation": ways})
    names = mostly(st.sampled_from(sorted(LORAS)), "wool", "", "Ink", "../ink", None)
    scales = mostly(st.floats(-4.0, 4.0), 4.001, -5, *STRANGE_NUMBERS)
    choices = st.fixed_dictionaries({"name": names}, optional={"scale": scales})
    distinct = (lambda choice: choice["name"]) if are_good else None
    loras = st.lists(choices, min_size=1, max_size=3 if are_good else 4, unique_by=distinct)
    modes = mostly(st.sampled_from(["SWITCH_MODE_IMMEDIATE", "SWITCH_MODE_RECACHE"]), "SWITCH_MODE_CUT", 9)
    spec = some(
        {
            "prompts": mostly(st.just({"0": "a red circle", "4": "a ring"}), {}, None, {"4": "a ring"}),
            "labels": st.just({"a": "b"}),
        },
        {
            "start": starts,
            "mixes": st.dictionaries(mostly(st.just("12"), "0", "4", "-1", "2147483648"), mixes, min_size=1),
            "transitions": st.dictionaries(mostly(st.just("4"), "0", "5", "12"), transitions, min_size=1),
            "loras": loras,
            "switchMode": modes,
            "numBlocks": mostly(st.just("20"), "1", "0"),
            "includeStart": mostly(st.just(False), True),
        },
    )
    asked = some(
        {"text": mostly(st.just("a blue square"), "", " ", None)},
        {
            "mix": mixes,
            "transition": transitions,
            "loras": st.fixed_dictionaries({"loras": loras}),
            "mode": modes,
            "atBlock": mostly(st.just("2147483647"), "0", "4"),
        },
    )
    return {
        "/v1/sessions": spec.map(lambda spec: {"spec": spec}),
        "/v1/sessions/{session}:switchPrompt": asked.map(lambda asked: {"promptSwitch": asked}),
        "/v1/sessions/{session}:issueResumeToken": st.just({"role": "CONNECT_ROLE_VIEWER"}),
    }


GOOD, NEARLY = bodies(are_good=True), bodies(are_good=False)
REACHED = {
    "POST /v1/sessions": {"start", "mixes", "transitions", "loras"},
    "POST /v1/sessions/{session}:switchPrompt": {"mix", "transition", "loras"},
}
"""What is to be among that which was taken."""
NUM_BODIES = 60
"""Examples of these operations."""
numbers = count(1)


class Attack:
    """On one operation, as the tenant acme."""

    def __init__(self, url: str, operation: str, mode: GenerationMode, good: dict[str, Any]) -> None:
        """`good`: path parameters that lead somewhere."""
        self.statuses: set[int] = set()
        """That came."""
        self.taken: set[str] = set()
        """Fields of the bodies that were."""
        self._mode = mode
        self._good = good
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        schema.config.checks.negative_data_rejection.expected_statuses = REFUSALS
        schema.auth()(Key)
        verb, _, path = operation.partition(" ")
        is_filled = operation in REACHED and mode is GenerationMode.POSITIVE
        self._num_examples = NUM_BODIES if is_filled else NUM_EXAMPLES
        self._operation = schema[path][verb]

    def run(self) -> None:
        """Raises what schemathesis finds."""

        @settings(
            max_examples=self._num_examples,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(self._operation.as_strategy(generation_mode=self._mode), st.data())
        def probe(case: Any, data: st.DataObject) -> None:
            self._call(case, data)

        probe()

    def _call(self, case: Any, data: st.DataObject) -> None:
        is_improved = self._mode is GenerationMode.POSITIVE and data.draw(st.booleans())
        if is_improved:
            improve(case, self._good, data)
        answer = case.call(timeout=CALL_S, allow_redirects=False)
        self.statuses.add(answer.status_code)
        if is_improved and answer.status_code < 300 and isinstance(case.body, dict):
            self.taken |= {name for value in case.body.values() if isinstance(value, dict) for name in value}
        assert answer.status_code < 500 or is_refusal(answer), (case.as_curl_command(), answer.text)
        case.validate_response(answer, excluded_checks=EXCLUDED)


def attacked(url: str, operation: str, mode: GenerationMode, good: dict[str, Any]) -> Attack:
    attack = Attack(url, operation, mode, good)
    attack.run()
    return attack


class Key:
    """Schemathesis leaves it out, or spoils it, where it looks whether anybody gets in without."""

    def get(self, case: Any, context: Any) -> str:
        return "Bearer key-acme"

    def set(self, case: Any, data: str, context: Any) -> None:
        case.headers["authorization"] = data


def improve(case: Any, good: dict[str, Any], data: st.DataObject) -> None:
    """So that the call does more than to be refused: what is only valid as JSON gets a meaning."""
    for name in case.path_parameters or {}:
        case.path_parameters[name] = good[name]
    for name in ("resume_token", "X-Resume-Token", "profile", "pageToken", "Idempotency-Key"):
        (case.query or {}).pop(name, None)
        (case.headers or {}).pop(name, None)
    if isinstance(case.body, dict):
        found = [wishes[case.path] for wishes in (GOOD, NEARLY) if case.path in wishes]
        case.body = dict(data.draw(st.one_of(found or [st.just({})])))
        if "role" not in case.body:
            case.body["requestId"] = f"attack-{next(numbers)}"


def is_refusal(answer: Any) -> bool:
    """503 says when to come again; any other 5xx is a defect."""
    return answer.status_code == requests.codes.unavailable and "retry-after" in answer.headers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place() -> AsyncIterator[WebTown]:
    generous = {"max_calls_per_s": 10_000.0, "operator_tenants": ["acme"]}
    stage = {"loras": LORAS, "scene_cuts": True}
    async with web_town(tenants=("acme",), stage=stage, **generous) as place:
        yield place


async def clear(place: WebTown) -> None:
    """Sessions that the attack made hold places."""
    found = await place.anybody.call("ListSessions", session_pb2.ListSessionsRequest(page_size=200))
    for session in found.sessions:
        if STATES[session.state] != "ENDED":
            await place.anybody.delete(session.name)


async def in_parts(place: WebTown, session: str) -> int:
    """A segment that somebody who reads by HTTP has had in parts."""
    async with browsing(place, "acme") as client, place.anybody.attached(f"sessions/{session}") as stream:
        await client.get(f"/v1/sessions/{session}/hls/index.m3u8")
        await stream.until_sequence(stream.sequences[-1] + 6)
        text = (await client.get(f"/v1/sessions/{session}/hls/low-latency.m3u8")).text
    return int(re.findall(r'"(\d+)\.1\.0\.m4s', text)[-1])


@pytest.mark.parametrize("mode", GenerationMode, ids=[mode.value for mode in GenerationMode])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.asyncio(loop_scope="module")
async def test_the_document_and_the_gateway_agree(
    place: WebTown, operation: str, mode: GenerationMode
) -> None:
    session = (await place.anybody.name()).removeprefix("sessions/")
    digest = sha256(place.decoder.encoder.init_segment).hexdigest()[:12]
    good = {"session": session, "sequence": 1, "digest": digest, "epoch": 1, "index": 0}
    if operation.endswith("{index}.m4s"):
        good["sequence"] = await in_parts(place, session)
    attack = await asyncio.to_thread(attacked, place.web, operation, mode, good)
    await clear(place)
    wanted = range(200, 300) if mode is GenerationMode.POSITIVE else range(400, 500)
    assert any(status in wanted for status in attack.statuses), attack.statuses
    if mode is GenerationMode.POSITIVE:
        assert attack.taken >= REACHED.get(operation, set())
