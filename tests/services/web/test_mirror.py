"""Every method with one answer over HTTP, and every class of error, at a real gateway."""

from pathlib import Path

import pytest

from services.web.mirror import METHODS
from tests.services.support.gateway_support import fresh_id, town, until_value
from tests.services.support.http_support import client, create, fields, http_town, problem, spec


async def test_a_session_from_first_to_last() -> None:
    async with http_town() as place:
        web = place.visitor
        answer = await web.post(
            "/v1/sessions", json={"requestId": fresh_id(), "sessionId": "film", "spec": spec()}
        )
        assert (answer.status_code, answer.headers["location"]) == (201, "/v1/sessions/film")
        assert answer.json()["resumeToken"]
        assert answer.json()["session"]["spec"]["prompts"] == {"0": spec()["prompts"]["0"]}
        found = (await web.get("/v1/sessions/film")).json()["session"]
        assert (found["name"], found["paused"]) == ("sessions/film", False)
        body = {"requestId": fresh_id(), "promptSwitch": {"text": "a blue square", "atBlock": "900"}}
        receipt = (await web.post("/v1/sessions/film:switchPrompt", json=body)).json()["receipt"]
        assert receipt["requestId"] == body["requestId"]
        paused = await web.post("/v1/sessions/film:pause", json={"requestId": fresh_id()})
        assert paused.json()["session"]["paused"] is True
        resumed = await web.post("/v1/sessions/film:resume", json={"requestId": fresh_id()})
        assert resumed.json()["session"]["paused"] is False
        issued = await web.post("/v1/sessions/film:issueResumeToken", json={"role": "CONNECT_ROLE_VIEWER"})
        async with place.town.anybody.attached(resume_token=issued.json()["resumeToken"]) as stream:
            assert (await stream.first("attached")).session.name == "sessions/film"
        ended = await web.delete("/v1/sessions/film", params={"requestId": fresh_id()})
        assert ended.json()["session"]["state"] == "SESSION_STATE_ENDED"
        assert (await web.get("/v1/sessions/film")).json()["session"]["end"]["reason"] == "END_REASON_DELETED"


def test_every_unary_method_has_a_path() -> None:
    paths = {item.name: f"{item.verb} {item.path}" for item in METHODS}
    assert paths["CreateSession"] == "POST /v1/sessions"
    assert paths["IssueResumeToken"] == "POST /v1/sessions/{session}:issueResumeToken"
    assert "Connect" not in paths
    assert paths["ListModels"] == "GET /v1/models"
    assert paths["GetOverview"] == "GET /v1/overview"
    assert len(set(paths.values())) == len(paths) == 10


async def test_lists_come_in_pages_and_filtered() -> None:
    async with http_town() as place:
        web = place.visitor
        names = [(await create(web, spec=spec(labels={"n": str(n % 2)})))["name"] for n in range(5)]
        seen, token = [], ""
        while True:
            page = (await web.get("/v1/sessions", params={"pageSize": 2, "page_token": token})).json()
            seen += [item["name"] for item in page["sessions"]]
            token = page["nextPageToken"]
            if not token:
                break
        assert seen == names[::-1]
        odd = (await web.get("/v1/sessions", params={"labels[n]": "1"})).json()["sessions"]
        assert [item["name"] for item in odd] == [names[3], names[1]]
        states = [("states", "SESSION_STATE_ENDED"), ("states", "SESSION_STATE_RECOVERING")]
        assert (await web.get("/v1/sessions", params=states)).json()["sessions"] == []
        problem(await web.get("/v1/sessions", params={"pageToken": "zzz"}), 400, "INVALID_PAGE_TOKEN")


async def test_a_repeat_has_no_further_effect_whether_named_in_body_header_or_query() -> None:
    async with http_town() as place:
        web, key = place.visitor, {"idempotency-key": '"once"'}
        first, second = [await web.post("/v1/sessions", json={"spec": spec()}, headers=key) for _ in range(2)]
        third = await create(web, requestId="once")
        assert first.json()["session"]["name"] == second.json()["session"]["name"] == third["name"]
        other = await web.post("/v1/sessions", json={"spec": spec(seed="7")}, headers=key)
        problem(other, 409, "REQUEST_ID_REUSED")
        mixed = await web.post("/v1/sessions", json={"requestId": "x", "spec": spec()}, headers=key)
        assert fields(problem(mixed, 400, "INVALID_FIELD")) == ["request_id"]
        path = f"/v1/{third['name']}"
        for request in ({"headers": {"idempotency-key": "gone"}}, {"params": {"request_id": "gone"}}):
            assert (await web.delete(path, **request)).status_code == 200  # type: ignore[arg-type]


async def test_a_session_has_a_stagger_and_an_attention_of_its_own() -> None:
    async with http_town() as place:
        web = place.visitor
        (model,) = (await web.get("/v1/models")).json()["models"]
        assert (model["staggers"], model["defaultStagger"]) == ([1, 2, 3, 4], 2)
        causal = "INFLIGHT_ATTENTION_CAUSAL"
        assert causal in model["inflightAttentions"]
        made = await create(web, spec=spec(stagger=1, inflightAttention=causal))
        assert (made["spec"]["stagger"], made["spec"]["inflightAttention"]) == (1, causal)
        wrong = {"requestId": "a", "spec": spec(stagger=9)}
        found = problem(await web.post("/v1/sessions", json=wrong), 400, "INVALID_FIELD")
        assert found["detail"] == "spec.stagger: 9 is not one of 1, 2, 3, 4, which demo offers"


async def test_wrong_fields_are_named() -> None:
    async with http_town() as place:
        web = place.visitor
        cases = {
            "spec.colour": {"requestId": "a", "spec": spec(colour="red")},
            "spec.width": {"requestId": "a", "spec": spec(width=17, height=16)},
            "spec.priority": {"requestId": "a", "spec": spec(priority="HIGHEST")},
            "spec.stagger": {"requestId": "a", "spec": spec(stagger=18)},
            "spec.inflightAttention": {"requestId": "a", "spec": spec(inflightAttention="causal")},
            "spec": {"requestId": "a"},
            "request_id": {"spec": spec()},
        }
        for field, body in cases.items():
            answer = await web.post("/v1/sessions", json=body)
            assert fields(problem(answer, 400, "INVALID_FIELD")) == [field]
        for query in ({"colour": "red"}, {"pageSize": "many"}, {"labels": "a"}, {"pageSize[a]": "1"}):
            problem(await web.get("/v1/sessions", params=query), 400, "INVALID_FIELD")
        name = (await create(web))["name"]
        other = await web.post(f"/v1/{name}:pause", json={"name": "sessions/x", "requestId": "b"})
        assert fields(problem(other, 400, "INVALID_FIELD")) == ["name"]
        problem(await web.get("/v1/sessions/NOT-A-NAME"), 400, "INVALID_FIELD")


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"null", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"\xff", b"[" * 50_000]
)
async def test_what_is_no_json_object_is_refused(content: bytes) -> None:
    async with http_town() as place:
        kind = {"content-type": "application/json; charset=utf-8"}
        answer = await place.visitor.post("/v1/sessions", content=content, headers=kind)
        problem(answer, 400, "MALFORMED")


async def test_long_timelines_fit_and_long_nonsense_is_told() -> None:
    async with http_town() as place:
        prompts = {str(block): "x" * 500 for block in range(1000)}
        session = await create(place.visitor, spec=spec(prompts=prompts))
        assert session["spec"]["prompts"] == prompts
        many = {"requestId": "a", "spec": spec(profiles=[{}] * 50_000)}
        answer = await place.visitor.post("/v1/sessions", json=many)
        assert fields(problem(answer, 400, "INVALID_FIELD"))[0].startswith("spec.profiles")


async def test_half_a_surrogate_pair_is_told_and_breaks_nothing() -> None:
    async with http_town() as place:
        kind = {"content-type": "application/json"}
        answer = await place.visitor.post("/v1/sessions", content=rb'{"\ud800": 1}', headers=kind)
        problem(answer, 400, "MALFORMED")
        for body in (rb'{"requestId": "\ud800"}', rb'{"spec": {"prompts": {"0": "\ud800"}}}'):
            problem(
                await place.visitor.post("/v1/sessions", content=body, headers=kind), 400, "INVALID_FIELD"
            )


async def test_states_that_do_not_fit_are_conflicts() -> None:
    async with http_town() as place:
        web = place.visitor
        problem(await web.get("/v1/sessions/nobody"), 404, "SESSION_NOT_FOUND")
        problem(
            await web.post("/v1/sessions", json={"requestId": "u", "spec": spec(model="no")}),
            404,
            "UNKNOWN_MODEL",
        )
        path = f"/v1/{(await create(web, sessionId='one'))['name']}"
        taken = await web.post("/v1/sessions", json={"requestId": "t", "sessionId": "one", "spec": spec()})
        problem(taken, 409, "SESSION_EXISTS")
        await web.delete(path, params={"requestId": "d"})
        closed = problem(await web.post(f"{path}:pause", json={"requestId": "p"}), 409, "SESSION_CLOSED")
        assert closed["metadata"] == {"end_reason": "DELETED"}


async def test_tenants_see_their_own_only() -> None:
    async with http_town(tenants=("acme", "rival")) as place, place.as_tenant("acme") as acme:
        name = (await create(acme))["name"]
        async with place.as_tenant("rival") as rival:
            problem(await rival.get(f"/v1/{name}"), 404, "SESSION_NOT_FOUND")
            problem(await rival.delete(f"/v1/{name}", params={"requestId": "x"}), 404, "SESSION_NOT_FOUND")
            assert (await rival.get("/v1/sessions")).json()["sessions"] == []
        answer = await place.visitor.get(f"/v1/{name}")
        problem(answer, 401, "UNAUTHENTICATED")
        assert answer.headers["www-authenticate"] == "Bearer"
        async with client(place.town.url, "thief") as thief:
            problem(await thief.get(f"/v1/{name}"), 401, "UNAUTHENTICATED")
        token = (await acme.post(f"/v1/{name}:issueResumeToken", json={"role": "CONNECT_ROLE_VIEWER"})).json()
        bearer = {"authorization": f"Bearer {token['resumeToken']}"}
        problem(await place.visitor.get(f"/v1/{name}", headers=bearer), 401, "UNAUTHENTICATED")


async def test_too_many_calls_are_told_when_to_come_back() -> None:
    async with http_town(max_calls_per_s=0.1) as place:
        answers = [await place.visitor.get("/v1/sessions") for _ in range(3)]
        refused = answers[-1]
        content = problem(refused, 429, "RATE_LIMITED")
        assert int(refused.headers["retry-after"]) >= content["retryAfterSeconds"] > 0


async def test_quotas_are_429_and_priorities_of_others_403(tmp_path: Path) -> None:
    async with http_town(max_sessions_per_tenant=1) as place:
        await create(place.visitor)
        body = {"requestId": "second", "spec": spec()}
        problem(await place.visitor.post("/v1/sessions", json=body), 429, "QUOTA_EXCEEDED")
    quotas = tmp_path / "quotas.toml"
    quotas.write_text('[[tenants]]\nname = "default"\nmax_priority = "low"\n')
    async with http_town(quotas_file=quotas) as place:
        body = {"requestId": "first", "spec": spec(priority="PRIORITY_HIGH")}
        problem(await place.visitor.post("/v1/sessions", json=body), 403, "PERMISSION_DENIED")


async def test_a_gateway_that_drains_says_503_and_when() -> None:
    async with http_town() as place:
        web = place.visitor
        assert (await web.get("/readyz")).status_code in (200, 503)
        place.town.server._gate.close()
        answer = await web.get("/v1/sessions")
        problem(answer, 503, "DRAINING")
        assert answer.headers["retry-after"] == "0"
        assert (await web.get("/healthz")).status_code == 200


async def test_readiness_is_that_of_the_health_service() -> None:
    async with http_town() as place:

        async def ask() -> int:
            return (await place.visitor.get("/readyz")).status_code

        await until_value(ask, lambda status: status == 200)
        await place.town.server._health.leave()
        assert await ask() == 503
        assert (await place.visitor.get("/healthz")).text == "ok\n"


async def test_without_a_port_there_is_no_http() -> None:
    async with town() as place:
        assert place.server.service.http is None  # type: ignore[attr-defined]
