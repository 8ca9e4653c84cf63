"""The OpenAPI document: valid, complete, and true of what the gateway takes and gives."""

import random
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from services.gateway.app.assembly import Gateway
from services.web import mirror, streams
from services.web.mirror import METHODS
from services.web.openapi import document
from services.web.video_paths import VIDEO_PATHS
from tests.services.support.http_support import create, http_town, problem, spec

OPENAPI = document()


def check(schema: dict[str, Any], value: Any) -> None:
    """Raises ValidationError."""
    Draft202012Validator({**schema, "components": OPENAPI["components"]}).validate(value)


def operation(name: str) -> Any:
    return next(
        item for path in OPENAPI["paths"].values() for item in path.values() if item["operationId"] == name
    )


def ranges(schema: dict[str, Any]) -> dict[str, Any]:
    """Without the text."""
    return {name: value for name, value in schema.items() if name != "description"}


def test_the_document_is_valid_and_names_every_method() -> None:
    OpenAPIV31SpecValidator(OPENAPI).validate()
    found = {f"{verb.upper()} {path}" for path, verbs in OPENAPI["paths"].items() for verb in verbs}
    videos = {f"GET {item.path}" for item in VIDEO_PATHS}
    assert found == {f"{item.verb} {item.path}" for item in METHODS} | videos
    names = [item["operationId"] for verbs in OPENAPI["paths"].values() for item in verbs.values()]
    assert len(set(names)) == len(names) == len(METHODS) + len(VIDEO_PATHS)


async def test_every_route_of_the_api_is_described() -> None:
    async with http_town() as place:
        service = place.town.server.service
        assert isinstance(service, Gateway)
        assert service.http
        routes = [*mirror.routes(service.http.backend), *streams.routes(service.http.backend)]
    served = {route.path_format for route in routes}  # type: ignore[attr-defined]
    assert served == set(OPENAPI["paths"])


async def test_video_is_as_described() -> None:
    async with http_town() as place:
        name = (await create(place.visitor, spec=spec(numBlocks="3")))["name"]
        token = await place.town.anybody.token(name)
        async with place.town.anybody.attached(name) as stream:
            await stream.until_over()
        playlist = await place.visitor.get(
            f"/v1/{name}/hls/index.m3u8", headers={"x-resume-token": token}, params={"profile": "default"}
        )
        init = re.search(r"init-([0-9a-f]+)\.mp4", playlist.text)
        assert init
        answers = {
            "getPlaylist": playlist,
            "getLowLatencyPlaylist": await place.visitor.get(
                f"/v1/{name}/hls/low-latency.m3u8", params={"resume_token": token, "_HLS_msn": 3}
            ),
            "getInit": await place.visitor.get(f"/v1/{name}/hls/{init[0]}", params={"resume_token": token}),
            "getSegment": await place.visitor.get(f"/v1/{name}/hls/3.m4s", params={"resume_token": token}),
            "getVideo": await place.visitor.get(f"/v1/{name}/video.mp4", params={"resume_token": token}),
        }
        for operation_id, answer in answers.items():
            assert answer.status_code == 200, answer.text
            (kind,) = operation(operation_id)["responses"]["200"]["content"]
            assert answer.headers["content-type"].partition(";")[0] == kind
        digest = next(item for item in operation("getInit")["parameters"] if item["name"] == "digest")
        check(digest["schema"], init[1])
        missing = await place.visitor.get(f"/v1/{name}/hls/9.m4s", params={"resume_token": token})
        assert str(missing.status_code) in operation("getSegment")["responses"]
        check(OPENAPI["components"]["schemas"]["Problem"], missing.json())


def test_every_call_field_and_parameter_is_explained() -> None:
    """In the contract's own words."""
    calls = [each for verbs in OPENAPI["paths"].values() for each in verbs.values()]
    parameters = [each for call in calls for each in call.get("parameters", ()) if each["in"] != "path"]
    schemas = {name: each for name, each in OPENAPI["components"]["schemas"].items() if name[:6] != "google"}
    properties = [each.get("properties", {}).values() for name, each in schemas.items() if name != "Problem"]
    fields = [field for each in properties for field in each]
    for each in (*calls, *parameters, *schemas.values(), *fields):
        assert len(each.get("description", "")) > 3, each
    assert (
        "- `PRIORITY_HIGH`: Before the others."
        in schemas["SessionSpec"]["properties"]["priority"]["description"]
    )
    assert "- `QUEUE_FULL`: RESOURCE_EXHAUSTED" in schemas["ErrorReason"]["description"]


def test_ranges_of_the_contract_are_repeated() -> None:
    schemas = OPENAPI["components"]["schemas"]
    fields = schemas["SessionSpec"]["properties"]
    assert ranges(fields["width"]) == {"type": "integer", "minimum": 0, "maximum": 4096}
    assert fields["prompts"]["additionalProperties"]["maxLength"] == 32768
    assert fields["profiles"]["maxItems"] == 4
    assert ranges(fields["fps"]) == {"type": "number", "format": "double", "maximum": 120.0}
    body = operation("createSession")["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["spec"]
    assert body["properties"]["requestId"]["maxLength"] == 64


async def test_answers_are_as_described() -> None:
    async with http_town() as place:
        web = place.visitor
        assert (await web.get("/openapi.json")).json() == OPENAPI
        await create(web, sessionId="a", spec=spec(labels={"a": "b"}, idleTimeout="5s"))
        described = {
            "getSession": await web.get("/v1/sessions/a"),
            "listSessions": await web.get("/v1/sessions"),
            "pauseSession": await web.post("/v1/sessions/a:pause", json={"requestId": "p"}),
            "issueResumeToken": await web.post(
                "/v1/sessions/a:issueResumeToken", json={"role": "CONNECT_ROLE_VIEWER"}
            ),
            "listModels": await web.get("/v1/models"),
            "getOverview": await web.get("/v1/overview", params={"maxSessions": 1}),
            "deleteSession": await web.delete("/v1/sessions/a", headers={"idempotency-key": "d"}),
        }
        for name, answer in described.items():
            content = operation(name)["responses"]["200"]["content"]
            check(content["application/json"]["schema"], answer.json())
        wrong = problem(await web.get("/v1/sessions/b"), 404, "SESSION_NOT_FOUND")
        check(OPENAPI["components"]["schemas"]["Problem"], wrong)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=8), inside, max_size=3),
    max_leaves=8,
)
NAMES = ["requestId", "sessionId", "spec", "promptSwitch", "role", "ttl", "name", "text", "prompts", "labels"]
BODIES = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4)


@pytest.mark.parametrize("method", [item for item in METHODS if item.has_body], ids=lambda item: item.name)
async def test_no_body_brings_a_5xx(method: Any) -> None:
    """Neither generated ones nor the mutated good one; every refusal is a problem as described."""
    bodies: list[Any] = []

    @settings(max_examples=60, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(BODIES)
    def collect(body: Any) -> None:
        bodies.append(body)

    collect()
    dice = random.Random(1)
    values = [None, [], {}, 0, -1, 1e300, "x", "", True, [[]], {"0": None}]
    for _ in range(40):
        good: dict[str, Any] = {"requestId": "a", "spec": spec(width=16, height=16, labels={"a": "b"})}
        target = dice.choice([good, good["spec"]])
        target[dice.choice([*target, "fps", "profiles", "seed", "idleTimeout"])] = dice.choice(values)
        bodies.append(good)
    async with http_town(max_calls_per_s=10_000.0) as place:
        path = method.path.replace("{session}", "a")
        for body in bodies:
            answer = await place.visitor.post(path, json=body)
            assert answer.status_code < 500, (body, answer.text)
            if answer.status_code >= 400:
                check(OPENAPI["components"]["schemas"]["Problem"], answer.json())
                assert (
                    str(answer.status_code)
                    in operation(method.name[0].lower() + method.name[1:])["responses"]
                )
