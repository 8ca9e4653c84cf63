"""Stages and decoders that die, fall silent, refuse, break off and drain under a session: no block is lost,
none comes twice, and clients are told what happened."""

import asyncio
import random
from collections.abc import Callable

import grpc
import pytest

from cascade.v1 import common_pb2, stage_pb2
from cascade.v1 import session_pb2 as pb
from cascade_core.errors import InvalidPrompt, OutOfCapacity, SessionLost, UnknownModel
from services.common.errors import Draining, Fenced, NotReady, ProtocolViolation, UnsupportedMedia
from services.common.status import reason_of
from services.gateway.placement import ledger
from services.gateway.session import keeper
from tests.services.support import fake_stage
from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_machine import OPEN, Fault, prompt_mark
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import (
    CAUSES,
    CLASSES,
    PROMPT,
    STATES,
    WAIT_S,
    AttachedStream,
    Town,
    status_reason,
    town,
    until,
)

NUM_BLOCKS = 16
MENDED: dict[str, Callable[[], Fault]] = {
    "out_of_capacity": lambda: OutOfCapacity("full"),
    "not_ready": lambda: NotReady("starting"),
    "draining": lambda: Draining("leaving"),
    "session_lost": lambda: SessionLost("the ranks died"),
    "fenced": lambda: Fenced("moved on", epoch=1),
    "internal": lambda: grpc.StatusCode.INTERNAL,
    "unknown": lambda: grpc.StatusCode.UNKNOWN,
    "unavailable": lambda: grpc.StatusCode.UNAVAILABLE,
    "cancelled": lambda: grpc.StatusCode.CANCELLED,
    "cut": lambda: "cut",
}


def machines(number: int = 2, **stage: int) -> tuple[list[FakeStage], list[FakeDecoder]]:
    return [FakeStage(**stage) for _ in range(number)], [FakeDecoder() for _ in range(number)]


def check_whole(stream: AttachedStream, number: int = NUM_BLOCKS) -> None:
    """Each block once, in order, and what reached the decoder is what the stage made last."""
    assert stream.error is None, stream.error
    assert stream.end_reason == "COMPLETE"
    assert stream.sequences == list(range(1, number + 1))
    assert [segment.media.block for segment in stream.segments] == list(range(number))
    assert [mark.block for mark in stream.marks] == list(range(number))
    epochs = [segment.epoch for segment in stream.segments]
    assert epochs == sorted(epochs)


def check_context(place: Town, stream: AttachedStream) -> None:
    """Streams were opened with the blocks of the session as its clients have seen them."""
    made = {mark.block: mark for mark in stream.marks}
    for stage in place.stages:
        for stream in stage.streams:
            assert [mark.block for mark in stream.context] == stream.needed
            assert all(made[mark.block] == mark for mark in stream.context)
    for decoder in place.decoders:
        for stream in decoder.streams:
            start = stream.opening.start_block
            wanted = range(max(0, start - decoder.warmup_blocks), start)
            assert [mark.block for mark in stream.warmup] == list(wanted)
            assert all(made[mark.block] == mark for mark in (*stream.warmup, *stream.marks))
            assert stream.most_pending <= decoder.max_pending


def check_prompts(stream: AttachedStream, starts: dict[int, str]) -> None:
    """Each block was made under the prompt that rules it."""
    for block, mark in enumerate(stream.marks):
        ruling = starts[max(start for start in starts if start <= block)]
        assert mark.prompt == prompt_mark(ruling), block


def check_told(stream: AttachedStream, cause: str, recovery_class: str) -> None:
    started, done = stream.all("recovery_started"), stream.all("recovery_done")
    assert [CAUSES[event.cause] for event in started] == [cause]
    assert [CAUSES[event.cause] for event in done] == [cause]
    assert [CLASSES[event.recovery_class] for event in done] == [recovery_class]
    assert started[0].HasField("start_time")
    assert done[0].gap.ToMilliseconds() >= 0
    at = stream.position("recovery_done")
    after = next(event.segment for event in stream.events[at:] if event.HasField("segment"))
    assert stream.events[at + 1].HasField("segment"), stream.kinds[at : at + 3]
    assert (after.sequence, after.epoch) == (done[0].first_sequence, done[0].epoch)
    assert stream.position("recovery_started") < at
    assert "RECOVERING" in stream.states
    assert done[0].epoch > 1


async def play(place: Town, number: int = NUM_BLOCKS, **spec: object) -> AttachedStream:
    """A session to its end."""
    name = await place.anybody.name(num_blocks=number, **spec)
    async with place.anybody.attached(name) as stream:
        await stream.until_over()
    return stream


def used(place: Town, kind: str) -> list[FakeStage | FakeDecoder]:
    """Machines that have a session; `kind`: stage, decoder or both."""
    groups = {"stage": place.stages, "decoder": place.decoders, "both": [*place.stages, *place.decoders]}
    return [machine for machine in groups[kind] if machine.sessions]


@pytest.mark.parametrize("fault", MENDED)
@pytest.mark.parametrize("block", [pytest.param(1, marks=pytest.mark.slow), 7])
async def test_a_stage_that_fails_is_replaced(fault: str, block: int) -> None:
    stages, decoders = machines()
    stages[0].fail(block, MENDED[fault]())
    stages[1].faults = stages[0].faults
    async with town(stages=stages, decoders=decoders) as place:
        stream = await play(place)
        check_whole(stream)
        check_context(place, stream)
        if block > 4:  # else there may have been no segment yet, so that nothing was lost
            check_told(stream, "MIGRATION" if fault == "draining" else "STAGE_LOST", "REBUILT")
            assert stream.all("recovery_done")[0].first_sequence == block + 1


@pytest.mark.parametrize("fault", MENDED)
@pytest.mark.parametrize("block", [pytest.param(1, marks=pytest.mark.slow), 7])
async def test_a_decoder_that_fails_is_replaced(fault: str, block: int) -> None:
    stages, decoders = machines()
    decoders[0].fail(block, MENDED[fault]())
    decoders[1].faults = decoders[0].faults
    async with town(stages=stages, decoders=decoders) as place:
        stream = await play(place)
        check_whole(stream)
        check_context(place, stream)
        check_told(stream, "MIGRATION" if fault == "draining" else "DECODER_LOST", "UNAFFECTED")
        assert stream.all("recovery_done")[0].first_sequence == block + 1
        assert {mark.epoch for mark in stream.marks} == {1}, "the stage went on"


@pytest.mark.parametrize("fault", ["out_of_capacity", "not_ready", "draining", "unavailable", "cut"])
async def test_machines_that_refuse_at_the_start_are_passed_over(fault: str) -> None:
    stages, decoders = machines()
    for machine in (stages[0], decoders[0]):
        machine.fail(OPEN, MENDED[fault]())
    stages[1].faults, decoders[1].faults = stages[0].faults, decoders[0].faults
    async with town(stages=stages, decoders=decoders) as place:
        stream = await play(place)
        check_whole(stream)
        assert not stream.all("recovery_started"), "nothing was lost"
        assert "RECOVERING" not in stream.states


@pytest.mark.parametrize("kind", ["stage", "decoder", "both"])
@pytest.mark.parametrize("way", ["die", "silence"])
async def test_machines_that_die_or_fall_silent_are_replaced(kind: str, way: str) -> None:
    stages, decoders = machines()
    async with town(stages=stages, decoders=decoders) as place:
        name = await place.anybody.name(num_blocks=NUM_BLOCKS)
        async with place.anybody.attached(name, acks=False) as stream:
            await stream.until_sequence(4)
            lost = used(place, kind)
            for machine in lost:
                await machine.kill() if way == "die" else machine.silence()
            await stream.first("recovery_started")
            stream.acks = True
            await stream.ack(4)
            await stream.until_over()
        check_whole(stream)
        check_context(place, stream)
        causes = {"stage": "STAGE_LOST", "decoder": "DECODER_LOST", "both": "STAGE_AND_DECODER_LOST"}
        done = stream.all("recovery_done")
        assert [CAUSES[event.cause] for event in done] == [causes[kind]]
        assert CLASSES[done[0].recovery_class] == ("UNAFFECTED" if kind == "decoder" else "REBUILT")
        for machine in lost:
            machine.silence(False)


@pytest.mark.parametrize("kind", ["stage", "decoder"])
async def test_a_machine_that_stalls_is_replaced(kind: str) -> None:
    stages, decoders = machines()
    group: list[FakeStage] | list[FakeDecoder] = stages if kind == "stage" else decoders
    group[0].fail(5, "silent")
    group[1].faults = group[0].faults
    async with town(stages=stages, decoders=decoders, stall_timeout_s=0.5) as place:
        stream = await play(place)
        check_whole(stream)
        check_context(place, stream)


@pytest.mark.parametrize("kind", ["stage", "decoder"])
async def test_a_machine_that_does_not_answer_open_is_replaced(kind: str) -> None:
    stages, decoders = machines()
    group: list[FakeStage] | list[FakeDecoder] = stages if kind == "stage" else decoders
    group[0].fail(OPEN, "silent")
    group[1].faults = group[0].faults
    async with town(stages=stages, decoders=decoders, open_timeout_s=0.5) as place:
        check_whole(await play(place))


async def test_a_single_stage_and_decoder_that_come_back_are_used_again() -> None:
    async with town() as place:
        name = await place.anybody.name(num_blocks=NUM_BLOCKS)
        async with place.anybody.attached(name, acks=False) as stream:
            await stream.until_sequence(4)
            await place.stage.restart()
            await place.decoder.restart()
            stream.acks = True
            await stream.ack(4)
            await stream.until_over()
        check_whole(stream)
        check_context(place, stream)


@pytest.mark.parametrize("error", [InvalidPrompt("x"), UnknownModel("x"), ProtocolViolation("x")])
async def test_what_another_stage_would_say_too_ends_the_session(error: Exception) -> None:
    stages, decoders = machines()
    stages[0].fail(3, error)
    stages[1].faults = stages[0].faults
    async with town(stages=stages, decoders=decoders) as place:
        stream = await play(place)
        assert stream.end_reason == "FAILED"
        assert stream.sequences == [1, 2, 3][: len(stream.sequences)]
        assert status_reason(stream.all("ended")[0].status) == reason_of(error)


async def test_a_refusal_beside_large_context_is_told() -> None:
    """The stage answers Open at once, while the gateway still writes the latents of many blocks."""
    stage = FakeStage(latent_bytes=600_000, context_blocks=8, capacity=3)
    async with town(stages=[stage]) as place:
        for _ in range(3):
            async with place.anybody.attached(await place.anybody.name()) as stream:
                await stream.until_segments(9)
                stage.fail(OPEN, InvalidPrompt("x"))
                stage.fail(stream.sequences[-1] + 8, SessionLost("x"))
                await stream.until_over()
            assert stream.end_reason == "FAILED"
            assert status_reason(stream.all("ended")[0].status) == "INVALID_PROMPT"
            stage.faults.clear()


async def test_prompts_that_the_model_refuses_count_against_no_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor anything else that is the client's own fault: the next session, of whomever, starts at once."""
    monkeypatch.setattr(ledger, "FIRST_BACKOFF_S", 600.0)
    monkeypatch.setattr(ledger, "MAX_BACKOFF_S", 600.0)
    async with town() as place:
        for _ in range(5):
            stream = await play(place, prompts={0: f"much {fake_stage.REFUSED}"})
            assert stream.end_reason == "FAILED"
            assert status_reason(stream.all("ended")[0].status) == "INVALID_PROMPT"
        place.decoder.fail(OPEN, UnsupportedMedia("no", field="open.width"))
        assert (await play(place)).end_reason == "FAILED"
        check_whole(await play(place))


async def test_a_video_that_is_made_needs_no_machine_any_more() -> None:
    """The stage drains, another gets a place when the last block is made, and then the decoders die; the
    client has still to acknowledge."""
    stages, decoders = machines()
    stages[1].capacity = 0
    async with town(stages=stages, decoders=decoders) as place:
        name = await place.anybody.name(num_blocks=NUM_BLOCKS)
        async with place.anybody.attached(name, acks=False, max_unacked_segments=4) as stream:
            for sequence in range(4, NUM_BLOCKS, 4):
                await stream.until_sequence(sequence)
                stages[0].begin_drain(30.0)
                await stream.ack(sequence)
            await stream.until_sequence(NUM_BLOCKS)
            stages[1].set_capacity(1)
            await until(lambda: not stages[0].sessions)
            for decoder in decoders:
                await decoder.kill()
            await asyncio.sleep(0.2)
            await stream.ack(NUM_BLOCKS)
            await stream.until_over()
        check_whole(stream)
        assert not stages[1].streams, "a stream for no block at all"
        assert stream.all("recovery_started") == []


async def test_what_another_decoder_would_say_too_ends_the_session() -> None:
    stages, decoders = machines()
    for decoder in decoders:
        decoder.fail(OPEN, UnsupportedMedia("no", field="open.width"))
    async with town(stages=stages, decoders=decoders) as place:
        stream = await play(place)
        assert stream.end_reason == "FAILED"
        assert status_reason(stream.all("ended")[0].status) == "UNSUPPORTED_MEDIA"


async def test_a_session_that_finds_no_other_machine_fails_in_time() -> None:
    async with town(recovery_timeout_s=0.6) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(3)
            await place.stage.kill()
            await stream.until_over()
        assert stream.end_reason == "FAILED"
        assert status_reason(stream.all("ended")[0].status) == "NOT_READY"
        assert stream.all("recovery_started")


async def test_a_machine_that_fails_every_time_fails_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "FIRST_BACKOFF_S", 0.01)
    async with town(recovery_timeout_s=60.0) as place:
        place.stage.faults[2] = [SessionLost("again") for _ in range(50)]
        stream = await play(place)
        assert stream.end_reason == "FAILED"
        assert status_reason(stream.all("ended")[0].status) == "SESSION_LOST"
        assert len(place.stage.streams) == keeper.MAX_FAILURES


@pytest.mark.parametrize("kind", ["stage", "decoder", "both"])
async def test_a_drain_moves_sessions_to_a_spare_and_loses_nothing(kind: str) -> None:
    stages, decoders = machines()
    async with town(stages=stages, decoders=decoders) as place:
        name = await place.anybody.name(num_blocks=NUM_BLOCKS)
        async with place.anybody.attached(name, acks=False) as stream:
            await stream.until_sequence(4)
            drained = used(place, kind)
            for machine in drained:
                machine.begin_drain(30.0)
            await until(lambda: all(not machine.sessions for machine in drained))
            stream.acks = True
            await stream.ack(4)
            await stream.until_over()
            assert all(machine.drain_status().safe_to_delete for machine in drained)
        check_whole(stream)
        check_context(place, stream)
        assert [CAUSES[event.cause] for event in stream.all("recovery_done")] == ["MIGRATION"]


async def test_a_drain_without_a_spare_goes_on_until_the_deadline() -> None:
    """What ends then is no loss: everybody knew."""
    async with town(stages=[FakeStage(block_s=0.01)]) as place:
        name = await place.anybody.name(num_blocks=200)
        async with place.anybody.attached(name) as stream:
            await stream.until_sequence(4)
            place.stage.begin_drain(0.4)
            at = stream.sequences[-1]
            await stream.until_sequence(at + 3)
            await until(lambda: not place.stage.sessions)
            await place.stage.restart()
            await stream.until_over()
        check_whole(stream, 200)
        check_context(place, stream)
        check_told(stream, "MIGRATION", "REBUILT")


async def test_a_drain_that_gets_a_spare_later_uses_it() -> None:
    stages, decoders = machines()
    stages[1].capacity = 0
    async with town(stages=stages, decoders=decoders) as place:
        name = await place.anybody.name(num_blocks=400)
        async with place.anybody.attached(name, acks=False) as stream:
            await stream.until_sequence(4)
            stages[0].begin_drain(30.0)
            await stream.ack(2)
            await stream.until_sequence(6)
            assert stages[0].sessions, "it goes on until another has a place"
            stages[1].set_capacity(1)
            await until(lambda: not stages[0].sessions and stages[1].sessions)
            stream.acks = True
            await stream.ack(6)
            await stream.until_over()
        check_whole(stream, 400)
        check_context(place, stream)


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 12))]
)
async def test_faults_at_random_lose_nothing(seed: int) -> None:
    choose = random.Random(seed)
    stages, decoders = machines(3)
    kinds = [*MENDED, "die"]
    for group in (stages, decoders):
        for _ in range(3):
            name = choose.choice(kinds)
            group[0].fail(choose.randrange(40), "die" if name == "die" else MENDED[name]())
        for machine in group:
            machine.faults = group[0].faults
    starts = {0: PROMPT, 9: "nine", 20: "twenty", 31: "thirty-one"}
    async with town(stages=stages, decoders=decoders) as place:
        stream = await play(place, 40, prompts=starts)
        check_whole(stream, 40)
        check_context(place, stream)
        check_prompts(stream, starts)
        applied = [item for item in stream.all("prompt_receipt") if item.state == pb.SWITCH_STATE_APPLIED]
        assert [item.first_block_touched for item in applied] == [9, 20, 31]


@pytest.mark.parametrize("loss_at", [4, 5, 6, 7, 8, 9])
async def test_switches_survive_the_loss_of_the_stage(loss_at: int) -> None:
    """Around a timeline's entry at block 6 and a switch that waits for block 8."""
    stages, decoders = machines()
    stages[0].fail(loss_at, SessionLost("lost"))
    stages[1].faults = stages[0].faults
    async with town(stages=stages, decoders=decoders) as place:
        name = await place.anybody.name(num_blocks=14, prompts={0: PROMPT, 6: "six", 11: "eleven"})
        async with place.anybody.attached(name, acks=False, max_unacked_segments=2) as stream:
            await stream.until_sequence(2)
            await place.anybody.switch(name, "eight", "s8", at_block=8)
            await place.anybody.switch(name, "now", "now")
            stream.acks = True
            await stream.ack(stream.sequences[-1])  # up to 4, made before it attached with a smaller number
            await stream.until_over()
        check_whole(stream, 14)
        check_context(place, stream)
        applied = [item for item in stream.all("prompt_receipt") if item.state == pb.SWITCH_STATE_APPLIED]
        touched = {item.request_id or item.first_block_touched: item.first_block_touched for item in applied}
        now = touched.pop("now")
        assert touched == {6: 6, "s8": 8, 11: 11}
        assert len(applied) == 4
        starts = {0: PROMPT, now: "now", 6: "six", 8: "eight", 11: "eleven"}
        check_prompts(stream, starts)


async def test_a_switch_that_is_asked_for_during_a_recovery_waits_and_takes_effect() -> None:
    async with town() as place:
        name = await place.anybody.name(num_blocks=NUM_BLOCKS)
        async with place.anybody.attached(name, acks=False) as stream:
            await stream.until_sequence(4)
            await place.stage.kill()
            await stream.until(lambda: stream.states[-1] == "RECOVERING")
            assert STATES[(await place.anybody.get(name)).state] == "RECOVERING"
            receipt = await place.anybody.switch(name, "after", "s1")
            assert receipt.state == pb.SWITCH_STATE_ACCEPTED
            await place.anybody.switch(name, "at ten", "s2", at_block=10)
            await place.stage.start()
            stream.acks = True
            await stream.ack(4)
            await stream.until_over()
        check_whole(stream)
        assert (await stream.receipt("s1")).first_block_touched == 4
        assert (await stream.receipt("s2")).first_block_touched == 10


async def test_a_session_paused_during_a_recovery_comes_back_paused() -> None:
    async with town() as place:
        name = await place.anybody.name(num_blocks=NUM_BLOCKS)
        async with place.anybody.attached(name) as stream:
            await stream.until_sequence(4)
            await place.stage.kill()
            await stream.until(lambda: stream.states[-1] == "RECOVERING")
            await place.anybody.pause(name)
            await place.stage.start()
            await asyncio.sleep(0.5)
            await place.anybody.resume(name)
            await stream.until_over()
        check_whole(stream)


async def test_the_place_of_a_lost_stream_is_free_again() -> None:
    async with town() as place:
        place.stage.fail(3, SessionLost("lost"))
        place.decoder.fail(5, SessionLost("lost"))
        check_whole(await play(place))
        await until(lambda: not place.stage.sessions and not place.decoder.sessions)
        assert place.registry.shared.admission.num_busy == 0


async def test_a_decoder_with_another_encoder_gives_another_init() -> None:
    decoders = [FakeDecoder(encoder_name="one"), FakeDecoder(encoder_name="two")]
    async with town(decoders=decoders) as place:
        name = await place.anybody.name(num_blocks=NUM_BLOCKS)
        async with place.anybody.attached(name, acks=False) as stream:
            await stream.until_sequence(4)
            await next(decoder for decoder in decoders if decoder.sessions).kill()
            stream.acks = True
            await stream.ack(4)
            await stream.until_over()
        check_whole(stream)
        assert len({init.data for init in stream.all("media_init")}) == 2
        second = [at for at, kind in enumerate(stream.kinds) if kind == "media_init"][1]
        assert second < stream.position("segment", lambda item: item.epoch > 1)


async def test_a_stage_of_another_revision_does_not_continue_a_session() -> None:
    stages = [FakeStage(), FakeStage(revision="r2")]
    stages[1].set_state(common_pb2.SERVING_STATE_UNHEALTHY)
    async with town(stages=stages, recovery_timeout_s=0.8) as place:
        stages[1].set_capacity(0)
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_sequence(3)
            stages[1].set_capacity(4)
            await stages[0].kill()
            await stream.until_over()
        assert stream.end_reason == "FAILED"
        assert not stages[1].streams


class Renewed(FakeStage):
    """Started again with other weights, which its address's last report does not know."""

    def fill_status(self, status: stage_pb2.StageStatus) -> None:
        super().fill_status(status)
        status.model.revision = "r1"


async def test_a_stage_that_opens_with_another_revision_than_it_reported_adds_no_block() -> None:
    stages = [FakeStage(), Renewed(revision="r2", capacity=0), FakeStage(capacity=0)]
    async with town(stages=stages) as place:
        name = await place.anybody.name(num_blocks=NUM_BLOCKS)
        async with place.anybody.attached(name) as stream:
            await stream.until_sequence(3)
            stages[1].set_capacity(4)
            await stages[0].kill()
            await until(lambda: bool(stages[1].streams))
            stages[2].set_capacity(4)
            await stream.until_over()
        check_whole(stream)
        strange = {each.epoch for each in stages[1].streams}
        assert strange.isdisjoint(mark.epoch for mark in stream.marks)


async def test_of_two_that_hold_what_the_other_needs_one_goes_on() -> None:
    """One's stage and the other's decoder are gone, and there is no spare: one of them gives up what it has,
    and is served when there is something again."""
    stages, decoders = [FakeStage(capacity=1) for _ in range(2)], [FakeDecoder(capacity=1) for _ in range(2)]
    async with town(stages=stages, decoders=decoders, recovery_timeout_s=WAIT_S) as place:
        names = [await place.anybody.name(num_blocks=60) for _ in range(2)]
        streams = [await stack_of(place, name) for name in names]
        for stream in streams:
            await stream.until_sequence(3)
        first, second = (name.removeprefix("sessions/") for name in names)
        stage = next(stage for stage in stages if first in stage.sessions)
        decoder = next(decoder for decoder in decoders if second in decoder.sessions)
        await asyncio.gather(stage.kill(), decoder.kill())
        await first_over(streams)
        await stage.start()
        for stream in streams:
            await stream.until_over()
            check_whole(stream, 60)
        assert not place.registry.shared.admission.num_urgent


async def stack_of(place: Town, name: str) -> AttachedStream:
    stream = place.anybody.stream()
    await stream.attach(name=name)
    return stream


async def first_over(streams: list[AttachedStream]) -> None:
    async with asyncio.timeout(WAIT_S):
        await asyncio.wait(
            [asyncio.ensure_future(stream.until_over()) for stream in streams],
            return_when=asyncio.FIRST_COMPLETED,
        )
