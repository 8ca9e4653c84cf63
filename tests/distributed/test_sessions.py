"""Sessions on real ranks: credit, pausing, switching, sharing, bad requests, continuing, ending."""

import asyncio
import math
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import pytest_asyncio
import torch

from cascade_core.engine import capacity as capacity_module
from cascade_core.engine import engine as engine_module
from cascade_core.engine.engine import Engine
from cascade_core.engine.session import MAX_UNREAD_EVENTS, Ended, Event, LatentBlock, PromptApplied, Session
from cascade_core.errors import InvalidPrompt, InvalidRequest, OutOfCapacity, SessionClosed
from cascade_core.model.mixing import between
from cascade_core.prompts import Transition, WeightedPrompt
from cascade_core.ranks.messages import AddPrompt, Command, Embedding, Open
from cascade_core.request import MAX_PROMPTS, SessionRequest
from tests.engine_support import (
    NUM_PASSES,
    PROMPT,
    WAIT_S,
    assert_same,
    collect,
    generate,
    latents_of,
    read_blocks,
    running_engine,
    stop,
    wait_until,
    write_card,
)
from tests.support import relative_error

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.filterwarnings("error")]

NUM_BLOCKS = 12
REQUEST = SessionRequest({0: PROMPT}, seed=7, num_blocks=NUM_BLOCKS)
ENDLESS = replace(REQUEST, num_blocks=None)
LATENT_SHAPE = (1, 16, 4, 4)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(card: Path) -> AsyncIterator[Engine]:
    """A full cascade on two ranks; every test leaves it whole and empty."""
    async with running_engine(card, num_ranks=2, text_cache_entries=4) as engine:
        yield engine
        assert engine.status.num_restarts == 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sequential(card: Path) -> AsyncIterator[Engine]:
    """One block after the other, on one rank."""
    async with running_engine(card, stagger=NUM_PASSES) as engine:
        yield engine


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def left_empty(engine: Engine) -> AsyncIterator[None]:
    yield
    left = list(engine._sessions.values())
    for session in left:
        await session.close()
    assert not left
    assert engine.status.ready


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def expected(engine: Engine) -> dict[int, torch.Tensor]:
    return await generate(engine, NUM_BLOCKS)


@pytest.fixture
def sent(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    """What the ranks are told."""
    commands: list[Command] = []
    send, send_to = engine._ranks.group.send, engine._ranks.group.send_to

    def spy(command: Command) -> None:
        commands.append(command)
        send(command)

    def spy_one(rank: int, command: Command) -> None:
        commands.append(command)
        send_to(rank, command)

    monkeypatch.setattr(engine._ranks.group, "send", spy)
    monkeypatch.setattr(engine._ranks.group, "send_to", spy_one)
    return commands


async def next_event(session: Session) -> Event:
    async with asyncio.timeout(WAIT_S):
        return await anext(session)


async def assert_silent(engine: Engine, session: Session) -> None:
    """No more events, though the engine had time to make many."""
    await generate(engine, 2 * NUM_BLOCKS, seed=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(session)


class TestCredit:
    async def test_exactly_as_many_blocks(self, engine: Engine, expected: dict[int, torch.Tensor]) -> None:
        session = await engine.open(replace(REQUEST, credit=2))
        latents = await read_blocks(session, 2)
        await assert_silent(engine, session)
        session.grant(3)
        latents |= await read_blocks(session, 3)
        await assert_silent(engine, session)
        session.grant(1000)
        latents |= latents_of(await collect(session))
        assert_same(latents, expected)

    async def test_timing_of_credit_changes_nothing(
        self, engine: Engine, expected: dict[int, torch.Tensor]
    ) -> None:
        session = await engine.open(replace(REQUEST, credit=0))
        latents: dict[int, torch.Tensor] = {}
        for block in range(NUM_BLOCKS):
            session.grant(1)
            latents |= await read_blocks(session, 1)
            if block % 3 == 0:
                await generate(engine, 2, seed=block)
        assert await next_event(session) == Ended("complete")
        assert_same(latents, expected)

    async def test_none_at_all(self, engine: Engine) -> None:
        session = await engine.open(replace(REQUEST, credit=0))
        await assert_silent(engine, session)
        await session.close()

    async def test_grant_of_nothing(self, engine: Engine) -> None:
        session = await engine.open(replace(ENDLESS, credit=0))
        with pytest.raises(InvalidRequest, match="credit: 0"):
            session.grant(0)
        await session.close()
        with pytest.raises(SessionClosed):
            session.grant(1)


class TestPause:
    async def test_freezes_and_goes_on(self, engine: Engine, expected: dict[int, torch.Tensor]) -> None:
        session = await engine.open(REQUEST)
        latents = await read_blocks(session, 3)
        session.pause()
        session.pause()
        await generate(engine, 1, seed=1)  # what was already sent to the ranks arrives before this
        while not session._events.empty():
            latents |= await read_blocks(session, 1)
        assert len(latents) < NUM_BLOCKS
        await assert_silent(engine, session)
        session.resume()
        latents |= latents_of(await collect(session))
        assert_same(latents, expected)

    async def test_paused_session_can_be_closed(self, engine: Engine) -> None:
        session = await engine.open(ENDLESS)
        session.pause()
        await session.close()
        assert (await collect(session))[-1] == Ended("closed")


class TestReading:
    async def test_slow_reader_stops_its_own_session_only(
        self, engine: Engine, expected: dict[int, torch.Tensor]
    ) -> None:
        """Nobody reads: the events stop at their bound, the others go on, and no block is lost."""
        session = await engine.open(ENDLESS)
        await wait_until(lambda: not session.can_tick, "the bound is reached")
        assert_same(await generate(engine, NUM_BLOCKS), expected)
        unread = session._events.qsize()
        assert MAX_UNREAD_EVENTS <= unread <= MAX_UNREAD_EVENTS + engine_module.TICKS_AHEAD
        blocks = await read_blocks(session, unread + 5)
        assert list(blocks) == list(range(unread + 5))
        await session.close()

    async def test_reader_that_gives_up_waiting(self, engine: Engine) -> None:
        session = await engine.open(replace(REQUEST, credit=0))
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(session)
        session.grant(1)
        assert list(await read_blocks(session, 1)) == [0]
        await session.close()

    async def test_reading_again_after_the_end(self, engine: Engine) -> None:
        session = await engine.open(replace(REQUEST, num_blocks=2))
        events = await collect(session)
        assert [type(event) for event in events] == [LatentBlock, LatentBlock, Ended]
        for _ in range(2):
            assert await collect(session) == []

    async def test_two_readers_both_see_the_end(self, engine: Engine) -> None:
        session = await engine.open(replace(REQUEST, num_blocks=4))
        first, second = await asyncio.gather(collect(session), collect(session))
        assert sorted(latents_of(first + second)) == [0, 1, 2, 3]
        assert Ended("complete") in first + second

    async def test_close_in_the_middle(self, engine: Engine) -> None:
        """What was ready stays readable; the end comes after it."""
        session = await engine.open(ENDLESS)
        await wait_until(lambda: session._events.qsize() >= 3, "unread blocks")
        await session.close()
        await session.close()
        events = await collect(session)
        assert len(latents_of(events)) >= 3
        assert events[-1] == Ended("closed")

    async def test_timings(self, engine: Engine) -> None:
        session = await engine.open(REQUEST)
        blocks = [event for event in await collect(session) if isinstance(event, LatentBlock)]
        assert len(blocks) == NUM_BLOCKS
        assert all(0 < block.timing.tick_s < block.timing.latency_s for block in blocks)
        finished = [block.timing.finished_s for block in blocks]
        assert finished == sorted(finished)
        assert engine.status.last_tick_s > 0
        assert blocks[0].latents.shape == LATENT_SHAPE
        assert blocks[0].latents.dtype == torch.float32

    async def test_nothing_piles_up_in_a_long_session(self, engine: Engine) -> None:
        session = await engine.open(replace(REQUEST, num_blocks=None, credit=0))
        for number in range(40):
            await session.switch(f"prompt {number % 3}", mode="recache")
            session.grant(1)
            await read_blocks(session, 1)
        assert len(session.started) <= NUM_PASSES
        assert len(session.course._legs) + len(session.switches) <= NUM_PASSES
        assert all(len(sent) <= NUM_PASSES for sent in session._sent)
        await session.close()


class TestSharing:
    async def test_every_session_moves(self, engine: Engine) -> None:
        greedy = await engine.open(ENDLESS)
        reader = asyncio.create_task(collect(greedy))
        try:
            modest = [await engine.open(replace(ENDLESS, seed=seed, credit=1)) for seed in range(3)]
            for _ in range(6):
                for session in modest:
                    await read_blocks(session, 1)
                    session.grant(1)
            for session in modest:
                await session.close()
        finally:
            await greedy.close()
            events = await reader
        assert len(latents_of(events)) >= 6

    async def test_what_is_needed_sooner_is_made_sooner(self, engine: Engine) -> None:
        first, second = [await engine.open(replace(ENDLESS, seed=seed, credit=0)) for seed in range(2)]
        first.grant(12, needed_in_s=60.0)
        second.grant(12, needed_in_s=3.0)
        await read_blocks(second, 12)
        assert first._events.qsize() <= 1, "what it had begun"
        first.grant(12)  # without a word the engine reckons again, and the second has had its share
        second.grant(12, needed_in_s=60.0)
        await read_blocks(first, 24)
        assert second._events.qsize() <= 1
        for session in (first, second):
            await session.close()

    async def test_nobody_gets_more_than_playback_takes_by_a_lie(self, engine: Engine) -> None:
        liar = await engine.open(replace(ENDLESS, credit=1000))
        reader = asyncio.create_task(collect(liar))
        try:
            modest = await engine.open(replace(ENDLESS, seed=1, credit=0))
            for _ in range(6):
                liar.grant(1, needed_in_s=0.0)
                modest.grant(1)
                await read_blocks(modest, 1)
            assert liar.credit is not None
            assert liar.credit > 900
            await modest.close()
        finally:
            await liar.close()
            await reader

    @pytest.mark.parametrize("needed_in_s", [-1.0, math.nan, math.inf])
    async def test_when_it_is_needed_is_a_time_to_come(self, engine: Engine, needed_in_s: float) -> None:
        session = await engine.open(replace(ENDLESS, credit=0))
        with pytest.raises(InvalidRequest, match=r"^needed_in_s: .* is not 0 or more"):
            session.grant(1, needed_in_s)
        assert session.credit == 0
        await session.close()

    async def test_new_session_has_its_first_block_soon(self, engine: Engine) -> None:
        """The one that is far ahead of its viewer waits."""
        greedy = await engine.open(ENDLESS)
        await read_blocks(greedy, 20)
        newcomer = await engine.open(replace(ENDLESS, seed=1))
        before = greedy._events.qsize()
        await read_blocks(newcomer, 1)
        overtaken = greedy._events.qsize() - before
        await greedy.close()
        await newcomer.close()
        assert overtaken <= engine_module.TICKS_AHEAD

    async def test_sessions_do_not_mix(self, engine: Engine) -> None:
        alone = [await generate(engine, NUM_BLOCKS, seed=seed) for seed in (1, 2)]
        together = await asyncio.gather(*(generate(engine, NUM_BLOCKS, seed=seed) for seed in (1, 2)))
        for same, expected in zip(together, alone, strict=True):
            assert_same(same, expected)
        assert not torch.equal(alone[0][0], alone[1][0])


class TestPlaybackSpeed:
    async def test_each_session_has_its_own(self, engine: Engine) -> None:
        """In blocks of 4 frames and a first one of 1: blocks of a slow viewer are due later."""
        slow, usual, fast = [await engine.open(replace(ENDLESS, credit=2, fps=fps)) for fps in (2, 0, 200)]
        assert usual.request.fps == engine.card.video.fps
        started_s = [session.deadline_s for session in (slow, usual, fast)]
        for session in (slow, usual, fast):
            await read_blocks(session, 2)
        ends_s = [session.deadline_s for session in (slow, usual, fast)]
        leads = [end - start for start, end in zip(started_s, ends_s, strict=True)]
        frames = sum(engine.card.num_frames(block) for block in range(2))
        for lead, fps in zip(leads, (2, engine.card.video.fps, 200), strict=True):
            assert lead >= frames / fps - 1e-6
        assert leads[0] > leads[2] + 1
        for session in (slow, usual, fast):
            await session.close()

    @pytest.mark.parametrize("fps", [-1.0, 241.0, math.nan, math.inf])
    async def test_out_of_range(self, engine: Engine, fps: float) -> None:
        with pytest.raises(InvalidRequest, match=r"^fps: .* is not in 0\.\.240"):
            await engine.open(replace(REQUEST, fps=fps))


class TestRoom:
    async def test_slots_beside_what_others_hold(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For a caller that counts sessions before they are opened."""
        default = replace(REQUEST, width=32, height=32)
        monkeypatch.setattr(engine, "config", replace(engine.config, max_sessions=3, max_pixels=2048))
        assert [engine.num_slots([default] * count) for count in (0, 2)] == [3, 3]
        assert engine.max_pixels == 2048
        engine.check_room(default, [default] * 2)
        with pytest.raises(OutOfCapacity):
            engine.check_room(default, [default] * 3)
        with pytest.raises(InvalidRequest, match="max_pixels"):
            engine.check_room(replace(default, width=128), [])

    async def test_max_sessions(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine, "config", replace(engine.config, max_sessions=2))
        assert engine.status.max_sessions == 2
        opened = await asyncio.gather(*(engine.open(ENDLESS) for _ in range(4)), return_exceptions=True)
        sessions = [session for session in opened if isinstance(session, Session)]
        refused = [error for error in opened if isinstance(error, OutOfCapacity)]
        assert (len(sessions), len(refused)) == (2, 2)
        assert "max_sessions: 2" in str(refused[0])
        assert refused[0].retryable
        await sessions[0].close()
        again = await engine.open(ENDLESS)
        for session in (again, sessions[1]):
            await session.close()

    async def test_memory(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        """Never enough: change the request. Not enough now: come back later."""
        large = replace(ENDLESS, width=256, height=256)
        needed = engine.card.session_bytes(256, 256, bytes_per_value=4)
        free = min(rank.free_bytes for rank in engine._ranks.group.ready)
        monkeypatch.setattr(capacity_module, "MEMORY_SHARE", 1.5 * needed / free)
        figures = r"256x256: it needs \d+ MiB on each rank, \d+ MiB are free"
        session = await engine.open(replace(large, credit=0))
        with pytest.raises(OutOfCapacity, match=figures):
            await engine.open(large)
        monkeypatch.setattr(capacity_module, "MEMORY_SHARE", 0.5 * needed / free)
        with pytest.raises(InvalidRequest, match=figures):
            await engine.open(large)
        await session.close()

    async def test_rank_without_memory(self, engine: Engine, expected: dict[int, torch.Tensor]) -> None:
        """What the sums did not foresee: the other sessions go on."""
        rank = psutil.Process(engine.status.process_ids[1])
        session = await engine.open(replace(REQUEST, credit=3))
        latents = await read_blocks(session, 3)
        before = rank.rlimit(psutil.RLIMIT_AS)
        rank.rlimit(psutil.RLIMIT_AS, (rank.memory_info().vms + 2**26, before[1]))
        try:
            with pytest.raises(OutOfCapacity, match="out of memory"):
                await engine.open(replace(REQUEST, width=4096, height=4096))
        finally:
            rank.rlimit(psutil.RLIMIT_AS, before)
        session.grant(NUM_BLOCKS)
        latents |= latents_of(await collect(session))
        assert_same(latents, expected)


def context(
    blocks: range, shape: tuple[int, ...] = LATENT_SHAPE, fill: float = 0.0
) -> dict[int, torch.Tensor]:
    return {block: torch.full(shape, fill) for block in blocks}


class TestBadRequests:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"width": 40}, "width: 40 is not a multiple of 16"),
            ({"first_frame": torch.zeros(1, 16, 4, 4)}, "first_frame: tiny was not made for it"),
            ({"height": -16}, "height: -16 is not a multiple of 16"),
            ({"width": 8192}, r"width: 8192 .*16\.\.4096"),
            ({"seed": -1}, "seed: -1"),
            ({"seed": 2**63}, r"seed: .*0\.\.2\^63-1"),
            ({"num_blocks": 0}, "num_blocks: 0"),
            ({"credit": -1}, "credit: -1"),
            ({"start_block": -1}, "start_block: -1"),
            ({"start_block": 2}, r"context: blocks \[\] given, \[0, 1\] needed"),
            ({"start_block": 9, "context": context(range(4, 9))}, r"\[5, 6, 7, 8\] needed"),
            ({"context": context(range(1))}, r"context: blocks \[0\] given, \[\] needed"),
            ({"start_block": 1, "context": context(range(1), (1, 16, 4, 5))}, r"context: block 0 has shape"),
            (
                {"start_block": 1, "context": context(range(1), fill=math.nan)},
                "context: block 0 .*finite",
            ),
            (
                {"start_block": 1, "context": context(range(1), fill=math.inf)},
                "context: block 0 .*finite",
            ),
            ({"prompts": {}}, "prompts: none at or before start_block 0"),
            ({"prompts": {3: PROMPT}}, "prompts: none at or before start_block 0"),
        ],
    )
    async def test_session(self, engine: Engine, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidRequest, match=message):
            await engine.open(replace(REQUEST, **changes))

    @pytest.mark.parametrize(
        ("prompts", "message"),
        [
            ({0: " \n "}, "empty"),
            ({0: "word " * 9}, "9 words; the model takes at most 8"),
            ({0: PROMPT, 5: ""}, "empty"),
        ],
    )
    async def test_prompt(self, engine: Engine, prompts: dict[int, str], message: str) -> None:
        with pytest.raises(InvalidPrompt, match=message):
            await engine.open(replace(REQUEST, prompts=prompts))

    async def test_engine_is_unharmed(self, engine: Engine, expected: dict[int, torch.Tensor]) -> None:
        assert_same(await generate(engine, NUM_BLOCKS), expected)


async def events_with_switch(engine: Engine, **switch: Any) -> list[Event]:
    """A session that is switched after exactly two blocks, at a tick that does not depend on timing."""
    session = await engine.open(replace(REQUEST, credit=2))
    blocks = [await next_event(session), await next_event(session)]
    await session.switch("a blue square", **switch)
    session.grant(NUM_BLOCKS)
    return blocks + await collect(session)


class TestSwitch:
    # Emitting block 1 was the fourth pass of five of that block, so 2, 3 and 4 are in flight behind it;
    # set back by two passes, 3 and 4 begin anew.
    @pytest.mark.parametrize(
        ("mode", "touched", "full"), [("immediate", 2, 3), ("boundary", 5, 5), ("recache", 5, 5)]
    )
    async def test_modes(
        self, engine: Engine, expected: dict[int, torch.Tensor], mode: str, touched: int, full: int
    ) -> None:
        events = await events_with_switch(engine, mode=mode, request_id="r1")
        assert events[2] == PromptApplied("r1", touched, full)
        assert events[-1] == Ended("complete")
        latents = latents_of(events)
        assert list(latents) == list(range(NUM_BLOCKS))
        # Blocks whose last denoising pass saw neither the new prompt nor a block made under it are the same.
        assert_same({0: latents[0], 1: latents[1]}, {0: expected[0], 1: expected[1]})
        assert not torch.equal(latents[full], expected[full])
        again = latents_of(await events_with_switch(engine, mode=mode))
        assert_same(again, latents)

    @pytest.mark.parametrize("mode", ["immediate", "boundary", "recache"])
    async def test_equals_the_same_switch_in_the_timeline(self, engine: Engine, mode: str) -> None:
        switched = latents_of(await events_with_switch(engine, mode=mode, at_block=7))
        given = await generate(engine, NUM_BLOCKS, prompts={0: PROMPT, 7: "a blue square"}, switch_mode=mode)
        assert_same(switched, given)

    async def test_future_block(self, engine: Engine) -> None:
        """The receipt comes when the block starts, which is before its predecessors are clean."""
        events = await events_with_switch(engine, mode="boundary", request_id="later", at_block=9)
        receipts = [event for event in events if isinstance(event, PromptApplied)]
        assert receipts == [PromptApplied("later", 9, 9)]
        assert set(latents_of(events[: events.index(receipts[0])])) < set(range(9))

    async def test_past_block(self, engine: Engine) -> None:
        session = await engine.open(replace(REQUEST, credit=2))
        await read_blocks(session, 2)
        for block in (-1, 0, 4):
            with pytest.raises(InvalidRequest, match=f"at_block: {block} has started; next is 5"):
                await session.switch("a blue square", at_block=block)
        await session.switch("a blue square", at_block=5)
        await session.close()

    async def test_bad_prompt(self, engine: Engine) -> None:
        session = await engine.open(replace(REQUEST, credit=1))
        for prompt in ("", "word " * 9):
            with pytest.raises(InvalidPrompt):
                await session.switch(prompt)
        assert list(await read_blocks(session, 1)) == [0]
        await session.close()

    async def test_after_the_end(self, engine: Engine) -> None:
        session = await engine.open(ENDLESS)
        under_way = asyncio.create_task(session.switch("this prompt is new"))
        await asyncio.sleep(0)
        await session.close()
        for switch in (under_way, session.switch(PROMPT)):
            with pytest.raises(SessionClosed):
                await switch

    async def test_many_at_once_keep_their_order(self, engine: Engine) -> None:
        """As many as may wait are accepted, the others refused, and none overtakes another."""
        session = await engine.open(replace(REQUEST, credit=0))
        answers = await asyncio.gather(
            *(session.switch(f"prompt {number % 7}", request_id=str(number)) for number in range(100)),
            return_exceptions=True,
        )
        refused = [number for number, answer in enumerate(answers) if isinstance(answer, OutOfCapacity)]
        accepted = [number for number, answer in enumerate(answers) if answer is None]
        assert MAX_UNREAD_EVENTS <= len(accepted) <= 2 * MAX_UNREAD_EVENTS
        assert accepted + refused == list(range(100))
        receipts = [await next_event(session) for _ in accepted]
        assert receipts == [PromptApplied(str(number), 0, 0) for number in accepted]
        await session.close()

    async def test_many_that_wait_for_their_block(self, engine: Engine) -> None:
        session = await engine.open(replace(REQUEST, num_blocks=None, credit=0))
        blocks = [2 * MAX_PROMPTS - number for number in range(MAX_PROMPTS)]
        for block in blocks:
            await session.switch(PROMPT, at_block=block)
        with pytest.raises(OutOfCapacity, match="switch"):
            await session.switch(PROMPT, at_block=3 * MAX_PROMPTS)
        assert [pending.block for pending in session.switches] == sorted(blocks)
        await session.close()

    async def test_known_prompt_is_not_embedded_again(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        embedded: list[str] = []
        encode = engine._ranks.group.encode

        async def spy(prompt: str) -> Any:
            embedded.append(prompt)
            return await encode(prompt)

        monkeypatch.setattr(engine._ranks.group, "encode", spy)
        session = await engine.open(replace(REQUEST, prompts={0: "one"}, credit=0))
        for prompt in ("two", "one", "two", "three", "four", "one", "five", "two"):
            await session.switch(prompt)
        await session.close()
        assert embedded == ["one", "two", "three", "four", "five", "two"]  # the fifth pushed out the oldest

    async def test_ranks_get_only_prompts_that_a_tick_needs(
        self, engine: Engine, sent: list[Command]
    ) -> None:
        """A text cache takes 90 MB per prompt in a 1.3B model: nobody fills the ranks by switching."""
        session = await engine.open(replace(REQUEST, credit=2))
        latents = await read_blocks(session, 2)
        for number in range(100):
            await session.switch(f"prompt {number % 5}", mode="immediate" if number % 2 else "boundary")
            await next_event(session)
        await session.switch(PROMPT)
        assert isinstance(await next_event(session), PromptApplied)
        assert not [command for command in sent if isinstance(command, AddPrompt)]
        session.grant(NUM_BLOCKS)
        latents |= latents_of(await collect(session))
        added = [command for command in sent if isinstance(command, AddPrompt)]
        assert len(added) == 2  # on each of the two ranks, the last
        assert len({command.prompt for command in added}) == 1
        once = await engine.open(replace(REQUEST, credit=2))
        expected = await read_blocks(once, 2)
        await once.switch(PROMPT)
        once.grant(NUM_BLOCKS)
        assert_same(latents, expected | latents_of(await collect(once)))


class TestContinuing:
    @pytest.mark.parametrize("start", [1, 3, 4])
    async def test_from_context(self, sequential: Engine, start: int) -> None:
        """Opened at block n with the clean latents, while everything still lies in the window."""
        prompts = {0: PROMPT, 2: "a blue square"}
        whole = await generate(sequential, 8, prompts=prompts, switch_mode="boundary")
        given = {block: whole[block] for block in sequential.context_blocks(start)}
        continued = await generate(
            sequential, 8 - start, prompts=prompts, switch_mode="boundary", start_block=start, context=given
        )
        assert list(continued) == list(range(start, 8))
        for block, latents in continued.items():
            torch.testing.assert_close(latents, whole[block], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("credit", [0, 2, None])
    async def test_opened_means_primed_and_priming_needs_no_credit(
        self, sequential: Engine, credit: int | None
    ) -> None:
        """Beside a session that wants every tick."""
        greedy = await sequential.open(replace(ENDLESS, seed=1))
        whole = await generate(sequential, 4)
        given = {block: whole[block] for block in sequential.context_blocks(2)}
        request = replace(REQUEST, num_blocks=2, start_block=2, context=given, credit=credit)
        async with asyncio.timeout(WAIT_S):
            session = await sequential.open(request)
        assert not session.timeline.to_prime
        await greedy.close()
        if credit == 0:
            assert session.credit == 0, "priming spends none"
            await assert_silent(sequential, session)
            session.grant(2)
        latents = latents_of(await collect(session))
        assert list(latents) == [2, 3]
        for block, tensor in latents.items():
            torch.testing.assert_close(tensor, whole[block], rtol=1e-4, atol=1e-4)

    async def test_who_gives_up_while_priming_leaves_nothing(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        request = replace(REQUEST, start_block=8, context=context(range(4, 8)), credit=0)
        rank, open_on_ranks = engine.status.process_ids[0], engine._ranks.group.open

        async def open_and_stop(command: Open) -> None:
            await open_on_ranks(command)
            await stop(rank)

        monkeypatch.setattr(engine._ranks.group, "open", open_and_stop)
        try:
            opening = asyncio.create_task(engine.open(request))
            await wait_until(lambda: engine.has_work, "it is being primed")
            assert not opening.done()
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            assert engine.status.num_sessions == 0
        finally:
            os.kill(rank, signal.SIGCONT)
        monkeypatch.undo()
        await wait_until(lambda: not engine.has_work, "the tick is answered")
        assert len(await generate(engine, 2)) == 2

    async def test_long_timeline_costs_only_what_is_needed(
        self, sequential: Engine, engine: Engine, sent: list[Command]
    ) -> None:
        """A session recovered after many switches: only prompts of context blocks and later count."""
        prompts = {block: f"prompt {block}" for block in range(0, 100, 2)}
        session = await engine.open(
            SessionRequest(
                prompts, num_blocks=2, start_block=41, context=context(range(37, 41)), switch_mode="boundary"
            )
        )
        events = await collect(session)
        assert list(latents_of(events)) == [41, 42]
        opening = next(command for command in sent if isinstance(command, Open))
        assert len(opening.prompts) == 3  # of blocks 36, 38 and 40


OLD, NEW = "a red circle", "a blue square moves up"
"""Of unequal lengths."""
GRADUAL = {3: Transition(2), 5: Transition(1, "slerp")}


async def check_transitions(engine: Engine, monkeypatch: pytest.MonkeyPatch, **asked: Any) -> None:
    """A transition is the same as each block with a prompt of its own whose embedding is the mix, from the
    start and from the middle of it."""
    encode = engine._ranks.group.encode
    old, new = [(await encode(text)).rows for text in (OLD, NEW)]
    missing = np.zeros((len(new) - len(old), old.shape[1]), np.float32)
    long = np.concatenate([old, missing])
    second = (long + 2 * new) / 3
    mixes = {"1/3": (2 * long + new) / 3, "2/3": second, "back": between(second, old, 1 / 2, "slerp")}

    async def encoded(prompt: str) -> Embedding:
        return Embedding(mixes[prompt]) if prompt in mixes else await encode(prompt)

    monkeypatch.setattr(engine._ranks.group, "encode", encoded)
    asked |= {"switch_mode": "boundary"}
    gradual = {"prompts": {0: OLD, 3: NEW, 5: OLD}, "transitions": GRADUAL, **asked}
    by_block = {"prompts": {0: OLD, 3: "1/3", 4: "2/3", 5: "back", 6: OLD}, **asked}
    video = await generate(engine, 8, **gradual)
    expected = await generate(engine, 8, **by_block)
    for block in range(8):
        assert relative_error(video[block], expected[block]) < 1e-4, block
    for start in (4, 6):
        given = {block: video[block] for block in engine.context_blocks(start)}
        opening = {"start_block": start, "context": given}
        again = await generate(engine, 8 - start, **gradual, **opening)
        expected = await generate(engine, 8 - start, **by_block, **opening)
        for block in range(start, 8):
            assert relative_error(again[block], expected[block]) < 1e-4, (start, block)
            if asked["stagger"] == NUM_PASSES and start == 4:  # all of it lies in the window
                assert relative_error(again[block], video[block]) < 1e-4, block


class TestTransitions:
    @pytest.mark.parametrize("stagger", [1, 2, NUM_PASSES])
    async def test_on_two_ranks(self, engine: Engine, monkeypatch: pytest.MonkeyPatch, stagger: int) -> None:
        await check_transitions(engine, monkeypatch, stagger=stagger)

    @pytest.mark.parametrize("stagger", [1, NUM_PASSES])
    async def test_on_one(self, sequential: Engine, monkeypatch: pytest.MonkeyPatch, stagger: int) -> None:
        await check_transitions(sequential, monkeypatch, stagger=stagger)

    @pytest.mark.slow
    async def test_on_five(self, card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async with running_engine(card, num_ranks=5) as five:
            for stagger in (1, 2, NUM_PASSES):
                await check_transitions(five, monkeypatch, stagger=stagger)
                monkeypatch.undo()

    async def test_ranks_get_the_prompts_of_their_own_blocks(
        self, engine: Engine, sent: list[Command]
    ) -> None:
        """One text cache a block, on the rank where it lives."""
        session = await engine.open(replace(REQUEST, num_blocks=8, credit=0))
        await session.switch(NEW, "boundary", "over", 2, transition=Transition(4))
        session.grant(8)
        events = await collect(session)
        receipt = next(event for event in events if isinstance(event, PromptApplied))
        assert receipt == PromptApplied("over", 2, 6, last_block_mixed=5)
        added = [command.prompt for command in sent if isinstance(command, AddPrompt)]
        assert sorted(added) == [1, 2, 3, 4, 5, 5]  # the last one rules blocks 6 and 7

    async def test_a_mix_is_the_mean_of_its_embeddings(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encode = engine._ranks.group.encode
        rows = [(await encode(text)).rows for text in (OLD, NEW)]
        mean = 0.25 * np.pad(rows[0], ((0, len(rows[1]) - len(rows[0])), (0, 0))) + 0.75 * rows[1]

        async def encoded(prompt: str) -> Embedding:
            return Embedding(mean.astype(np.float32)) if prompt == "mean" else await encode(prompt)

        monkeypatch.setattr(engine._ranks.group, "encode", encoded)
        parts = (WeightedPrompt(OLD, 1.0), WeightedPrompt(NEW, 3.0))
        mixed = await generate(engine, 3, prompts={0: parts})
        expected = await generate(engine, 3, prompts={0: "mean"})
        for block in range(3):
            assert relative_error(mixed[block], expected[block]) < 1e-4

    async def test_bad_ones_are_refused_and_nothing_is_lost(self, engine: Engine) -> None:
        session = await engine.open(replace(ENDLESS, credit=0))
        for length in (0, 65):
            with pytest.raises(InvalidRequest, match=rf"transition.num_blocks: {length} is not in 1\.\.64"):
                await session.switch(NEW, transition=Transition(length))
        with pytest.raises(InvalidRequest, match="interpolation"):
            await session.switch(NEW, transition=Transition(2, "cubic"))  # type: ignore[arg-type]
        with pytest.raises(InvalidPrompt, match=r"prompt has a weight of -2\.0"):
            await session.switch((WeightedPrompt(OLD, -2.0),))
        with pytest.raises(InvalidRequest, match="transitions: block 4 has no entry in prompts"):
            await engine.open(replace(REQUEST, transitions={4: Transition(2)}))
        session.grant(1)
        await read_blocks(session, 1)
        await session.close()


class TestPositions:
    async def test_absolute_positions_run_out(self, tmp_path: Path) -> None:
        card = write_card(tmp_path, rope="absolute", max_positions=6)
        async with running_engine(card) as engine:
            events = await collect(await engine.open(ENDLESS))
            assert list(latents_of(events)) == list(range(6))
            assert events[-1] == Ended("positions_exhausted")
            exact = await collect(await engine.open(replace(REQUEST, num_blocks=6)))
            assert exact[-1] == Ended("complete")
            with pytest.raises(InvalidRequest, match=r"start_block: 6 is not in 0\.\.5 \(rope = absolute\)"):
                await engine.open(replace(ENDLESS, start_block=6, context=context(range(2, 6))))
