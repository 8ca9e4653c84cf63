"""What must be true of a Redis that keeps sessions: checked when a gateway starts, and when Redis is back."""

import logging
from typing import Any

from cascade_core.errors import InvalidConfig
from services.gateway.journal.redis_calls import RedisCalls

_log = logging.getLogger(__name__)


async def may_evict(calls: RedisCalls) -> bool:
    """Whether it drops keys when its memory is full, as far as it says. Raises StoreUnavailable, and
    InvalidConfig where it has only a part of the keys."""
    await _check_whole(calls)
    memory = await _info(calls, "memory")
    policy, limit = memory.get("maxmemory_policy", "noeviction"), memory.get("maxmemory", 0)
    evicts = policy != "noeviction" and int(limit) > 0
    if evicts:
        complaint = "this Redis drops sessions when its memory is full, by maxmemory-policy"
        _log.warning("gateway.redis_url: %s %s; it must be noeviction", complaint, policy)
    return evicts


async def _check_whole(calls: RedisCalls) -> None:
    if not (await _info(calls, "cluster")).get("cluster_enabled"):
        return
    told = (await calls.ask("CLUSTER", "INFO") or b"").decode().splitlines()
    size = dict(line.split(":", 1) for line in told if ":" in line).get("cluster_size", "1")
    if int(size) > 1:
        raise InvalidConfig(
            f"gateway.redis_url: names one of {size} primaries of a Redis Cluster, each with a part of the "
            "keys; sessions need one primary that has them all"
        )


async def _info(calls: RedisCalls, section: str) -> dict[str, Any]:
    """Empty where this user may not ask."""
    found = await calls.ask("INFO", section)
    return found if isinstance(found, dict) else {}
