"""A session's own stagger and in-flight attention: only what some stage offers is taken, only a stage that
offers it is given the session, and whichever goes on with it does so in the same way."""

from typing import Any

import pytest

from cascade.v1 import session_pb2 as pb
from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_stage import BIDIRECTIONAL, CAUSAL, FakeStage
from tests.services.support.gateway_support import STATES, Town, fails, town


def former(**machine: int) -> FakeStage:
    """A stage of a release that knew nothing of it."""
    return FakeStage(staggers=(), **machine)


def asked_of(stage: FakeStage) -> list[tuple[int, int]]:
    """Stagger and attention of each stream that it was opened with."""
    return [(each.opening.stagger, each.opening.inflight_attention) for each in stage.streams]


async def models(place: Town) -> list[pb.Model]:
    answer = await place.anybody.call("ListModels", pb.ListModelsRequest())
    return list(answer.models)


async def test_what_a_session_asks_for_reaches_its_stage_and_is_shown() -> None:
    async with town() as place:
        name = await place.anybody.name(stagger=1, inflight_attention=CAUSAL, num_blocks=3)
        async with place.anybody.attached(name) as stream:
            await stream.until_over()
        assert asked_of(place.stage) == [(1, CAUSAL)]
        spec = (await place.anybody.get(name)).spec
        assert (spec.stagger, spec.inflight_attention) == (1, CAUSAL)


@pytest.mark.parametrize(
    ("asked", "field", "wrong"),
    [
        ({"stagger": 5}, "spec.stagger", "5 is not one of 1, 2, 3, which demo offers"),
        (
            {"stagger": 3, "inflight_attention": CAUSAL},
            "spec.inflight_attention",
            "causal is not one of bidirectional, which demo with stagger 3 offers",
        ),
    ],
)
async def test_what_no_stage_offers_is_refused_at_once(asked: dict[str, int], field: str, wrong: str) -> None:
    stages = [FakeStage(staggers=(2, 3), attentions=(BIDIRECTIONAL,)), FakeStage(staggers=(1, 2)), former()]
    async with town(stages=stages, decoders=[FakeDecoder(capacity=0)]) as place:
        (model,) = await models(place)
        assert list(model.staggers) == [1, 2, 3]
        assert list(model.inflight_attentions) == [BIDIRECTIONAL, CAUSAL]
        with fails("INVALID_ARGUMENT INVALID_FIELD") as found:
            await place.anybody.create(**asked)
        (violation,) = found[0]["BadRequest"].field_violations
        assert (violation.field, violation.description) == (field, wrong)
        assert place.registry.shared.admission.queue_length == 0
        await place.anybody.create(stagger=3, inflight_attention=BIDIRECTIONAL)
        await place.anybody.create(inflight_attention=CAUSAL)


@pytest.mark.parametrize(
    ("asked", "what"), [({"stagger": 2}, "2"), ({"inflight_attention": BIDIRECTIONAL}, "bidirectional")]
)
async def test_stages_of_a_former_release_leave_no_choice(asked: dict[str, int], what: str) -> None:
    async with town(stages=[former()]) as place:
        (model,) = await models(place)
        assert (list(model.staggers), model.default_stagger) == ([], 0)
        with fails("INVALID_ARGUMENT INVALID_FIELD") as found:
            await place.anybody.create(**asked)
        (violation,) = found[0]["BadRequest"].field_violations
        assert violation.description == f"{what} is not offered: stages of demo leave no choice"
        name = await place.anybody.name(num_blocks=2)
        async with place.anybody.attached(name) as stream:
            assert (await stream.until_over()).end_reason == "COMPLETE"
        assert asked_of(place.stage) == [(0, 0)]
        spec = (await place.anybody.get(name)).spec
        assert (spec.stagger, spec.inflight_attention) == (0, 0), "nobody knows"


async def test_only_a_stage_that_offers_it_is_given_the_session() -> None:
    """However full the others are; one that asks for nothing takes any, and passes one that waits."""
    stages = [former(capacity=2), FakeStage(staggers=(2,), capacity=2), FakeStage(staggers=(1,), capacity=1)]
    async with town(stages=stages, decoders=[FakeDecoder(capacity=9)]) as place:
        first = await place.anybody.name(stagger=1)
        async with place.anybody.attached(first) as stream:
            await stream.until_segments(1)
            waiting = await place.anybody.name(stagger=1)
            for _ in range(4):
                await place.anybody.until_state(await place.anybody.name(), "ACTIVE")
            assert [len(stage.streams) for stage in stages] == [2, 2, 1]
            assert STATES[(await place.anybody.get(waiting)).state] == "QUEUED"
            await place.anybody.delete(first)
            await place.anybody.until_state(waiting, "ACTIVE")
        assert asked_of(stages[2]) == [(1, BIDIRECTIONAL)] * 2


async def test_a_session_that_is_made_again_goes_on_as_it_began() -> None:
    """Also one that asked for nothing, and began with the defaults of its first stage."""
    stages = [FakeStage(block_s=0.01, default_stagger=1), FakeStage(staggers=(1, 3), default_stagger=3)]
    asked = {"stagger": 3, "inflight_attention": CAUSAL}
    stages[1].capacity = 0
    async with town(stages=stages) as place:
        names = [await place.anybody.name(**asked), await place.anybody.name()]
        async with place.anybody.attached(names[0]) as one, place.anybody.attached(names[1]) as other:
            await one.until_segments(2)
            await other.until_segments(2)
            spec = (await place.anybody.get(names[1])).spec
            assert (spec.stagger, spec.inflight_attention) == (1, BIDIRECTIONAL)
            stages[1].set_capacity(2)
            await stages[0].kill()
            await one.first("recovery_done")
            await other.first("recovery_done")
    assert asked_of(stages[0]) == [(3, CAUSAL), (1, BIDIRECTIONAL)]
    assert sorted(asked_of(stages[1])) == [(1, BIDIRECTIONAL), (3, CAUSAL)]


@pytest.mark.parametrize(
    ("first", "second", "asked"),
    [
        ({}, {"staggers": (4,), "default_stagger": 4}, (0, BIDIRECTIONAL)),
        ({}, {"staggers": ()}, (0, 0)),
        ({"staggers": ()}, {}, (0, 0)),
    ],
    ids=["another default", "to a former release", "from a former release"],
)
async def test_defaults_that_the_next_stage_has_not_keep_no_session_from_it(
    first: dict[str, Any], second: dict[str, Any], asked: tuple[int, int]
) -> None:
    async with town(stages=[FakeStage(block_s=0.01, **first)]) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(2)
            await place.stage.kill()
            following = FakeStage(**second)
            following.address = place.stage.address
            async with following:
                await stream.first("recovery_done")
                assert asked_of(following) == [asked]


async def test_one_request_id_is_for_one_schedule() -> None:
    async with town() as place:
        made = await place.anybody.create("r1", stagger=1, inflight_attention=CAUSAL)
        again = await place.anybody.create("r1", stagger=1, inflight_attention=CAUSAL)
        assert made.session.name == again.session.name
        for other in ({"stagger": 1}, {"stagger": 2, "inflight_attention": CAUSAL}, {}):
            with fails("ALREADY_EXISTS REQUEST_ID_REUSED"):
                await place.anybody.create("r1", **other)
