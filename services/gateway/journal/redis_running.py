"""`PREFIX:running`: which sessions run, at whichever gateway."""

from collections.abc import Collection
from typing import Any

from services.gateway.journal import running
from services.gateway.journal.redis_heads import RedisHeads
from services.gateway.journal.running import KEPT_S, RunningSession


class RedisRunning(RedisHeads):
    """A hash by session; entries that nobody has renewed for too long are dropped."""

    async def share_running(
        self, mine: Collection[RunningSession], over: Collection[str]
    ) -> list[RunningSession]:
        key, now_ms = f"{self._prefix}:running", await self.now_ms()
        until_ms = now_ms + int(KEPT_S * 1000)
        told = [part for one in mine for part in (one.session, running.encode(one, until_ms))]
        commands: list[tuple[Any, ...]] = [("HSET", key, *told)] if told else []
        commands += [("HDEL", key, *over)] if over else []
        *_, found = await self._pipeline(
            *commands, ("PEXPIRE", key, int(2 * KEPT_S * 1000)), ("HGETALL", key), is_atomic=True
        )
        known = [running.decode(name.decode(), value, now_ms) for name, value in found.items()]
        told_of = [one for one in known if one]
        if old := [one.session for one in told_of if one.silent_s >= KEPT_S]:
            await self._pipeline(("HDEL", key, *old))
        return [one for one in told_of if one.silent_s < KEPT_S]
