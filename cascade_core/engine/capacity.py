"""Whether another session fits: pixels, count and memory. Pure functions."""

from collections.abc import Sequence

from cascade_core.config import EngineConfig, ModelCard
from cascade_core.errors import InvalidRequest, OutOfCapacity
from cascade_core.planning.memory import MEMORY_SHARE
from cascade_core.ranks.messages import Ready
from cascade_core.request import SessionRequest

MIB = 2**20


def check_room(
    request: SessionRequest,
    open_requests: Sequence[SessionRequest],
    config: EngineConfig,
    card: ModelCard,
    ranks: Sequence[Ready],
) -> None:
    """Raise where another session does not fit now (OutOfCapacity) or ever (InvalidRequest)."""
    size = f"{request.width}x{request.height}"
    most = max_pixels(config, card)
    if request.width * request.height > most:
        raise InvalidRequest(f"width, height: {size} has more than max_pixels = {most} pixels")
    if config.max_sessions is not None and len(open_requests) >= config.max_sessions:
        raise OutOfCapacity(f"max_sessions: {config.max_sessions} sessions are open already")
    needed, budget = session_bytes(request, card, ranks), budget_bytes(ranks)
    taken = sum(session_bytes(other, card, ranks) for other in open_requests)
    if taken + needed > budget:
        message = (
            f"not enough memory for a session of {size}: it needs {needed / MIB:.0f} MiB on each rank, "
            f"{max(0, budget - taken) / MIB:.0f} MiB are free"
        )
        raise (OutOfCapacity if needed <= budget else InvalidRequest)(message)


def num_slots(
    open_requests: Sequence[SessionRequest], config: EngineConfig, card: ModelCard, ranks: Sequence[Ready]
) -> int:
    """Sessions that fit, if all that are not open yet have the card's size."""
    size = card.session_bytes(card.video.height, card.video.width, ranks[0].bytes_per_value)
    taken = sum(session_bytes(request, card, ranks) for request in open_requests)
    fits = len(open_requests) + max(0, int((budget_bytes(ranks) - taken) // size))
    return min(fits, config.max_sessions or fits)


def max_pixels(config: EngineConfig, card: ModelCard) -> int:
    """Largest width x height of a session."""
    return config.max_pixels or 4 * card.video.width * card.video.height


def session_bytes(request: SessionRequest, card: ModelCard, ranks: Sequence[Ready]) -> int:
    """Memory of a session on each rank."""
    return card.session_bytes(request.height, request.width, ranks[0].bytes_per_value)


def budget_bytes(ranks: Sequence[Ready]) -> float:
    """Memory for sessions on the rank that has the least."""
    return MEMORY_SHARE * min(rank.free_bytes for rank in ranks)
