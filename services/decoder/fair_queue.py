"""A queue in which everybody has the same share, however much they put in."""

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class FairQueue(Generic[K, T]):
    """Round robin over keys, in order within a key. Unbounded: whoever puts in bounds it."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[K, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def push(self, key: K, item: T) -> None:
        self._waiting.setdefault(key, deque()).append(item)

    def pop(self) -> T:
        """The next key's first item; IndexError if there is none."""
        if not self._waiting:
            raise IndexError("empty")
        key, items = self._waiting.popitem(last=False)
        item = items.popleft()
        if items:
            self._waiting[key] = items
        return item

    def drop(self, key: K) -> None:
        """Forget all that waits for a key."""
        self._waiting.pop(key, None)

    def clear(self) -> None:
        self._waiting.clear()
