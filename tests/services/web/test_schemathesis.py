"""Schemathesis reads the OpenAPI document and attacks what it describes: valid requests and broken ones."""

import asyncio
import re
from collections.abc import AsyncIterator
from hashlib import sha256
from itertools import count
from typing import Any

import pytest
import pytest_asyncio
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode, checks
from schemathesis.specs.openapi.checks import positive_data_acceptance

from cascade.v1 import session_pb2
from services.web.openapi import document
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
BODIES: dict[str, dict[str, Any]] = {
    "/v1/sessions": {"spec": {"prompts": {"0": "a red circle"}, "labels": {"a": "b"}}},
    "/v1/sessions/{session}:switchPrompt": {"promptSwitch": {"text": "a blue square"}},
    "/v1/sessions/{session}:issueResumeToken": {"role": "CONNECT_ROLE_VIEWER"},
}
numbers = count(1)


class Attack:
    """On one operation, as the tenant acme."""

    def __init__(self, url: str, operation: str, mode: GenerationMode, good: dict[str, Any]) -> None:
        """`good`: path parameters that lead somewhere."""
        self.statuses: set[int] = set()
        self._num_calls = 0
        self._mode = mode
        self._good = good
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        schema.config.checks.negative_data_rejection.expected_statuses = REFUSALS
        schema.auth()(Key)
        verb, _, path = operation.partition(" ")
        self._operation = schema[path][verb]

    def run(self) -> set[int]:
        """The statuses that came. Raises what schemathesis finds."""

        @settings(
            max_examples=NUM_EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(self._operation.as_strategy(generation_mode=self._mode))
        def probe(case: Any) -> None:
            self._call(case)

        probe()
        return self.statuses

    def _call(self, case: Any) -> None:
        self._num_calls += 1
        if self._mode is GenerationMode.POSITIVE and self._num_calls % 2:
            improve(case, self._good)
        answer = case.call(timeout=CALL_S, allow_redirects=False)
        self.statuses.add(answer.status_code)
        assert answer.status_code < 500 or is_refusal(answer), (case.as_curl_command(), answer.text)
        case.validate_response(answer, excluded_checks=EXCLUDED)


class Key:
    """Schemathesis leaves it out, or spoils it, where it looks whether anybody gets in without."""

    def get(self, case: Any, context: Any) -> str:
        return "Bearer key-acme"

    def set(self, case: Any, data: str, context: Any) -> None:
        case.headers["authorization"] = data


def improve(case: Any, good: dict[str, Any]) -> None:
    """So that the call does more than to be refused: what is only valid as JSON gets a meaning."""
    for name in case.path_parameters or {}:
        case.path_parameters[name] = good[name]
    for name in ("resume_token", "X-Resume-Token", "profile", "pageToken"):
        (case.query or {}).pop(name, None)
        (case.headers or {}).pop(name, None)
    if isinstance(case.body, dict):
        case.body = dict(BODIES.get(case.path, {}))
        if "role" not in case.body:
            case.body["requestId"] = f"attack-{next(numbers)}"


def is_refusal(answer: Any) -> bool:
    """503 says when to come again; any other 5xx is a defect."""
    return answer.status_code == requests.codes.unavailable and "retry-after" in answer.headers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place() -> AsyncIterator[WebTown]:
    generous = {"max_calls_per_s": 10_000.0, "operator_tenants": ["acme"]}
    async with web_town(tenants=("acme",), **generous) as place:
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
    statuses = await asyncio.to_thread(lambda: Attack(place.web, operation, mode, good).run())
    await clear(place)
    wanted = range(200, 300) if mode is GenerationMode.POSITIVE else range(400, 500)
    assert any(status in wanted for status in statuses), statuses
