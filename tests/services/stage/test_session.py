"""Generate, sentence by sentence, on real ranks over real gRPC."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
import torch

from cascade.v1 import common_pb2
from services.common import streams
from services.common.validation import BYTES_PER_VALUE
from tests.engine_support import wait_until, write_card
from tests.services.common.test_errors import unpacked
from tests.services.support.stage_support import (
    MANY,
    PROMPT,
    Blocks,
    Response,
    Running,
    Stream,
    kinds,
    serving,
    stage_settings,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
SLOTS = 4
BIDIRECTIONAL = common_pb2.INFLIGHT_ATTENTION_BIDIRECTIONAL
CAUSAL = common_pb2.INFLIGHT_ATTENTION_CAUSAL
LONG = " ".join(["red"] * 500)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """Sequential, so that a session continued from its context is the same to rounding."""
    card = write_card(tmp_path_factory.mktemp("card"))
    settings = stage_settings(card, stage={"stagger": 5, "max_sessions": SLOTS, "num_ranks": 2})
    async with serving(settings) as running:
        yield running
        assert running.engine.status.num_restarts == 0


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def left_empty(stage: Running) -> AsyncIterator[None]:
    """Whatever a test does to its streams, their sessions leave."""
    yield
    await wait_until(lambda: len(stage.stage.occupancy) == 0, "the slots are free")
    assert stage.engine.status.num_sessions == 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def expected(stage: Running) -> Blocks:
    stream = await stage.opened(num_blocks=12, credit_end_block=MANY)
    return stream.latents(message.block for message in (await stream.rest())[:-1])


def assert_same(actual: Blocks, expected: Blocks) -> None:
    for index, latents in actual.items():
        torch.testing.assert_close(latents, expected[index], rtol=0, atol=0)


class TestOrder:
    async def test_opened_then_blocks_then_ended_then_ok(self, stage: Running) -> None:
        stream = stage.generate()
        await stream.open(num_blocks=3, credit_end_block=9)
        messages = await stream.rest()
        assert kinds(messages) == ["opened", "block", "block", "block", "ended"]
        opened = messages[0].opened
        assert (opened.epoch, opened.revision, opened.width, opened.height) == (1, "random", 32, 32)
        assert tuple(opened.latent_shape) == stream.shape
        assert [message.block.block.index for message in messages[1:4]] == [0, 1, 2]
        assert messages[1].block.latency.ToNanoseconds() > messages[1].block.tick_time.ToNanoseconds() > 0
        assert messages[-1].ended.reason == Response.Ended.REASON_COMPLETE
        assert await stream.code() is grpc.StatusCode.OK

    async def test_blocks_tell_of_their_ticks(self, stage: Running) -> None:
        """Sequential on two ranks: a block's four denoising passes after the one before wrote its context."""
        stream = stage.generate()
        await stream.open(num_blocks=3, credit_end_block=9)
        blocks = [message.block for message in await stream.rest() if message.HasField("block")]
        done = [[[(item.block, item.pass_index, item.rank) for item in tick.passes] for tick in block.ticks]
                for block in blocks]  # fmt: skip
        assert done == [
            [[(0, number, 0)] for number in range(4)],
            [[(0, 4, 0)], *([(1, number, 1)] for number in range(4))],
            [[(1, 4, 1)], *([(2, number, 0)] for number in range(4))],
        ]
        assert [tick.index for block in blocks for tick in block.ticks] == list(range(14))
        for block in blocks:
            assert block.ticks[-1].compute_time == block.tick_time

    @pytest.mark.parametrize("half_close", [False, True])
    async def test_close_and_half_close_end_it(self, stage: Running, half_close: bool) -> None:
        stream = await stage.opened(credit_end_block=2)
        await stream.blocks(2)
        await (stream.call.done_writing() if half_close else stream.send(close={}))
        assert (await stream.expect("ended")).reason == Response.Ended.REASON_CLOSED
        assert await stream.read() is None
        assert await stream.code() is grpc.StatusCode.OK

    async def test_positions_run_out(self, tmp_path: Path) -> None:
        card = write_card(tmp_path, rope="absolute", max_positions=3)
        async with serving(stage_settings(card)) as running:
            stream = await running.opened(model="tiny", credit_end_block=MANY)
            messages = await stream.rest()
            assert kinds(messages) == ["block"] * 3 + ["ended"]
            assert messages[-1].ended.reason == Response.Ended.REASON_POSITIONS_EXHAUSTED
            assert (await running.status()).model.max_blocks == 3
            late = running.generate()
            await late.open(start_block=3, num_context_blocks=3)
            assert await late.reason() == "INVALID_FIELD"

    async def test_bfloat16_is_half_as_much(self, stage: Running, expected: Blocks) -> None:
        stream = await stage.opened(
            num_blocks=1, credit_end_block=1, latent_dtype=common_pb2.DATA_TYPE_BFLOAT16
        )
        block = (await stream.expect("block")).block
        assert block.latents.dtype == common_pb2.DATA_TYPE_BFLOAT16
        assert len(block.latents.data) == expected[0].numel() * BYTES_PER_VALUE[common_pb2.DATA_TYPE_BFLOAT16]
        data = torch.frombuffer(bytearray(block.latents.data), dtype=torch.bfloat16)
        assert torch.equal(data, expected[0].to(torch.bfloat16).flatten())


class TestCredit:
    async def test_it_is_absolute_and_lower_or_repeated_values_change_nothing(
        self, stage: Running, expected: Blocks
    ) -> None:
        stream = await stage.opened(credit_end_block=2)
        blocks = await stream.blocks(2)
        for end_block in (1, 2, 2, 4, 4, 3):
            await stream.credit(end_block)
        blocks |= await stream.blocks(2)
        session = next(iter(stage.engine._sessions.values()))
        assert session.credit == 0
        num_blocks = stage.engine.status.num_blocks
        await stream.switch("a")  # a question and its answer: nothing else came before it
        await stream.expect("switch_accepted")
        assert session.credit == 0
        assert num_blocks == stage.engine.status.num_blocks
        assert_same(blocks, expected)
        await stream.close()

    async def test_none_at_first(self, stage: Running, expected: Blocks) -> None:
        stream = await stage.opened()
        assert not stage.engine.has_work
        await stream.credit(1)
        assert_same(await stream.blocks(1), expected)
        await stream.close()

    async def test_a_session_without_credit_does_not_hold_back_another(
        self, stage: Running, expected: Blocks
    ) -> None:
        frozen = await stage.opened(credit_end_block=1)
        await frozen.blocks(1)
        stream = await stage.opened(num_blocks=12, credit_end_block=MANY)
        assert_same(await stream.blocks(12), expected)
        await stream.rest()
        await frozen.credit(2)
        assert_same(await frozen.blocks(1), expected)
        await frozen.close()

    async def test_sessions_share_the_stage_and_do_not_mix(self, stage: Running, expected: Blocks) -> None:
        streams = [await stage.opened(seed=seed, credit_end_block=MANY, fps=30) for seed in (7, 8, 7)]
        first, second, third = await asyncio.gather(*(stream.blocks(12) for stream in streams))
        assert_same(first, expected)
        assert_same(third, expected)
        assert not torch.equal(first[0], second[0])
        for stream in streams:
            await stream.close()

    async def test_what_is_needed_sooner_is_made_sooner(self, stage: Running) -> None:
        first, second = [await stage.opened() for _ in range(2)]
        await first.credit(12, needed_in_s=60)
        await second.credit(12, needed_in_s=5)
        await second.blocks(12)
        mine = next(iter(stage.engine._sessions.values()))
        assert mine.credit is not None
        assert mine.credit >= 6, "as far as it came before the other had credit"
        await first.blocks(12)
        for stream in (first, second):
            await stream.close()

    async def test_each_session_has_its_own_playback_speed(self, stage: Running) -> None:
        slow, fast = [await stage.opened(fps=fps, credit_end_block=3) for fps in (1, 120)]
        first, second = stage.engine._sessions.values()
        await asyncio.gather(slow.blocks(3), fast.blocks(3))
        assert first.deadline_s > second.deadline_s + 2
        await slow.close()
        await fast.close()


class TestSchedule:
    async def test_a_session_has_the_stagger_and_attention_that_it_asks_for(
        self, stage: Running, expected: Blocks
    ) -> None:
        videos = {}
        for attention in (BIDIRECTIONAL, CAUSAL):
            asked = {"stagger": 2, "inflight_attention": attention}
            stream = await stage.opened(num_blocks=4, credit_end_block=9, **asked)
            blocks = [message.block for message in await stream.rest() if message.HasField("block")]
            passes = [[(item.block, item.pass_index) for item in tick.passes] for tick in blocks[1].ticks]
            assert passes == [[(0, 4), (1, 2), (2, 0)], [(1, 3), (2, 1)]], "three are in flight"
            videos[attention] = stream.latents(blocks)
        assert not torch.equal(videos[BIDIRECTIONAL][2], videos[CAUSAL][2])
        assert not torch.equal(videos[CAUSAL][2], expected[2]), "the stage's own is sequential"

    async def test_it_tells_what_it_allows_and_refuses_the_rest(self, stage: Running, tmp_path: Path) -> None:
        model = (await stage.status()).model
        assert (list(model.staggers), model.default_stagger) == ([1, 2, 3, 4, 5], 5)
        assert list(model.inflight_attentions) == [BIDIRECTIONAL, CAUSAL]
        assert model.default_inflight_attention == BIDIRECTIONAL
        some = {"stagger": 2, "allowed_staggers": [3, 2], "allowed_inflight_attentions": ["causal"]}
        settings = stage_settings(write_card(tmp_path), stage={**some, "inflight_attention": "causal"})
        async with serving(settings) as running:
            model = (await running.status()).model
            assert (list(model.staggers), model.default_stagger) == ([2, 3], 2)
            assert (list(model.inflight_attentions), model.default_inflight_attention) == ([CAUSAL], CAUSAL)
            for asked, field, wrong in (
                ({"stagger": 1}, "open.stagger", "1 is not one of 2, 3"),
                (
                    {"inflight_attention": BIDIRECTIONAL},
                    "open.inflight_attention",
                    "bidirectional is not one of causal",
                ),
            ):
                stream = running.generate()
                await stream.open(**asked)
                await stream.rest()
                found = await stream.details()
                assert found["ErrorInfo"].reason == "INVALID_FIELD"
                violation = found["BadRequest"].field_violations[0]
                assert (violation.field, violation.description) == (field, wrong)


class TestContinuing:
    @pytest.mark.parametrize(
        ("start", "credit", "tolerance"),
        [(1, 0, 1e-4), (4, MANY, 1e-4), (6, 0, 0.05), (6, MANY, 0.05)],
    )
    async def test_from_its_own_output(
        self, stage: Running, expected: Blocks, start: int, credit: int, tolerance: float
    ) -> None:
        """Equal to rounding while all of the past lies in the window, close where it does not."""
        context = {index: expected[index] for index in stage.engine.context_blocks(start)}
        stream = await stage.opened(
            start_block=start, context=context, credit_end_block=credit, num_blocks=12 - start
        )
        assert not next(iter(stage.engine._sessions.values())).timeline.to_prime, "opened means primed"
        await stream.credit(MANY)
        for index, latents in (await stream.blocks(12 - start)).items():
            torch.testing.assert_close(latents, expected[index], rtol=tolerance, atol=tolerance)
        await stream.expect("ended")

    async def test_priming_spends_no_credit(self, stage: Running, expected: Blocks) -> None:
        context = {index: expected[index] for index in stage.engine.context_blocks(6)}
        stream = await stage.opened(start_block=6, context=context)
        session = next(iter(stage.engine._sessions.values()))
        assert session.credit == 0
        await stream.credit(6)  # below the first block: nothing
        await stream.credit(8)
        await stream.blocks(2)
        assert session.credit == 0
        await stream.close()

    async def test_the_context_is_what_the_model_info_says(self, stage: Running) -> None:
        info = (await stage.status()).model
        for start in (0, 1, 3, 6, 40):
            sink = range(min(info.sink_blocks, start))
            last = range(max(0, start - info.context_blocks), start)
            assert sorted({*sink, *last}) == stage.engine.context_blocks(start)


class TestSwitches:
    async def test_accepted_then_applied_before_the_block_it_touches(self, stage: Running) -> None:
        stream = await stage.opened(credit_end_block=3)
        await stream.blocks(3)
        await stream.switch("one", mode=common_pb2.SWITCH_MODE_BOUNDARY)
        await stream.switch("two", "a blue circle", at_block=5)
        await stream.credit(8)
        messages = [await stream.read() for _ in range(9)]
        seen = [message for message in messages if message is not None]
        receipts = [message for message in seen if message.WhichOneof("message") != "block"]
        told = [
            (kind, getattr(receipt, kind).request_id)
            for kind, receipt in zip(kinds(receipts), receipts, strict=True)
        ]
        assert told == [
            ("switch_accepted", "one"),
            ("prompt_applied", "one"),
            ("switch_accepted", "two"),
            ("prompt_applied", "two"),
        ]  # fmt: skip
        applied = {message.prompt_applied.request_id: message for message in receipts[1::2]}
        assert applied["two"].prompt_applied.first_block_touched == 5
        for receipt in applied.values():
            touched = receipt.prompt_applied.first_block_touched
            before = [
                message.block.block.index
                for message in seen[: seen.index(receipt)]
                if message.HasField("block")
            ]
            assert all(index < touched for index in before)
        await stream.close()

    async def test_the_timeline_tells_too_with_an_empty_id(self, stage: Running) -> None:
        stream = await stage.opened(prompts={0: PROMPT, 2: "a blue square"}, num_blocks=4, credit_end_block=4)
        messages = await stream.rest()
        assert kinds(messages) == ["block", "block", "prompt_applied", "block", "block", "ended"]
        assert messages[2].prompt_applied.request_id == ""

    async def test_a_repeat_gets_the_receipts_again(self, stage: Running) -> None:
        stream = await stage.opened()
        await stream.switch("a")
        await stream.expect("switch_accepted")
        first = await stream.expect("prompt_applied")
        accepted = stage.metric("cascade_stage_prompt_switches_total", outcome="accepted")
        await stream.switch("a", mode=common_pb2.SWITCH_MODE_IMMEDIATE)
        assert (await stream.expect("switch_accepted")).request_id == "a"
        assert await stream.expect("prompt_applied") == first
        assert stage.metric("cascade_stage_prompt_switches_total", outcome="accepted") == accepted
        await stream.close()

    @pytest.mark.parametrize("other", [{"text": "another"}, {"mode": 2}, {"at_block": 7}])
    async def test_the_same_id_with_other_content(self, stage: Running, other: dict[str, Any]) -> None:
        stream = await stage.opened()
        await stream.switch("a")
        await stream.expect("switch_accepted")
        await stream.expect("prompt_applied")
        await stream.switch("a", **other)
        assert await refusal(stream) == "REQUEST_ID_REUSED"
        await stream.switch("b")
        await stream.expect("switch_accepted")
        await stream.expect("prompt_applied")
        await stream.close()

    async def test_a_block_that_has_started_or_never_will(self, stage: Running) -> None:
        stream = await stage.opened(credit_end_block=2, num_blocks=5)
        await stream.blocks(2)
        for at_block in (0, 1, 5, 100):
            await stream.switch(f"at-{at_block}", at_block=at_block)
            refused = await stream.expect("switch_refused")
            assert refused.request_id == f"at-{at_block}"
            info = unpacked(refused.status)["ErrorInfo"]
            assert info.reason == "BLOCK_NOT_AHEAD"
            assert int(info.metadata["next_block"]) in (2, 3)
        await stream.switch("at-0", at_block=0)
        assert await refusal(stream) == "BLOCK_NOT_AHEAD", "a repeat is answered alike"
        await stream.close()

    async def test_a_prompt_that_is_too_long(self, stage: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = await stage.opened()
        await stream.switch("long", LONG)
        await stream.switch("short")
        refused = await stream.expect("switch_refused")
        found = unpacked(refused.status)
        assert found["ErrorInfo"].reason == "INVALID_PROMPT"
        assert found["BadRequest"].field_violations[0].field == "switch_prompt.text"
        assert found["RequestInfo"].request_id
        await stream.expect("switch_accepted")
        await stream.expect("prompt_applied")
        await stream.close()
        late = stage.generate()
        await late.open(prompts={0: LONG})
        assert await late.reason() == "INVALID_PROMPT"

    async def test_too_many_wait_and_all_are_answered_in_order(self, stage: Running) -> None:
        """No credit, so none that names a block takes effect: the engine keeps 1024."""
        stream = await stage.opened()
        count = 1100

        async def ask() -> None:
            for number in range(count):
                await stream.switch(f"n{number}", PROMPT, at_block=100)

        asking = asyncio.create_task(ask())
        answers = [await stream.read() for _ in range(count)]
        await asking
        ids, reasons = [], set()
        for message in answers:
            assert message is not None
            answer = getattr(message, str(message.WhichOneof("message")))
            ids.append(answer.request_id)
            if message.HasField("switch_refused"):
                reasons.add(unpacked(answer.status)["ErrorInfo"].reason)
                assert unpacked(answer.status)["RetryInfo"]
        assert ids == [f"n{number}" for number in range(count)]
        assert reasons == {"TOO_MANY_SWITCHES"}
        await stream.close()

    async def test_a_refusal_that_may_pass_is_not_remembered(
        self, stage: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stream = await stage.opened()
        with monkeypatch.context() as patch:
            patch.setattr("cascade_core.engine.session.MAX_PROMPTS", 0)
            await stream.switch("a")
            assert await refusal(stream) == "TOO_MANY_SWITCHES"
        await stream.switch("a")
        await stream.expect("switch_accepted")
        await stream.expect("prompt_applied")
        await stream.close()


class TestRefusals:
    async def refused(self, stage: Running, context: Blocks | None = None, **fields: Any) -> dict[str, Any]:
        stream = stage.generate()
        await stream.open(context, **fields)
        await stream.rest()
        return await stream.details()

    async def test_another_model(self, stage: Running) -> None:
        info = (await self.refused(stage, model="other"))["ErrorInfo"]
        assert info.reason == "UNKNOWN_MODEL"
        assert "tiny" in info.metadata["known"].split(", ")

    async def test_too_many_pixels(self, stage: Running) -> None:
        found = await self.refused(stage, width=4096, height=4096)
        assert found["ErrorInfo"].reason == "UNSUPPORTED_MEDIA"
        assert found["BadRequest"].field_violations[0].field == "open.width"

    @pytest.mark.parametrize(
        "fields", [{"epoch": 0}, {"prompts": {}}, {"width": 17, "height": 32}, {"prompts": {0: " "}}]
    )
    async def test_fields_out_of_range(self, stage: Running, fields: dict[str, Any]) -> None:
        assert (await self.refused(stage, **fields))["ErrorInfo"].reason == "INVALID_FIELD"

    async def test_a_context_that_is_not_what_the_model_needs(self, stage: Running, expected: Blocks) -> None:
        found = await self.refused(stage, start_block=6, num_context_blocks=1)
        assert found["BadRequest"].field_violations[0].field == "open.num_context_blocks"
        context = {index: expected[index] for index in stage.engine.context_blocks(6)}
        last = max(context)
        wrong_order = dict(sorted(context.items(), reverse=True))
        assert (await self.refused(stage, wrong_order, start_block=6))[
            "ErrorInfo"
        ].reason == "PROTOCOL_VIOLATION"
        for wrong in (torch.zeros(1, 16, 4, 5), torch.full((1, 16, 4, 4), float("nan"))):
            found = await self.refused(stage, context | {last: wrong}, start_block=6)
            assert found["ErrorInfo"].reason == "INVALID_FIELD"
            assert found["BadRequest"].field_violations[0].field.startswith("context_block.latents")

    async def test_data_of_another_length(self, stage: Running) -> None:
        stream = stage.generate()
        await stream.open(start_block=1, num_context_blocks=1)
        latents = {"dtype": 1, "shape": [1, 16, 4, 4], "data": b"1234"}
        await stream.send(context_block={"index": 0, "latents": latents})
        assert await stream.reason() == "INVALID_FIELD"

    @pytest.mark.parametrize(
        "first",
        [{"credit": {"end_block": 1}}, {"close": {}}, {"switch_prompt": {"request_id": "a", "text": "b"}}],
    )
    async def test_something_else_first(self, stage: Running, first: dict[str, Any]) -> None:
        stream = stage.generate()
        await stream.send(**first)
        assert await stream.reason() == "PROTOCOL_VIOLATION"

    async def test_the_end_of_the_requests_before_open_or_context(self, stage: Running) -> None:
        stream = stage.generate()
        await stream.call.done_writing()
        assert await stream.reason() == "PROTOCOL_VIOLATION"
        stream = stage.generate()
        await stream.open(start_block=1, num_context_blocks=1)
        await stream.call.done_writing()
        assert await stream.reason() == "PROTOCOL_VIOLATION"

    async def test_open_or_context_in_the_middle(self, stage: Running, expected: Blocks) -> None:
        stream = await stage.opened()
        await stream.open()
        assert await stream.reason() == "PROTOCOL_VIOLATION"
        stream = await stage.opened()
        await stream.send_context({0: expected[0]})
        assert await stream.reason() == "PROTOCOL_VIOLATION"

    async def test_messages_that_do_not_come(self, stage: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(streams, "MESSAGE_DEADLINE_S", 0.3)
        assert await stage.generate().reason() == "FIRST_MESSAGE_LATE"
        stream = stage.generate()
        await stream.open(start_block=2, num_context_blocks=2)
        assert await stream.reason() == "FIRST_MESSAGE_LATE"
        assert streams.MESSAGE_DEADLINE_S == 0.3

    async def test_no_slot(self, stage: Running) -> None:
        streams = [await stage.opened() for _ in range(SLOTS)]
        status = await stage.status()
        assert (status.num_sessions, status.max_sessions) == (SLOTS, SLOTS)
        found = await self.refused(stage)
        assert found["ErrorInfo"].reason == "OUT_OF_CAPACITY"
        assert "RetryInfo" in found
        await streams[0].close()
        await streams.pop(0).rest()
        streams.append(await stage.opened())
        for stream in streams:
            await stream.close()

    async def test_streams_that_still_send_their_context_hold_a_slot(self, stage: Running) -> None:
        streams = [stage.generate() for _ in range(SLOTS)]
        for stream in streams:
            await stream.open(start_block=1, num_context_blocks=1)
        await wait_until(lambda: len(stage.stage.occupancy) == SLOTS, "all are in")
        assert (await self.refused(stage))["ErrorInfo"].reason == "OUT_OF_CAPACITY"
        for stream in streams:
            stream.call.cancel()


class TestEpochs:
    async def test_a_newer_epoch_ends_the_older_stream(self, stage: Running) -> None:
        older = await stage.opened(session="movie", epoch=1)
        newer = await stage.opened(session="movie", epoch=3, credit_end_block=1)
        assert await older.code() is grpc.StatusCode.ABORTED
        found = await older.details()
        assert found["ErrorInfo"].reason == "FENCED"
        assert found["ErrorInfo"].metadata["epoch"] == "3"
        for epoch in (1, 2, 3):
            late = stage.generate()
            await late.open(session="movie", epoch=epoch)
            assert await late.reason() == "FENCED"
            assert (await late.details())["ErrorInfo"].metadata["epoch"] == "3"
        await newer.blocks(1)
        await newer.close()
        late = stage.generate()
        await late.open(session="movie", epoch=3)
        assert await late.reason() == "FENCED", "remembered after its last stream"

    async def test_a_stream_that_nobody_reads_gives_way_and_its_slot(self, stage: Running) -> None:
        others = [await stage.opened() for _ in range(SLOTS - 1)]
        older = await stage.opened(session="unread", credit_end_block=MANY)
        newer = await stage.opened(session="unread", epoch=2, credit_end_block=1)
        await newer.blocks(1)
        assert await older.reason() == "FENCED"
        for stream in (*others, newer):
            await stream.close()


async def refusal(stream: Stream) -> str:
    refused = await stream.expect("switch_refused")
    return str(unpacked(refused.status)["ErrorInfo"].reason)


async def test_a_model_that_was_not_made_for_scene_cuts_says_so(stage: Running) -> None:
    cut = common_pb2.SWITCH_MODE_CUT
    assert not (await stage.status()).model.scene_cuts
    for fields in ({"switch_mode": cut}, {"cuts": [3]}):
        stream = stage.generate()
        await stream.open(**fields)
        assert await stream.reason() == "INVALID_FIELD"
        (violation,) = (await stream.details())["BadRequest"].field_violations
        assert "tiny was not made for scene cuts" in violation.description
    stream = await stage.opened(num_blocks=3)
    await stream.switch("s1", mode=cut)
    assert "tiny was not made for scene cuts" in (await stream.expect("switch_refused")).status.message
    await stream.close()
