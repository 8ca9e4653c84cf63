"""Whether a session fits: the limits, and which error says so."""

from dataclasses import replace

import pytest

from cascade_core.config import EngineConfig, make
from cascade_core.engine.capacity import MEMORY_SHARE, check_room, num_slots
from cascade_core.errors import InvalidRequest, OutOfCapacity
from cascade_core.ranks.messages import Ready, StartTimes
from cascade_core.request import SessionRequest
from tests.support import tiny_card

CARD = tiny_card(window_blocks=3)
CONFIG = make(EngineConfig, {"model": "demo"})
SIZE = CARD.session_bytes(CARD.video.height, CARD.video.width, 4)
REQUEST = SessionRequest({0: "x"}, width=CARD.video.width, height=CARD.video.height)


def ranks(*free: float) -> list[Ready]:
    times = StartTimes(1.0, 1.0, 1.0)
    return [Ready("cpu", int(bytes_ / MEMORY_SHARE) + 1, 4, False, times) for bytes_ in free]


def test_the_rank_with_the_least_memory_counts() -> None:
    assert num_slots([], CONFIG, CARD, ranks(9 * SIZE, 3 * SIZE, 5 * SIZE)) == 3
    assert num_slots([], replace(CONFIG, max_sessions=2), CARD, ranks(9 * SIZE)) == 2
    check_room(REQUEST, [REQUEST] * 2, CONFIG, CARD, ranks(3 * SIZE))
    with pytest.raises(OutOfCapacity, match="not enough memory for a session of"):
        check_room(REQUEST, [REQUEST] * 3, CONFIG, CARD, ranks(3 * SIZE))


def test_slots_count_what_is_open_and_what_it_leaves() -> None:
    large = replace(REQUEST, width=2 * CARD.video.width)
    taken = CARD.session_bytes(large.height, large.width, 4)
    room = ranks(4 * SIZE + taken)
    assert num_slots([REQUEST] * 2, CONFIG, CARD, ranks(5 * SIZE)) == 5
    assert num_slots([large], CONFIG, CARD, room) == 5
    assert num_slots([large], replace(CONFIG, max_sessions=3), CARD, room) == 3
    assert num_slots([REQUEST] * 2, CONFIG, CARD, ranks(SIZE)) == 2, "more than fits: the open ones"


def test_what_never_fits_is_the_callers_to_change() -> None:
    with pytest.raises(InvalidRequest, match=r"it needs \d+ MiB on each rank, \d+ MiB are free"):
        check_room(REQUEST, [], CONFIG, CARD, ranks(SIZE / 2))


def test_too_many_pixels_are_refused_whatever_the_memory() -> None:
    wide = replace(REQUEST, width=8 * CARD.video.width)
    with pytest.raises(InvalidRequest, match="max_pixels"):
        check_room(wide, [], CONFIG, CARD, ranks(1e15))
    check_room(wide, [], replace(CONFIG, max_pixels=wide.width * wide.height), CARD, ranks(1e15))


def test_the_limit_of_sessions() -> None:
    with pytest.raises(OutOfCapacity, match="max_sessions: 1 sessions are open"):
        check_room(REQUEST, [REQUEST], replace(CONFIG, max_sessions=1), CARD, ranks(1e15))
