"""The overview: stages, decoders, queue and sessions as the gateway sees them, for operators alone."""

from typing import Any

from cascade.v1 import common_pb2, operator_pb2, operator_pb2_grpc, session_pb2
from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_stage import BIDIRECTIONAL, FakeStage
from tests.services.support.gateway_support import (
    PROMPT,
    STATES,
    VIEWER,
    WAIT_S,
    Tenant,
    Town,
    fails,
    town,
    until,
    until_value,
)
from tests.services.support.http_support import http_town, problem

Overview = operator_pb2.GetOverviewResponse


async def overview(place: Town, tenant: Tenant | None = None, max_sessions: int = 0) -> Overview:
    stub: Any = operator_pb2_grpc.OperatorServiceStub(place.channel)
    request = operator_pb2.GetOverviewRequest(max_sessions=max_sessions)
    metadata = (tenant or place.anybody).metadata
    found: Overview = await stub.GetOverview(request, timeout=WAIT_S, metadata=metadata)
    return found


async def test_stages_and_decoders_are_there_by_address_with_their_reports() -> None:
    stages = [FakeStage(capacity=3), FakeStage(capacity=1)]
    async with town(stages=stages, decoders=[FakeDecoder(capacity=5)]) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(2)

            async def ask() -> Overview:
                return await overview(place)

            found = await until_value(ask, lambda found: any(s.status.num_sessions for s in found.stages))
            assert [view.peer.address for view in found.stages] == sorted(each.address for each in stages)
            places = {view.peer.address: (view.peer.num_used, view.peer.num_free) for view in found.stages}
            assert places == {stages[0].address: (0, 3), stages[1].address: (1, 0)}, "the fullest that fits"
            for view in found.stages:
                assert view.status.state == common_pb2.SERVING_STATE_READY
                assert view.status.model.model == "demo"
                assert (view.peer.lost, view.peer.pod, view.peer.is_terminating) == ("", "", False)
            (decoder,) = found.decoders
            assert (decoder.peer.num_used, decoder.peer.num_free) == (1, 4)
            assert decoder.status.max_sessions == 5
            (session,) = found.sessions
            assert (session.name, session.tenant, session.model) == (name, "default", "demo")
            assert (session.stage, session.decoder) == (stages[1].address, place.decoder.address)
            assert (STATES[session.state], session.epoch) == ("ACTIVE", 1)
            assert (session.stagger, session.inflight_attention) == (2, BIDIRECTIONAL), "the stage's defaults"
            assert session.has_controller
            assert session.last_sequence >= 2
            assert session.create_time.ToMilliseconds() <= found.read_time.ToMilliseconds()
            assert PROMPT not in str(found.sessions)
            assert found.gateway.instance_id
            assert found.gateway_address.startswith("127.0.0.1:")
            assert not found.is_leaving


async def test_what_is_lost_says_why() -> None:
    async with town() as place:
        address = place.stage.address
        await place.stage.kill()

        async def ask() -> Overview:
            return await overview(place)

        found = await until_value(ask, lambda found: found.stages[0].peer.lost)
        (stage,) = found.stages
        assert stage.peer.lost.startswith(address)
        assert not stage.HasField("status")
        assert stage.peer.num_free == 0
        assert found.decoders[0].HasField("status")


async def test_the_queue_and_those_who_wait() -> None:
    async with town(stages=[FakeStage(capacity=1)], queue_length=7) as place:
        first = await place.anybody.name()
        async with place.anybody.attached(first) as stream, place.anybody.attached(first, role=VIEWER):
            await stream.until_segments(1)
            waiting = [await place.anybody.name() for _ in range(2)]
            found = await overview(place)
            assert (found.queue.length, found.queue.max_length, found.queue.num_urgent) == (2, 7, 0)
            views = {view.name: view for view in found.sessions}
            assert {name: views[name].queue.position for name in waiting} == {waiting[0]: 1, waiting[1]: 2}
            assert [(views[name].stage, views[name].decoder) for name in waiting] == [("", "")] * 2
            assert not views[first].HasField("queue")
            assert (views[first].num_viewers, views[first].has_controller) == (1, True)
            await stream.until(lambda: stream.segments)
        await place.anybody.delete(first)
        await until(lambda: place.registry.shared.admission.queue_length == 1)
        await place.anybody.delete(waiting[0])
        await until(lambda: place.registry.shared.admission.queue_length == 0)
        found = await overview(place)
        assert not found.queue.HasField("last_eta"), "nobody waits"


async def test_loras_stand_at_the_stage_that_lists_them_and_the_session_that_has_them() -> None:
    async with town(stages=[FakeStage(loras={"ink": "i1", "neon": "n1"})]) as place:
        names = [await place.anybody.name(), await place.anybody.name(loras=[{"name": "ink", "scale": 0.5}])]
        found = await overview(place)
    assert [[lora.name for lora in stage.status.model.loras] for stage in found.stages] == [["ink", "neon"]]
    loras = {view.name: [(lora.name, lora.scale) for lora in view.loras] for view in found.sessions}
    assert [loras[name] for name in names] == [[], [("ink", 0.5)]]


async def test_an_estimate_where_there_is_one() -> None:
    async with town(stages=[FakeStage(capacity=1)]) as place:
        for _ in range(3):
            name = await place.anybody.name()
            await place.anybody.until_state(name, "ACTIVE")
            await place.anybody.delete(name)
        await place.anybody.until_state(await place.anybody.name(), "ACTIVE")
        for _ in range(2):
            name = await place.anybody.name()
        found = await overview(place)
        waits = {view.name: view.queue for view in found.sessions}[name]
        assert (waits.position, waits.queue_length) == (2, 2)
        assert found.queue.HasField("last_eta")
        assert waits.HasField("eta")


async def test_sessions_come_newest_first_as_many_as_asked_and_leave_when_they_end() -> None:
    async with town(stages=[FakeStage(capacity=8)], decoders=[FakeDecoder(capacity=8)]) as place:
        names = [await place.anybody.name() for _ in range(4)]
        found = await overview(place, max_sessions=2)
        assert found.num_sessions == 4
        assert len(found.sessions) == 2
        every = [view.name for view in (await overview(place)).sessions]
        assert sorted(every) == sorted(names)
        created = [view.create_time.ToNanoseconds() for view in (await overview(place)).sessions]
        assert created == sorted(created, reverse=True)
        await place.anybody.delete(names[0])
        assert sorted(view.name for view in (await overview(place)).sessions) == sorted(names[1:])
        with fails("INVALID_ARGUMENT INVALID_FIELD"):
            await overview(place, max_sessions=501)


async def test_a_session_without_a_place_names_none() -> None:
    async with town(stages=[]) as place:
        await place.anybody.name()
        (session,) = (await overview(place)).sessions
        assert (session.stage, session.decoder, session.epoch) == ("", "", 0)
        assert STATES[session.state] == "QUEUED"


async def test_operators_alone_may_look_where_credentials_are_asked_for() -> None:
    async with town(tenants=["ops", "acme"], operator_tenants=["ops"]) as place:
        ops, acme = place.tenants["ops"], place.tenants["acme"]
        name = await acme.name()
        (session,) = (await overview(place, ops)).sessions
        assert (session.name, session.tenant) == (name, "acme")
        with fails("PERMISSION_DENIED PERMISSION_DENIED"):
            await overview(place, acme)
        with fails("UNAUTHENTICATED UNAUTHENTICATED"):
            await overview(place, Tenant(place.channel, None))
        with fails("UNAUTHENTICATED UNAUTHENTICATED"):
            await overview(place, Tenant(place.channel, "thief"))
    async with town(tenants=["acme"]) as place:
        with fails("PERMISSION_DENIED PERMISSION_DENIED"):
            await overview(place)


async def test_looking_counts_as_calling() -> None:
    async with town(max_calls_per_s=0.1) as place:
        await overview(place)
        with fails("RESOURCE_EXHAUSTED RATE_LIMITED"):
            await overview(place)


async def test_a_gateway_that_goes_away_says_so_to_the_end() -> None:
    async with town() as place:
        place.server._gate.close()
        place.registry.is_leaving = True
        assert (await overview(place)).is_leaving


async def test_over_http() -> None:
    async with http_town(tenants=("ops", "acme"), operator_tenants=("ops",)) as place:
        name = await place.town.tenants["acme"].name()
        await place.town.tenants["acme"].until_state(name, "ACTIVE")
        async with place.as_tenant("ops") as ops, place.as_tenant("acme") as acme:
            content = (await ops.get("/v1/overview", params={"maxSessions": "5"})).json()
            assert [item["name"] for item in content["sessions"]] == [name]
            assert content["stages"][0]["peer"]["address"] == place.town.stage.address
            assert content["stages"][0]["status"]["state"] == "SERVING_STATE_READY"
            assert content["numSessions"] == 1
            problem(await acme.get("/v1/overview"), 403, "PERMISSION_DENIED")
            problem(await ops.get("/v1/overview", params={"maxSessions": "501"}), 400, "INVALID_FIELD")
        problem(await place.visitor.get("/v1/overview"), 401, "UNAUTHENTICATED")


async def test_models_come_with_the_default_first() -> None:
    examples = ["a red circle moves left", "violet disc drifts right"]
    stages = [FakeStage(model=name, max_blocks=number) for number, name in enumerate(("zebra", "ant"))]
    stages.append(FakeStage(model="demo", example_prompts=examples))
    async with http_town(stages=stages, max_sessions_per_tenant=5) as place:
        admission = place.town.registry.shared.admission
        await until(lambda: len(admission.models) == 3)
        found = await place.town.anybody.call("ListModels", session_pb2.ListModelsRequest())
        assert [(model.name, model.is_default) for model in found.models] == [
            ("demo", True),
            ("ant", False),
            ("zebra", False),
        ]
        demo = found.models[0]
        assert list(demo.example_prompts) == examples
        assert (demo.licence, demo.fps, demo.width, demo.height, demo.block_frames) == ("none", 16, 64, 64, 3)
        assert [model.max_blocks for model in found.models] == [0, 1, 0]
        models = (await place.visitor.get("/v1/models")).json()["models"]
        assert [model["name"] for model in models] == ["demo", "ant", "zebra"]
        assert models[0]["examplePrompts"] == examples
        stages = (await place.visitor.get("/v1/overview")).json()["stages"]
        shown = [
            (stage["status"]["model"]["model"], stage["status"]["model"]["examplePrompts"])
            for stage in stages
        ]
        assert sorted(shown) == [("ant", []), ("demo", []), ("zebra", [])], (
            "who looks each second needs them not"
        )
        name = await place.town.anybody.name()
        live = await place.town.anybody.until_state(name, "ACTIVE")
        assert live.model_licence == "none"
        (session,) = place.town.registry.sessions
        noted = session.record.notes["model"]
        assert examples[0].encode() not in noted, "the journal of a session has no use for them"


async def test_no_models_before_a_stage_has_reported_and_calls_are_counted() -> None:
    async with town(stages=[], max_calls_per_s=0.1) as place:
        request = session_pb2.ListModelsRequest()
        assert not (await place.anybody.call("ListModels", request)).models
        with fails("RESOURCE_EXHAUSTED RATE_LIMITED"):
            await place.anybody.call("ListModels", request)
    async with town(tenants=["acme"]) as place:
        with fails("UNAUTHENTICATED UNAUTHENTICATED"):
            await Tenant(place.channel, None).call("ListModels", request)
