"""The prompts' embeddings that the engine keeps, so that going back to a prompt costs nothing."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from cascade_core.errors import OutOfCapacity
from cascade_core.model.mixing import mix
from cascade_core.prompts import Prompt, parts
from cascade_core.ranks.messages import Embedding

MAX_WAITING = 64
"""Prompts that may wait for the text encoder."""


class EmbeddingCache:
    """The most recently used embeddings, in front of a text encoder that takes one prompt at a time."""

    def __init__(self, encode: Callable[[str], Awaitable[Embedding]], num_entries: int) -> None:
        self._encode = encode
        self._num_entries = num_entries
        self._kept: OrderedDict[str, Embedding] = OrderedDict()
        # One at a time, as the ranks do: a deadline then spans no queue, and equal prompts are embedded once.
        self._lock = asyncio.Lock()
        self._num_waiting = 0

    async def of(self, prompt: Prompt) -> Embedding:
        """Of a text or a mix. Raises what the encoder raises, or OutOfCapacity."""
        mixed = parts(prompt)
        embeddings = [await self.get(part.text) for part in mixed]
        words = (word for embedding in embeddings for word in embedding.unknown_words)
        rows = mix([embedding.rows for embedding in embeddings], [part.weight for part in mixed])
        return Embedding(rows, tuple(dict.fromkeys(words)))

    async def get(self, prompt: str) -> Embedding:
        """Raises what the encoder raises, or OutOfCapacity."""
        if prompt not in self._kept:
            await self._fetch(prompt)
        self._kept.move_to_end(prompt)
        embedding = self._kept[prompt]
        while len(self._kept) > self._num_entries:
            self._kept.popitem(last=False)
        return embedding

    async def _fetch(self, prompt: str) -> None:
        if self._num_waiting >= MAX_WAITING:
            raise OutOfCapacity(f"{MAX_WAITING} prompts wait to be embedded; retry soon")
        self._num_waiting += 1
        try:
            async with self._lock:
                if prompt not in self._kept:
                    self._kept[prompt] = await self._encode(prompt)
        finally:
            self._num_waiting -= 1
