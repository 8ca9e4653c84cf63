"""Waits after failures in a row."""

from services.common.backoff import Backoff


async def test_waits_double_up_to_the_longest_and_half_is_chance() -> None:
    asked, slept = list[tuple[float, float]](), list[float]()

    def jitter(low: float, high: float) -> float:
        asked.append((low, high))
        return high

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    backoff = Backoff(0.5, 3.0, jitter=jitter, sleep=sleep)
    await backoff.wait(spares_first=True)
    assert slept == []
    for _ in range(4):
        await backoff.wait(spares_first=True)
    assert slept == [1.0, 2.0, 3.0, 3.0], "the one that was spared counts"
    assert asked[0] == (0.5, 1.0)
    backoff.reset()
    await backoff.wait(0.25)
    await backoff.wait(60.0)
    assert slept[4:] == [0.75, 4.0], "of what a server asks for, no more than the longest"
