"""Calls per second of each tenant: token buckets."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from services.common.errors import RateLimited
from services.gateway.base.quotas import Quotas

BURST_S = 10.0
"""A full bucket holds what comes in this time."""
MAX_TENANTS = 10_000
"""Buckets kept; a tenant whose bucket was dropped gets a full one."""


@dataclass
class Bucket:
    tokens: float
    filled_s: float
    """The clock when `tokens` was counted."""


class Rates:
    """Lets each tenant call as often as its quota says."""

    def __init__(
        self, quotas: Quotas, clock: Callable[[], float] = time.monotonic, max_tenants: int = MAX_TENANTS
    ) -> None:
        self._quotas = quotas
        self._clock = clock
        self._max_tenants = max_tenants
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def check(self, tenant: str) -> None:
        """Count one call. Raises RateLimited, and then does not count it."""
        rate = self._quotas.of(tenant).max_calls_per_s
        bucket = self._filled(tenant, rate)
        if bucket.tokens < 1:
            message = f"more than {rate:g} calls per second of this tenant"
            raise RateLimited(message, retry_after_s=(1 - bucket.tokens) / rate)
        bucket.tokens -= 1

    def _filled(self, tenant: str, rate: float) -> Bucket:
        """Its bucket as of now; at least one call fits, however low the rate."""
        now, size = self._clock(), max(1.0, BURST_S * rate)
        bucket = self._buckets.setdefault(tenant, Bucket(size, now))
        self._buckets.move_to_end(tenant)
        if len(self._buckets) > self._max_tenants:
            self._buckets.popitem(last=False)
        bucket.tokens = min(size, bucket.tokens + (now - bucket.filled_s) * rate)
        bucket.filled_s = now
        return bucket
