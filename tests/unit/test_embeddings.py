"""The embedding cache: order, limits, equal prompts, and what it does when the encoder fails."""

import asyncio

import numpy as np
import pytest

from cascade_core.engine.embeddings import MAX_WAITING, EmbeddingCache
from cascade_core.errors import InvalidPrompt, OutOfCapacity
from cascade_core.ranks.messages import Embedding


class SlowEncoder:
    """Notes what it is asked, and answers when it is allowed to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.at_once = 0
        self.go = asyncio.Event()

    async def __call__(self, prompt: str) -> Embedding:
        self.asked.append(prompt)
        self.at_once += 1
        assert self.at_once == 1, "one prompt at a time"
        await self.go.wait()
        self.at_once -= 1
        if prompt == "bad":
            raise InvalidPrompt("bad")
        return Embedding(np.full((1, 2), len(prompt), dtype=np.float32), (prompt,))


async def test_equal_prompts_are_embedded_once() -> None:
    encoder = SlowEncoder()
    cache = EmbeddingCache(encoder, num_entries=4)
    waiting = asyncio.gather(*(cache.get(prompt) for prompt in ("a", "bb", "a", "bb", "a")))
    await asyncio.sleep(0)
    encoder.go.set()
    assert [embedding.rows[0, 0] for embedding in await waiting] == [1, 2, 1, 2, 1]
    assert encoder.asked == ["a", "bb"]


async def test_the_least_recently_used_goes_first() -> None:
    encoder = SlowEncoder()
    encoder.go.set()
    cache = EmbeddingCache(encoder, num_entries=2)
    for prompt in ("a", "b", "a", "c", "a", "b"):
        await cache.get(prompt)
    assert encoder.asked == ["a", "b", "c", "b"]


async def test_a_refused_prompt_leaves_the_cache_usable() -> None:
    encoder = SlowEncoder()
    encoder.go.set()
    cache = EmbeddingCache(encoder, num_entries=2)
    for _ in range(2):
        with pytest.raises(InvalidPrompt):
            await cache.get("bad")
    assert (await cache.get("good")).unknown_words == ("good",)
    assert encoder.asked == ["bad", "bad", "good"]


async def test_the_queue_is_bounded_and_known_prompts_pass_it() -> None:
    encoder = SlowEncoder()
    cache = EmbeddingCache(encoder, num_entries=4 * MAX_WAITING)
    encoder.go.set()
    await cache.get("known")
    encoder.go.clear()
    waiting = [asyncio.ensure_future(cache.get(f"prompt {number}")) for number in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(OutOfCapacity):
        await cache.get("one too many")
    assert (await cache.get("known")).rows[0, 0] == 5
    encoder.go.set()
    await asyncio.gather(*waiting)
    assert (await cache.get("one too many")).rows.shape == (1, 2)


async def test_giving_up_frees_the_place() -> None:
    encoder = SlowEncoder()
    cache = EmbeddingCache(encoder, num_entries=4)
    first = asyncio.ensure_future(cache.get("a"))
    second = asyncio.ensure_future(cache.get("b"))
    await asyncio.sleep(0)
    second.cancel()
    encoder.go.set()
    await first
    assert encoder.asked == ["a"]
