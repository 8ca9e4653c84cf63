"""LoRAs of a session: only what a stage lists is taken, switches change them, and every block is made with
those that its prompt has, whatever is lost meanwhile."""

from collections.abc import Mapping
from typing import Any

import pytest

from cascade.v1 import session_pb2 as pb
from services.gateway.placement.needs import Needs, what_lacks
from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import STATES, fails, town, until, until_value
from tests.services.support.redis_support import RedisServer, needs_redis
from tests.services.support.two_gateways import check_whole, pair

INK = [{"name": "ink", "scale": 0.5}]
BOTH = [{"name": "ink"}, {"name": "clay", "scale": -1.0}]
LISTED = {"ink": "i1", "clay": "c1"}
ASKED: Mapping[str, Any] = {"loras": INK, "prompts": {0: "a red circle", 6: "a blue square"}}


def made_with(*stages: FakeStage) -> dict[int, dict[str, float]]:
    """By block, of one session, over all its streams."""
    return {
        block: loras for stage in stages for each in stage.streams for block, loras in each.made_with.items()
    }


def turns(num_blocks: int, starts: Mapping[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    """By block; `starts`: from this block on."""
    return {block: starts[max(start for start in starts if start <= block)] for block in range(num_blocks)}


def shown(choices: Any) -> dict[str, float]:
    return {each.name: each.scale for each in choices}


async def test_a_session_is_made_with_what_its_prompts_have() -> None:
    """A switch that names none keeps what there is; one that names an empty set ends it."""
    async with town(stages=[FakeStage(loras=LISTED, block_s=0.02)]) as place:
        acme = place.anybody
        name = await acme.name(num_blocks=12, **ASKED)
        await acme.switch(name, "a star", "both", at_block=3, loras={"loras": BOTH})
        await acme.switch(name, "a ring", "kept", at_block=8)
        await acme.switch(name, "a ring", "none", at_block=10, loras={})
        async with acme.attached(name) as stream:
            assert shown((await acme.get(name)).spec.loras) == {"ink": 0.5}
            await stream.until_over()
            told = [*stream.events[0].attached.receipts, *stream.all("prompt_receipt")]
        receipts = {each.request_id: each for each in told if each.HasField("apply_time")}
        expected = {"ink": 1.0, "clay": -1.0}
        assert {name: shown(receipt.loras.loras) for name, receipt in receipts.items() if name} == {
            "both": expected,
            "kept": expected,
            "none": {},
        }
        found = made_with(place.stage)
        assert found == turns(12, {0: {"ink": 0.5}, 3: expected, 10: {}})
        assert shown((await acme.get(name)).loras) == {}


@pytest.mark.parametrize(
    ("loras", "wrong"),
    [
        (["wool"], "wool is not one of clay, ink, neon, which demo offers"),
        (["ink", "neon"], "no stage of demo lists ink and neon together"),
    ],
)
async def test_what_no_stage_lists_is_refused_at_once(loras: list[str], wrong: str) -> None:
    stages = [FakeStage(loras=LISTED), FakeStage(loras={"neon": "n1"}), FakeStage()]
    async with town(stages=stages) as place:
        (model,) = (await place.anybody.call("ListModels", pb.ListModelsRequest())).models
        assert [(each.name, each.licence) for each in model.loras] == [
            ("clay", "MIT"), ("ink", "MIT"), ("neon", "MIT"),
        ]  # fmt: skip
        with fails("INVALID_ARGUMENT INVALID_FIELD") as found:
            await place.anybody.create(loras=[{"name": name} for name in loras])
        (violation,) = found[0]["BadRequest"].field_violations
        assert (violation.field, violation.description) == ("spec.loras", wrong)


@pytest.mark.parametrize(
    ("loras", "field"),
    [
        ([{"name": "ink", "scale": 4.5}], "spec.loras[0].scale"),
        ([{"name": "ink"}] * 2, "spec.loras"),
        ([{"name": f"l{number}"} for number in range(4)], "spec.loras"),
        ([{"name": "Ink"}], "spec.loras[0].name"),
    ],
)
async def test_what_is_out_of_its_range_is_refused_by_field(loras: Any, field: str) -> None:
    async with town(stages=[FakeStage(loras=LISTED)]) as place:
        with fails("INVALID_ARGUMENT INVALID_FIELD") as found:
            await place.anybody.create(loras=loras)
        assert field in {each.field for each in found[0]["BadRequest"].field_violations}


async def test_a_switch_to_one_that_the_sessions_stage_does_not_list_changes_nothing() -> None:
    """Though another stage lists it."""
    stages = [FakeStage(loras={"ink": "i1"}), FakeStage(loras={"ink": "i1", "neon": "n1"}, capacity=0)]
    async with town(stages=stages) as place:
        name = await place.anybody.name(loras=INK)
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(1)
            with fails("INVALID_ARGUMENT INVALID_FIELD") as found:
                await place.anybody.switch(name, "a star", loras={"loras": [{"name": "neon"}]})
            (violation,) = found[0]["BadRequest"].field_violations
            assert violation.field == "prompt_switch.loras"
            assert violation.description == "neon is not one of ink, which demo offers"
            assert not stream.is_over
        with fails("INVALID_ARGUMENT INVALID_FIELD"):
            await place.anybody.create(loras=[{"name": "neon"}, {"name": "clay"}])


async def test_only_a_stage_that_lists_them_is_given_the_session_and_the_queue_says_so() -> None:
    stages = [FakeStage(capacity=2), FakeStage(loras=LISTED, capacity=1)]
    async with town(stages=stages, decoders=[FakeDecoder(capacity=9)]) as place:
        first = await place.anybody.name(loras=INK)
        await place.anybody.until_state(first, "ACTIVE")
        assert [len(stage.streams) for stage in stages] == [0, 1]
        waiting = await place.anybody.name(loras=INK)
        session = await place.anybody.get(waiting)
        assert (STATES[session.state], session.queue.message) == ("QUEUED", ""), "it waits for a place alone"
        await place.anybody.until_state(await place.anybody.name(), "ACTIVE")
        await stages[1].kill()
        session = await until_value(
            lambda: place.anybody.get(waiting), lambda session: bool(session.queue.message)
        )
        assert session.queue.message == "no stage lists LoRA ink now"


def test_which_of_them_lack() -> None:
    infos = [FakeStage(loras=LISTED).info, FakeStage(loras={"neon": "n1"}).info]

    def lacks(*others: Any, **digests: str) -> str:
        needs = Needs("s", "t", "demo", loras=frozenset(digests.items()))
        return what_lacks(others[0] if others else infos, needs)

    assert lacks(ink="", clay="c1") == ""
    assert lacks(ink="", neon="") == "no stage lists the LoRAs ink, neon together now"
    assert lacks([], ink="") == "no stage lists LoRA ink now"
    assert lacks(ink="i2") == lacks([], ink="i1") == "no stage lists LoRA ink from the session's own file now"


@pytest.mark.parametrize("lost_at", [2, 5, 9])
async def test_a_session_goes_on_with_its_own_after_its_stage_is_lost(lost_at: int) -> None:
    """On a stage with the same files, and not on one that lists others under their names."""
    first = FakeStage(loras=LISTED, block_s=0.02)
    other = FakeStage(loras={"ink": "another", "clay": "c1"}, capacity=0)
    same = FakeStage(loras=LISTED, block_s=0.02, capacity=0)
    async with town(stages=[first, other, same]) as place:
        name = await place.anybody.name(num_blocks=14, **ASKED)
        await place.anybody.switch(name, "a star", "both", at_block=4, loras={"loras": BOTH})
        await place.anybody.switch(name, "a ring", "none", at_block=11, loras={})
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(lost_at)
            other.set_capacity(1)
            same.set_capacity(1)
            await first.kill()
            await stream.until_over()
            assert stream.end_reason == "COMPLETE"
        assert not other.streams
        found = made_with(first, same)
        expected = {"ink": 1.0, "clay": -1.0}
        assert found == turns(14, {0: {"ink": 0.5}, 4: expected, 11: {}})
        (stream_there,) = same.streams
        start = stream_there.opening.start_block
        told = {
            block: {each.name: each.scale for each in loras.loras}
            for block, loras in stream_there.opening.loras.items()
            if block <= start
        }
        assert told, "the context blocks are encoded with theirs"
        assert all(loras == found.get(block, loras) for block, loras in told.items())


@pytest.mark.parametrize("at_first", [{}, {"neon": "n1"}])
async def test_a_file_is_that_of_the_stage_where_it_was_chosen(at_first: dict[str, str]) -> None:
    """Whatever the session's first stage listed, which another has replaced."""
    first, second, other, same = (
        FakeStage(loras={"ink": "i1", **more}, block_s=0.02, capacity=int(number == 0))
        for number, more in enumerate((at_first, {"neon": "n2"}, {"neon": "n3"}, {"neon": "n2"}))
    )
    async with town(stages=[first, second, other, same]) as place:
        name = await place.anybody.name(num_blocks=16, loras=INK)
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(2)
            second.set_capacity(1)
            await first.kill()
            await until(lambda: any(each.sent for each in second.streams))
            await place.anybody.switch(name, "a star", "neon", loras={"loras": [{"name": "neon"}]})
            await stream.receipt("neon")
            other.set_capacity(1)
            same.set_capacity(2)  # what is fuller comes first
            await second.kill()
            await stream.until_over()
            assert stream.end_reason == "COMPLETE"
        assert (len(other.streams), len(same.streams)) == (0, 1)


async def test_a_file_chosen_between_two_stages_is_that_of_the_one_before() -> None:
    """Where another lists the same; what merely has its name is not taken, though it is free first."""
    first = FakeStage(loras=LISTED | {"neon": "n1"}, block_s=0.02)
    other = FakeStage(loras=LISTED | {"neon": "n2"}, capacity=0)
    same = FakeStage(loras=LISTED | {"neon": "n1"}, block_s=0.02, capacity=0)
    async with town(stages=[first, other, same]) as place:
        name = await place.anybody.name(num_blocks=12, loras=INK)
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(2)
            await first.kill()
            await stream.until(lambda: stream.states[-1] == "RECOVERING")
            await place.anybody.switch(name, "a star", "neon", loras={"loras": [{"name": "neon"}]})
            other.set_capacity(1)
            await place.anybody.until_state(await place.anybody.name(), "ACTIVE")
            assert [len(stage.streams) for stage in (other, same)] == [1, 0], "it is the newcomer's"
            same.set_capacity(1)
            await stream.until_over()
            assert stream.end_reason == "COMPLETE"
        assert set(made_with(same)[11]) == {"neon"}


async def test_a_file_chosen_between_two_stages_is_one_that_is_there() -> None:
    """Where none lists that of the stage before: one of those that are there, which it then keeps to."""
    first = FakeStage(loras=LISTED | {"neon": "n1"}, block_s=0.02)
    others = {
        digest: FakeStage(loras=LISTED | {"neon": digest}, block_s=0.02, capacity=0)
        for digest in ("n2", "n3")
    }
    async with town(stages=[first, *others.values()]) as place:
        name = await place.anybody.name(num_blocks=16, loras=INK)
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(2)
            await first.kill()
            await stream.until(lambda: stream.states[-1] == "RECOVERING")
            await place.anybody.switch(name, "a star", "neon", loras={"loras": [{"name": "neon"}]})
            (model,) = (await place.anybody.call("ListModels", pb.ListModelsRequest())).models
            (digest,) = (each.digest for each in model.loras if each.name == "neon")
            shown, hidden = others.pop(digest), *others.values()
            hidden.set_capacity(1)
            await place.anybody.until_state(await place.anybody.name(), "ACTIVE")
            shown.set_capacity(1)
            await stream.until_over()
            assert stream.end_reason == "COMPLETE"
        assert set(made_with(shown)[15]) == {"neon"}, "as the list of models has it"


async def test_the_end_says_that_only_other_files_were_there() -> None:
    first = FakeStage(loras=LISTED, block_s=0.02)
    other = FakeStage(loras={"ink": "another"}, capacity=0)
    async with town(stages=[first, other], recovery_timeout_s=0.5) as place:
        name = await place.anybody.name(loras=INK)
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(1)
            other.set_capacity(1)
            await first.kill()
            await stream.until_over()
        assert not other.streams
        assert stream.all("ended")[0].status.message == (
            "no stage had a place within 0.5 s: no stage lists LoRA ink from the session's own file now"
        )


@needs_redis
async def test_another_gateway_goes_on_with_them(redis: RedisServer) -> None:
    async with pair(redis, loras=LISTED) as both:
        name = await both.first.acme.name(num_blocks=30, loras=INK)
        await both.first.acme.switch(name, "a star", "both", at_block=2, loras={"loras": BOTH})
        await both.first.acme.switch(name, "a ring", "late", at_block=25, loras={"loras": INK})
        async with both.first.acme.attached(name) as one:
            await one.until_sequence(6)
            await until(lambda: not both.first.registry.shared.journal.behind().num_writes)
            await both.first.kill()
        token = one.events[0].attached.resume_token
        other = await both.second.acme.attach_again(
            name=name, resume_token=token, after_sequence=one.sequences[-1]
        )
        await other.until_over()
        await other.cut()
        check_whole(30, one, other)
        found = made_with(both.stage)
        expected = {"ink": 1.0, "clay": -1.0}
        assert found == turns(30, {0: {"ink": 0.5}, 2: expected, 25: {"ink": 0.5}})
        session = await both.second.acme.get(name)
        assert shown(session.loras) == {"ink": 0.5}
