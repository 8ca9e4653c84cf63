"""What only some stages of a model can do (cuts, mixes and transitions, a picture to begin from) keeps a
session that needs it from the others, whenever it gets a place; and switches to it are refused there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from cascade.v1 import common_pb2, session_pb2
from cascade_core.prompts import Transition, WeightedPrompt
from services.gateway.journal import Limits, NewSession, PromptAccepted, PromptApplied, Record
from services.gateway.journal.record import new_record
from services.gateway.journal.rules import apply
from services.gateway.journal.ruling import num_mixed_needed
from services.gateway.session import production
from tests.services.gateway.session.test_cuts import made
from tests.services.support.fake_decoder import FIRST_FRAME
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import (
    STATES,
    AttachedStream,
    Town,
    fails,
    fresh_id,
    town,
    until_value,
)

CUT, BOUNDARY = common_pb2.SWITCH_MODE_CUT, common_pb2.SWITCH_MODE_BOUNDARY
MIX = common_pb2.PromptMix(
    prompts=[{"text": "a red circle", "weight": 1}, {"text": "a blue square", "weight": 3}]
)
OVER = common_pb2.Transition(num_blocks=40)
PICTURE = common_pb2.StartFile(image=FIRST_FRAME)


@dataclass(frozen=True)
class Ability:
    able: Mapping[str, Any]
    unable: Mapping[str, Any]
    switch: Mapping[str, Any]
    """One that needs it."""
    created: Mapping[str, Any]
    """Of a session that needs it from the start."""
    field: str
    wrong: str
    """Why the switch is refused at a stage that cannot, though another can."""
    lacks: str
    """What the queue says while no stage can."""


ABILITIES = {
    "cut": Ability(
        {"scene_cuts": True},
        {"scene_cuts": False},
        {"text": "a room", "mode": CUT},
        {"prompts": {0: "a street", 2: "a room"}, "switch_mode": CUT},
        "prompt_switch.mode",
        "cut: demo was not made for scene cuts",
        "no stage makes scene cuts now",
    ),
    "transition": Ability(
        {},
        {"max_transition_blocks": 39},
        {"text": "a room", "transition": OVER},
        {"prompts": {0: "a street", 1: "a room"}, "transitions": {1: OVER}},
        "prompt_switch.transition.num_blocks",
        "40 is more than 39, which the stages of this model take",
        "no stage takes transitions of 40 blocks now",
    ),
    "mix": Ability(
        {},
        {"max_transition_blocks": 0},
        {"mix": MIX},
        {"prompts": {}, "mixes": {0: MIX}},
        "prompt_switch.mix",
        "is not offered: the stages of this model are of a former release",
        "no stage takes mixes now",
    ),
}


@pytest.fixture(params=ABILITIES)
def ability(request: pytest.FixtureRequest) -> Ability:
    return ABILITIES[request.param]


def request_of(name: str, **asked: Any) -> session_pb2.SwitchPromptRequest:
    return session_pb2.SwitchPromptRequest(name=name, request_id=fresh_id(), prompt_switch=asked)


async def switched(place: Town, stream: AttachedStream, name: str, asked: Mapping[str, Any]) -> None:
    request = request_of(name, **asked)
    await place.anybody.call("SwitchPrompt", request)
    await stream.receipt(request.request_id)


async def test_after_a_loss_only_a_stage_that_can_goes_on(ability: Ability) -> None:
    stages = [FakeStage(block_s=0.02, **ability.able) for _ in range(2)]
    unable = FakeStage(capacity=0, **ability.unable)
    stages[1].capacity = 0
    async with town(stages=[*stages, unable]) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(2)
            await switched(place, stream, name, ability.switch)
            unable.set_capacity(4)
            await stages[0].kill()
            await stream.first("recovery_started")
            await place.anybody.until_state(await place.anybody.name(), "ACTIVE")
            assert len(unable.streams) == 1, "that of a session that needs nothing"
            stages[1].set_capacity(1)
            await stream.first("recovery_done")
        assert len(unable.streams) == 1
        assert [each.opening.session for each in stages[1].streams] == [name.removeprefix("sessions/")]


async def test_a_new_session_waits_for_one_that_can(ability: Ability) -> None:
    """As long as it takes, and is told why; one whose switch needs it comes to wait for it, too."""
    able, unable = FakeStage(capacity=0, **ability.able), FakeStage(capacity=0, **ability.unable)
    async with town(stages=[able, unable]) as place:
        created = await place.anybody.name(**ability.created)
        later = await place.anybody.name()
        await place.anybody.call("SwitchPrompt", request_of(later, **ability.switch))
        unable.set_capacity(4)
        await place.anybody.until_state(await place.anybody.name(), "ACTIVE")
        for name in (created, later):
            assert STATES[(await place.anybody.get(name)).state] == "QUEUED"
        able.set_capacity(2)
        for name in (created, later):
            await place.anybody.until_state(name, "ACTIVE")
        assert (len(able.streams), len(unable.streams)) == (2, 1)


async def test_the_queue_says_what_is_missing(ability: Ability) -> None:
    able = FakeStage(capacity=0, **ability.able)
    async with town(stages=[able, FakeStage(**ability.unable)]) as place:
        name = await place.anybody.name(**ability.created)
        await able.kill()
        found = await until_value(
            lambda: place.anybody.get(name), lambda session: bool(session.queue.message)
        )
        assert found.queue.message == ability.lacks


async def test_a_switch_that_the_sessions_stage_cannot_make_is_refused(ability: Ability) -> None:
    """Though another could; and once the session is there, it is taken."""
    unable, able = FakeStage(block_s=0.02, **ability.unable), FakeStage(capacity=0, **ability.able)
    async with town(stages=[unable, able]) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(1)
            with fails("INVALID_ARGUMENT INVALID_FIELD") as found:
                await place.anybody.call("SwitchPrompt", request_of(name, **ability.switch))
            (violation,) = found[0]["BadRequest"].field_violations
            assert (violation.field, violation.description) == (ability.field, ability.wrong)
            able.set_capacity(1)
            await unable.kill()
            await stream.first("recovery_done")
            await switched(place, stream, name, ability.switch)


async def test_what_it_comes_to_need_while_it_moves_counts(ability: Ability) -> None:
    """It drains, waits for a place, and makes a switch meanwhile."""
    first = FakeStage(block_s=0.02, **ability.able)
    able, unable = FakeStage(capacity=0, **ability.able), FakeStage(capacity=0, **ability.unable)
    async with town(stages=[first, able, unable]) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(2)
            first.begin_drain(60.0)
            await stream.until_segments(4)
            await switched(place, stream, name, ability.switch)
            unable.set_capacity(1)
            await stream.until_segments(len(stream.segments) + 2)
            able.set_capacity(1)
            await stream.until(lambda: able.streams and able.streams[0].sent)
        assert not unable.streams


async def test_a_place_that_will_not_do_any_more_is_given_back_without_blame(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where a switch comes between the grant and the stream: others may have that stage at once."""
    answers = iter([False])
    monkeypatch.setattr(production, "stage_fits", lambda *_: next(answers, True))
    async with town() as place, place.anybody.attached(await place.anybody.name()) as stream:
        await stream.until_segments(1)
    assert not list(answers)
    assert "peer failed a session" not in capsys.readouterr().out


@pytest.mark.parametrize("window", [{"context_blocks": 5}, {"sink_blocks": 2}])
async def test_a_stage_that_looks_back_further_than_is_kept_is_left_out(window: dict[str, int]) -> None:
    """The same weights with another card: it would ask for latents that are gone."""
    first, same = FakeStage(block_s=0.02), FakeStage(capacity=0)
    other = FakeStage(capacity=0, **window)
    async with town(stages=[first, same, other]) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(9)
            other.set_capacity(2)
            await first.kill()
            await place.anybody.until_state(await place.anybody.name(), "ACTIVE")
            same.set_capacity(1)
            await stream.first("recovery_done")
        assert len(other.streams) == len(same.streams) == 1


async def test_a_picture_waits_for_a_stage_that_begins_with_it() -> None:
    """From its second block on any will do: the picture is in the latents."""
    picture = common_pb2.IMAGE_START_FIRST_FRAME
    able, unable = FakeStage(capacity=0, image_start=picture), FakeStage()
    async with town(stages=[unable, able]) as place:
        name = await place.anybody.name(start=PICTURE)
        await place.anybody.until_state(await place.anybody.name(), "ACTIVE")
        assert STATES[(await place.anybody.get(name)).state] == "QUEUED"
        able.set_capacity(1)
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(1)
            assert able.streams[0].opening.HasField("first_frame")
            await able.kill()
            await stream.first("recovery_done")
        assert len(unable.streams) == 2


def test_what_is_over_binds_nothing() -> None:
    """Mixes and transitions count while kept latents or coming blocks have them."""
    record = new_record(NewSession("s", "t", b"", {0: "a"}, limits=Limits(num_recent_blocks=2)), 0)
    assert num_mixed_needed(record) == 0

    def after(record: Record, **asked: Any) -> Record:
        accepted = PromptAccepted("s1", "b", "boundary", None, 0, **asked)
        return apply(record, accepted)

    waiting = after(record, transition=Transition(4))
    assert num_mixed_needed(waiting) == 4
    begun = apply(waiting, PromptApplied("s1", 1, 5, 0), *made(range(6)))
    assert num_mixed_needed(begun) == 4, "block 4 is kept"
    assert num_mixed_needed(apply(begun, *made([6]))) == 0
    mixed = after(record, mix=(WeightedPrompt("a", 1.0), WeightedPrompt("b", 1.0)))
    assert num_mixed_needed(apply(mixed, PromptApplied("s1", 1, 1, 0), *made(range(9)))) == 1
