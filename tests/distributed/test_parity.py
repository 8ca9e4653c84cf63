"""The same video whatever the number of ranks: real processes, real gloo, one machine."""

import asyncio
import multiprocessing
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from cascade_core.attention.exchange import SoloExchange
from cascade_core.config import EngineConfig, SwitchMode, find_card, make
from cascade_core.engine.engine import Engine
from cascade_core.engine.session import Ended, LatentBlock, PromptApplied, Session
from cascade_core.errors import InvalidRequest
from cascade_core.request import SessionRequest
from cascade_core.schedule import context_blocks
from tests.support import STEPS, UNIPC_STEPS, Case, relative_error, run_rank, tiny_card, write_card

Video = dict[int, Tensor]

CARD: dict[str, Any] = {"window_blocks": 3, "sink_blocks": 1, "rope": "absolute", "max_positions": 27}
"""Positions for 9 blocks, so that an endless session has an end."""


def compare(actual: Video, expected: Video, tolerance: float = 1e-4) -> None:
    assert sorted(actual) == sorted(expected)
    for block, latents in expected.items():
        assert relative_error(actual[block], latents) <= tolerance, block


# The ranks' own code in bare processes: every mode, every world size.

SWITCHES = ((3, 1, "immediate"), (11, 2, "recache"), (19, 3, "boundary"))
CASES = (
    [
        Case(stagger, attention, tuple(values.items()), 7, SWITCHES[: 1 if stagger == 5 else 3])
        for stagger, attention, values in (
            (1, "bidirectional", {"window_blocks": 3, "sink_blocks": 1, "rope": "window"}),
            (1, "causal", {"window_blocks": 2, "sink_blocks": 0, "rope": "absolute"}),
            (2, "bidirectional", {"window_blocks": 4, "sink_blocks": 0, "rope": "window"}),
            (
                2,
                "causal",
                {"window_blocks": 3, "sink_blocks": 2, "rope": "window", "context_window_blocks": 1},
            ),
            (5, "bidirectional", {"window_blocks": 3, "sink_blocks": 1, "rope": "absolute"}),
            (1, "bidirectional", {"window_blocks": 1, "sink_blocks": 0, "rope": "window", "steps": (1000,)}),
        )
    ]
    + [
        Case(1, "bidirectional", (("window_blocks", 3), ("sink_blocks", 1), ("rope", "window")), 3, start=10),
        Case(1, "bidirectional", (("window_blocks", 3),), 7, ((6, 1, "immediate"),), set_back=2),
        Case(
            1,
            "bidirectional",
            (("window_blocks", 4), ("sink_blocks", 1), ("rope", "window")),
            7,
            SWITCHES,
            counts_behind=True,
        ),
    ]
    + [
        Case(
            stagger,
            "bidirectional",
            (("window_blocks", 3), ("sink_blocks", 1), ("rope", "window")),
            7,
            SWITCHES[: 1 if stagger == 5 else 3],
            choices=(((0, 1.0),), (), ((0, 0.5), (2, -1.0)), ((1, 1.0), (0, 0.7), (2, 0.3))),
        )
        for stagger in (1, 2, 5)
    ]
)

SHOTS: dict[str, Any] = {"window_blocks": 3, "sink_blocks": 1, "shot_shift_frames": 4}
CUTS: tuple[tuple[int, int, SwitchMode], ...] = ((2, 1, "cut"), (6, 2, "immediate"), (8, 3, "cut"))
CASES += [
    Case(stagger, "bidirectional", tuple({**SHOTS, "rope": rope}.items()), 8, CUTS)
    for stagger, rope in ((1, "absolute"), (1, "window"), (2, "window"), (5, "window"))
]

WAN_2_2: dict[str, Any] = {
    "vae_factor": 16,
    "block_frames": 8,
    "in_channels": 6,
    "window_blocks": 2,
    "sink_blocks": 1,
    "solver": "unipc",
    "steps": UNIPC_STEPS,
}
FRAME_BY_FRAME: dict[str, Any] = {
    "block_frames": 1,
    "window_blocks": 6,
    "steps": (1000,),
    "first_steps": STEPS,
}
CASES += [
    Case(stagger, "bidirectional", tuple(WAN_2_2.items()), 6, SWITCHES[:1], first_frame=True)
    for stagger in (1, 2, 5)
]
CASES += [Case(stagger, "causal", tuple(FRAME_BY_FRAME.items()), 7, SWITCHES[:1]) for stagger in (1, 2, 5)]


@pytest.fixture(scope="module")
def solo() -> list[Video]:
    return [case.run(0, 1, SoloExchange()) for case in CASES]


@pytest.mark.parametrize(
    "num_ranks", [2, 5, *(pytest.param(number, marks=pytest.mark.slow) for number in (3, 4))]
)
def test_every_world_size_gives_the_same_latents(num_ranks: int, solo: list[Video], tmp_path: Path) -> None:
    multiprocessing.set_forkserver_preload(["tests.support"])  # torch is imported once, not by every rank
    mp.start_processes(
        run_rank, (num_ranks, str(tmp_path), CASES), nprocs=num_ranks, start_method="forkserver"
    )
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(num_ranks)]
    for case, expected, *parts in zip(CASES, solo, *ranks, strict=True):
        for rank, part in enumerate(parts):
            assert all(block % num_ranks == rank for block in part), "a block lives on one rank"
        joined = {block: latents for part in parts for block, latents in part.items()}
        assert sorted(joined) == list(range(case.start, case.start + case.num_blocks))
        # One block at a time is the same arithmetic on any rank; joint forwards cut their matrices by rank.
        compare(joined, expected, tolerance=0 if case.stagger == 5 else 1e-4)


# The engine.


async def start(card: Path, num_ranks: int, **values: Any) -> Engine:
    values = {"switch_set_back": 0} | values  # the paper's way, as the receipts say
    values |= {"model": str(card), "weights": "random", "device": "cpu", "threads_per_rank": 1, "seed": 5}
    return await Engine.start(make(EngineConfig, values | {"num_ranks": num_ranks}))


async def watch(session: Session, order: list[int] | None = None) -> tuple[Video, list[PromptApplied], str]:
    """Everything a session gives, to its end; `order` collects session numbers as blocks arrive."""
    video, receipts, reason = {}, [], ""
    async with asyncio.timeout(60):
        async for event in session:
            match event:
                case LatentBlock():
                    video[event.index] = event.latents
                    assert event.timing.latency_s > 0
                    if order is not None:
                        order.append(session.number)
                case PromptApplied():
                    receipts.append(event)
                case Ended():
                    reason = event.reason
    return video, receipts, reason


SWITCHED = SessionRequest({0: "a red circle", 4: "a blue square"}, seed=3, num_blocks=7)


async def generate(engine: Engine, request: SessionRequest) -> Video:
    session = await engine.open(request)
    video, receipts, reason = await watch(session)
    assert reason == "complete"
    shape = session.shape
    # When block 4 starts, block 3 has made `stagger` passes, block 2 twice as many, ...
    touched = min(b for b in range(5) if (4 - b) * shape.stagger < shape.context_pass)
    assert receipts == [PromptApplied("", touched, 4)]
    return video


@pytest.fixture
def card(tmp_path: Path) -> Path:
    return write_card(tmp_path / "tiny.toml", **CARD)


@pytest.mark.parametrize(
    ("stagger", "attention", "world_sizes"),
    [
        (1, "bidirectional", (5,)),
        pytest.param(1, "bidirectional", (2, 3, 4), marks=pytest.mark.slow),
        pytest.param(2, "causal", (3,), marks=pytest.mark.slow),
        pytest.param(5, "bidirectional", (2,), marks=pytest.mark.slow),
    ],
)
async def test_engines_of_every_size_agree(
    card: Path, stagger: int, attention: str, world_sizes: tuple[int, ...]
) -> None:
    videos = {}
    for num_ranks in (1, *world_sizes):
        async with await start(card, num_ranks, stagger=stagger, inflight_attention=attention) as engine:
            videos[num_ranks] = await generate(engine, SWITCHED)
    assert sorted(videos[1]) == list(range(7))
    for num_ranks in world_sizes:
        compare(videos[num_ranks], videos[1])


async def test_sessions_side_by_side_and_after_one_another(card: Path) -> None:
    """On one engine: interleaved sessions equal each alone; one continues from another's latents; one runs
    out of positions."""
    first = SessionRequest({0: "a red circle"}, seed=1, num_blocks=6, credit=0)
    second = SessionRequest({0: "two blue squares"}, seed=2, num_blocks=6, credit=0, width=48, height=32)
    async with await start(card, 2) as engine:
        alone = []
        for request in (first, second):
            session = await engine.open(request)
            session.grant(6)
            alone.append((await watch(session))[0])

        order: list[int] = []
        sessions = [await engine.open(request) for request in (first, second)]
        for session in sessions:
            session.grant(6)
        together = await asyncio.gather(*(watch(session, order) for session in sessions))
        for (video, _, reason), expected in zip(together, alone, strict=True):
            assert reason == "complete"
            compare(video, expected, tolerance=0)
        assert sum(now != then for now, then in pairwise(order)) > 3, "they took turns"
        assert relative_error(alone[0][0], alone[0][1]) > 0.1

        context = {block: alone[0][block] for block in context_blocks(engine.shape.window, 6)}
        request = SessionRequest({0: "a red circle"}, seed=1, start_block=6, context=context)
        video, _, reason = await watch(await engine.open(request))
        assert sorted(video) == [6, 7, 8]
        assert all(latents.isfinite().all() for latents in video.values())
        assert reason == "positions_exhausted"
        assert engine.status.num_sessions == 0


SCHEDULES: list[dict[str, Any]] = [
    {"stagger": 1, "inflight_attention": "bidirectional"},
    {"stagger": 1, "inflight_attention": "causal"},
    {"stagger": 2, "inflight_attention": "bidirectional"},
    {"stagger": 5, "inflight_attention": "bidirectional"},
]


@pytest.mark.parametrize("num_ranks", [1, 2])
async def test_each_session_has_its_own_stagger_and_attention(card: Path, num_ranks: int) -> None:
    """Side by side on one engine, each makes what it makes alone."""
    async with await start(card, num_ranks, stagger=2) as engine:
        requests = [replace(SWITCHED, credit=0, **schedule) for schedule in SCHEDULES]
        alone = [await generate(engine, replace(SWITCHED, **schedule)) for schedule in SCHEDULES]
        sessions = [await engine.open(request) for request in requests]
        order: list[int] = []
        for session in sessions:
            session.grant(7)
        together = await asyncio.gather(*(watch(session, order) for session in sessions))
        assert sum(now != then for now, then in pairwise(order)) > 6, "they took turns"
        for (video, _, reason), expected in zip(together, alone, strict=True):
            assert reason == "complete"
            compare(video, expected, tolerance=0)
        compare(await generate(engine, SWITCHED), alone[2], tolerance=0)  # which is the engine's own
    for one, other in combinations(alone, 2):
        assert relative_error(one[5], other[5]) > 1e-3, "all differ"


async def test_only_what_the_engine_allows_is_opened(card: Path) -> None:
    allowed = {"allowed_staggers": (4, 2), "allowed_inflight_attentions": ("bidirectional",)}
    async with await start(card, 1, stagger=2, **allowed) as engine:
        for asked, message in (
            ({"stagger": 1}, r"^stagger: 1 is not one of 2, 4$"),
            ({"stagger": -1}, r"^stagger: -1 is not one of 2, 4$"),
            ({"inflight_attention": "causal"}, r"^inflight_attention: causal is not one of bidirectional$"),
            ({"inflight_attention": "both"}, r"^inflight_attention: "),
            ({"stagger": "2"}, r"^stagger: "),
        ):
            with pytest.raises(InvalidRequest, match=message):
                await engine.open(replace(SWITCHED, **asked))
        await generate(engine, replace(SWITCHED, stagger=4, inflight_attention="bidirectional"))


async def test_a_session_begins_with_the_frame_that_it_is_given(tmp_path: Path) -> None:
    """And can be opened again in the middle, from its latents alone."""
    card = write_card(tmp_path / "tiny.toml", **WAN_2_2, image_start="first_frame")
    frame = torch.randn(1, 6, 4, 2, generator=torch.Generator().manual_seed(1))
    request = SessionRequest({0: "a red circle"}, num_blocks=4, width=32, height=64, first_frame=frame)
    async with await start(card, 2) as engine:
        video, _, reason = await watch(await engine.open(request))
        assert reason == "complete"
        assert torch.equal(video[0][:1], frame)
        other, _, _ = await watch(await engine.open(replace(request, first_frame=2 * frame)))
        assert relative_error(other[0][1:], video[0][1:]) > 1e-4, "the rest of the block follows it"
        again = replace(request, start_block=1, num_blocks=1, context={0: video[0]})
        for changes, message in (
            ({"first_frame": frame[:, :5]}, r"first_frame: it has shape \(1, 5, 4, 2\), not \(1, 6, 4, 2\)"),
            ({"first_frame": frame / 0}, "first_frame: it has values that are not finite"),
            (vars(again), "first_frame: only with start_block 0, not 1"),
        ):
            with pytest.raises(InvalidRequest, match=f"^{message}"):
                await engine.open(replace(request, **changes))
        later, _, _ = await watch(await engine.open(replace(again, first_frame=None)))
        assert later[1].isfinite().all()


def test_the_cards_are_what_they_say(card: Path) -> None:
    """The file that the engines read is the card that the bare ranks use."""
    assert find_card(str(card)) == tiny_card(**CARD)
