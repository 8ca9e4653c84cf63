"""What blocks tell of their ticks, on real ranks: every pass once, where and when the schedule says."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from cascade_core.engine.engine import Engine
from cascade_core.engine.session import MAX_TICKS, LatentBlock, TickTiming
from cascade_core.request import SessionRequest
from tests.engine_support import NUM_PASSES, PROMPT, collect, generate, running_engine

pytestmark = pytest.mark.filterwarnings("error")
NUM_BLOCKS = 7
CONTEXT_PASS = NUM_PASSES - 1
REQUEST = SessionRequest({0: PROMPT}, num_blocks=NUM_BLOCKS)


async def blocks_of(engine: Engine, request: SessionRequest) -> list[LatentBlock]:
    events = await collect(await engine.open(request))
    return [event for event in events if isinstance(event, LatentBlock)]


def ticks_of(blocks: Sequence[LatentBlock]) -> list[TickTiming]:
    return [tick for block in blocks for tick in block.timing.ticks]


@pytest.mark.parametrize(
    ("num_ranks", "stagger"),
    [
        pytest.param(1, 1, marks=pytest.mark.slow),
        (3, 2),
        pytest.param(2, NUM_PASSES, marks=pytest.mark.slow),
    ],
)
async def test_every_pass_is_told_once(card: Path, num_ranks: int, stagger: int) -> None:
    async with running_engine(card, num_ranks=num_ranks, stagger=stagger) as engine:
        blocks = await blocks_of(engine, REQUEST)
    ticks = ticks_of(blocks)
    assert [tick.index for tick in ticks] == list(range(len(ticks)))
    told = defaultdict(list)
    for tick in ticks:
        works = tick.passes
        assert [work.block for work, _ in works] == sorted({work.block for work, _ in works})
        for work, rank in works:
            assert rank == work.block % num_ranks
            told[work.block].append((tick.index, work.pass_index))
    last = len(ticks) - 1
    for block in range(NUM_BLOCKS):
        first = block * stagger
        whole = [(first + number, number) for number in range(NUM_PASSES)]
        assert told[block] == [item for item in whole if item[0] <= last]
    assert last == (NUM_BLOCKS - 1) * stagger + CONTEXT_PASS - 1, "the last block is clean, and all is told"
    for made in blocks:
        assert (made.index, CONTEXT_PASS - 1) in [
            (work.block, work.pass_index) for work, _ in made.timing.ticks[-1].passes
        ]
        assert made.timing.tick_s == made.timing.ticks[-1].compute_s > 0


async def test_a_session_that_goes_on_begins_with_the_tick_that_primes_it(card: Path) -> None:
    async with running_engine(card, num_ranks=2) as engine:
        made = await generate(engine, 6)
        context = {block: made[block] for block in engine.context_blocks(6)}
        request = SessionRequest({0: PROMPT}, start_block=6, num_blocks=2, context=context)
        ticks = ticks_of(await blocks_of(engine, request))
    assert ticks[0].index == 0
    primed = [(work.block, work.pass_index, rank) for work, rank in ticks[0].passes]
    assert primed == [(block, CONTEXT_PASS, block % 2) for block in sorted(context)]
    assert [(work.block, work.pass_index) for work, _ in ticks[1].passes] == [(6, 0)]


@pytest.fixture
def long_card(card: Path, tmp_path: Path) -> Path:
    """With sixteen steps."""
    steps = [1000 - 50 * number for number in range(16)]
    path = tmp_path / "long.toml"
    path.write_text(card.read_text().replace("[1000, 750, 500, 250]", str(steps)))
    return path


async def test_only_the_newest_ticks_are_kept(long_card: Path) -> None:
    """One block after the other: block 0 takes 16 ticks, the next one 17."""
    async with running_engine(long_card, stagger=17) as engine:
        first, second = await blocks_of(engine, SessionRequest({0: PROMPT}, num_blocks=2))
    assert [tick.index for tick in first.timing.ticks] == list(range(16))
    assert [tick.index for tick in second.timing.ticks] == list(range(17, 33))
    assert len(second.timing.ticks) == MAX_TICKS
