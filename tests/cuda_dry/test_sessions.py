"""Sessions at the real models' sizes: no tick waits for the device, memory stays within what is promised.

Devices that differ, types that do not fit and operators that CUDA lacks fail in every one of them.
"""

import pytest

from cascade_core.config import SwitchMode
from tests.cuda_dry.support import CARDS, rank, shallow

RING_TURNS = 3
cards = pytest.mark.parametrize("name", CARDS)


def three_turns(name: str) -> int:
    window = shallow(name).window
    return window.sink_blocks + RING_TURNS * max(1, window.window_blocks - 1)


def test_a_cascade_on_one_rank_over_three_turns_of_the_ring() -> None:
    with rank(shallow("longlive-1.3b")) as one:
        one.run(three_turns("longlive-1.3b"))
        one.check()


@cards
def test_one_rank_of_five_over_three_turns_of_the_ring(name: str) -> None:
    with rank(shallow(name), num_ranks=5) as one:
        one.run(three_turns(name))
        one.check()
        assert one.counts[-1].collectives


def test_a_rank_that_has_nothing_to_do_yet() -> None:
    """It takes part in the gathers all the same."""
    with rank(shallow("longlive-1.3b"), num_ranks=5, number=4) as one:
        one.run(7)
        one.check()
        assert one.counts[2].collectives
        assert not one.counts[2].matmul_flop


@pytest.mark.parametrize("stagger", [2, 3, 4])
def test_other_staggers_and_causal_attention(stagger: int) -> None:
    with rank(shallow("longlive-1.3b"), num_ranks=2, stagger=stagger, attention="causal") as one:
        one.run(4)
        one.check()


@cards
def test_a_session_that_begins_in_the_middle(name: str) -> None:
    """All its context is encoded in its first tick."""
    with rank(shallow(name)) as one:
        one.run(2, start=three_turns(name))
        one.check()


def test_a_session_that_begins_with_a_picture() -> None:
    """Its frame has a timestep of its own, beside blocks that need none."""
    with rank(shallow("longlive-2.0-5b"), num_ranks=2) as one:
        one.run(2, has_first_frame=True)
        one.check()


@pytest.mark.parametrize("mode", ["immediate", "boundary", "recache"])
@pytest.mark.parametrize(("name", "num_ranks"), [("longlive-1.3b", 1), ("self-forcing-1.3b", 5)])
def test_switches(name: str, mode: SwitchMode, num_ranks: int) -> None:
    with rank(shallow(name), num_ranks=num_ranks) as one:
        one.run(5, {3: (1, mode), 6: (2, mode)})
        one.check()


@pytest.mark.parametrize("num_ranks", [1, 5])
def test_scene_cuts(num_ranks: int) -> None:
    """A shot's first block is seen when the window has left it, and by a recache; then another begins."""
    with rank(shallow("longlive-2.0-5b"), num_ranks=num_ranks) as one:
        one.run(10, {2: (1, "cut"), 8: (1, "recache"), 12: (2, "cut")})
        one.check()


@pytest.mark.parametrize("name", ["causal-forcing-frame-1step", "longlive-2.0-5b-2step"])
def test_fewer_steps_than_the_first_block_has(name: str) -> None:
    """And blocks of one frame."""
    with rank(shallow(name), num_ranks=2) as one:
        one.run(5)
        one.check()


def test_a_switch_that_sets_blocks_back() -> None:
    with rank(shallow("self-forcing-1.3b"), set_back=2) as one:
        one.run(4, {4: (1, "immediate")})
        one.check()


@pytest.mark.parametrize(("name", "num_ranks"), [("self-forcing-1.3b", 5), ("krea-14b", 1)])
def test_products_in_fp8(name: str, num_ranks: int) -> None:
    with rank(shallow(name), num_ranks=num_ranks, quantize="fp8") as one:
        one.run(3)
        one.check()
        assert "_scaled_mm" in one.operators
