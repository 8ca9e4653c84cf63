"""A planned end: it begins once and only comes nearer."""

import asyncio

import pytest

from cascade.v1 import decoder_pb2, stage_pb2
from services.common.drain import Drain
from services.common.errors import Draining, RequestIdReused

WAIT_S = 20.0


def request(request_id: str, seconds: int, reason: str = "") -> stage_pb2.StageServiceDrainRequest:
    request = stage_pb2.StageServiceDrainRequest(request_id=request_id, reason=reason)
    request.timeout.FromSeconds(seconds)
    return request


async def test_it_only_comes_nearer() -> None:
    drain = Drain()
    assert drain.status(1) is None
    drain.require_idle()
    drain.answer(request("a", 100, "first"), 300)
    drain.answer(request("b", 200, "later"), 300)
    assert 99 < drain.time_left_s <= 100
    drain.answer(request("c", 0, "now"), 300)
    with pytest.raises(Draining):
        await asyncio.wait_for(drain.watch(), WAIT_S)
    drain.answer(request("a", 100, "first"), 300)
    status = drain.status(0)
    assert status
    assert (status.time_left.ToNanoseconds(), status.safe_to_delete, status.reason) == (0, True, "now")
    with pytest.raises(Draining):
        drain.require_idle()


async def test_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.drain.MAX_REQUESTS", 2)
    drain = Drain()
    for request_id in "abc":
        drain.answer(request(request_id, 100), 300)
    with pytest.raises(RequestIdReused):
        drain.answer(request("c", 99), 300)
    drain.answer(request("a", 99), 300)  # forgotten
    assert drain.time_left_s <= 99


@pytest.mark.parametrize("kind", [stage_pb2.StageServiceDrainRequest, decoder_pb2.DecoderServiceDrainRequest])
async def test_callbacks_are_called_once_and_repeats_do_nothing(kind: type) -> None:
    told: list[float] = []
    expired = asyncio.Event()
    drain = Drain(lambda: told.append(drain.time_left_s), expired.set)

    def ask(request_id: str, seconds: int, reason: str) -> None:
        drain.answer(kind(request_id=request_id, timeout={"seconds": seconds}, reason=reason), 300)

    assert not drain.begun.is_set()
    ask("a", 60, "upgrade")
    ask("b", 3600, "later")
    assert drain.reason == "upgrade"
    assert 59 < drain.time_left_s <= 60
    ask("a", 60, "upgrade")
    with pytest.raises(RequestIdReused):
        ask("a", 1, "upgrade")
    assert not expired.is_set()
    ask("c", 0, "")
    await asyncio.wait_for(expired.wait(), WAIT_S)
    assert len(told) == 1
    assert 59 < told[0] <= 60
    assert drain.time_left_s == 0
    assert drain.reason == "upgrade", "the nearer one gave none"


async def test_one_that_is_closed_does_not_expire() -> None:
    expired = asyncio.Event()
    drain = Drain(on_over=expired.set)
    drain.begin(0.01, "")
    drain.close()
    await asyncio.sleep(0.05)
    assert not expired.is_set()
