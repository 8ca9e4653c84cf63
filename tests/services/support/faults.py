"""What is done to the processes under a running session, and what its client must see of it."""

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cascade_client import Client
from tests.services.support.playing import Played, Player, playing
from tests.services.support.system import Program, System

PROMPT = "a red circle moves left on a white background"
SEED = 7
NUM_BLOCKS = 11
FAULT_SEQUENCE = 5
"""The fault comes right after this segment."""
Fault = Callable[[System, Player], Awaitable[Program | None]]
"""Returns what was asked to leave, which has to do so in order."""


@dataclass(frozen=True)
class Case:
    """One fault."""

    name: str
    fault: Fault
    cause: str | None
    """Of RecoveryDone; None: clients hear of nothing."""
    recovery_class: str = "REBUILT"
    moves_client: bool = False
    """The client attaches anew: it hears of a recovery only if it is back before that is over."""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Outcome:
    """What a case came to. Seconds."""

    played: Played
    cause: str | None
    """As the gateway says."""
    gap_s: float | None
    """As the gateway says: from the last segment before the loss to the first after it."""
    first_block: int | None
    """The first that was made after it."""


async def run(case: Case, system: System) -> Outcome:
    """One session, played at its own speed, with the fault in its middle."""
    async with Client(system.target) as client:
        session = await client.create(PROMPT, seed=SEED, num_blocks=NUM_BLOCKS)
        async with playing(client, session) as player:
            await player.reached(FAULT_SEQUENCE)
            leaving = await case.fault(system, player)
    assert leaving is None or leaving.wait_ended() == 0, "it did not leave in order"
    return outcome(system, player.played)


def outcome(system: System, played: Played) -> Outcome:
    """With what the gateways logged: a client that attaches after a recovery does not hear of it."""
    found = [
        line
        for gateway in system.gateways
        for line in gateway.logged("recovered")
        if line["session"] == played.session
    ]
    if not found:
        return Outcome(played, None, None, None)
    assert len(found) == 1, "one fault is one recovery"
    cause = found[0]["cause"].removeprefix("RECOVERY_CAUSE_")
    return Outcome(played, cause, found[0]["gap_ms"] / 1000, found[0]["block"])


async def do_nothing(system: System, player: Player) -> None:
    """The same session, undisturbed."""


async def kill_rank(system: System, player: Player) -> None:
    os.kill(system.busy_stage().workers()[-1].pid, signal.SIGKILL)


async def kill_stage(system: System, player: Player) -> None:
    system.busy_stage().kill()


async def kill_decoder(system: System, player: Player) -> None:
    system.busy_decoder().kill()


async def kill_stage_and_decoder(system: System, player: Player) -> None:
    both = system.busy_stage(), system.busy_decoder()
    for program in both:
        program.send(signal.SIGKILL)
    for program in both:
        program.wait_ended()


async def kill_gateway(system: System, player: Player) -> None:
    system.gateways[0].kill()


async def restart_redis(system: System, player: Player) -> None:
    """Down for the time of two segments."""
    num_segments = len(player.played.segments)
    system.redis.kill()
    await player.reached(num_segments + 2)
    system.redis.start()


async def restart_redis_empty(system: System, player: Player) -> None:
    """As `restart_redis`, but all that it had is gone."""
    num_segments = len(player.played.segments)
    system.redis.kill()
    shutil.rmtree(system.redis.folder / "appendonlydir")
    await player.reached(num_segments + 2)
    system.redis.start()


async def lose_redis_and_gateway(system: System, player: Player) -> None:
    """The gateway dies as soon as it has stored again what Redis had lost."""
    owner, event = system.gateways[0], "journal: Redis is back"
    num_times = len(owner.logged(event))
    await restart_redis_empty(system, player)
    await asyncio.to_thread(system.wait, event, lambda: len(owner.logged(event)) > num_times)
    await player.reached(len(player.played.segments) + 1)
    owner.kill()


async def drain_stage(system: System, player: Player) -> Program:
    program = system.busy_stage()
    program.send(signal.SIGTERM)
    return program


async def drain_decoder(system: System, player: Player) -> Program:
    program = system.busy_decoder()
    program.send(signal.SIGTERM)
    return program


async def drain_gateway(system: System, player: Player) -> Program:
    program = system.gateways[0]
    program.send(signal.SIGTERM)
    return program


async def freeze_stage(system: System, player: Player) -> None:
    system.busy_stage().freeze()


UNDISTURBED = Case("none", do_nothing, None)
CASES = (
    Case("kill -9 of a rank", kill_rank, "STAGE_LOST"),
    Case("kill -9 of the stage", kill_stage, "STAGE_LOST"),
    Case("kill -9 of the decoder", kill_decoder, "DECODER_LOST", "UNAFFECTED"),
    Case("kill -9 of stage and decoder", kill_stage_and_decoder, "STAGE_AND_DECODER_LOST"),
    Case("kill -9 of the gateway", kill_gateway, "GATEWAY_LOST", moves_client=True),
    Case("Redis restarts with its data", restart_redis, None),
    Case("Redis restarts without its data", restart_redis_empty, None),
    Case(
        "Redis loses its data, then kill -9 of the gateway",
        lose_redis_and_gateway,
        "GATEWAY_LOST",
        moves_client=True,
    ),
    Case("SIGTERM of the stage", drain_stage, "MIGRATION"),
    Case("SIGTERM of the decoder", drain_decoder, "MIGRATION", "UNAFFECTED"),
    Case("SIGTERM of the gateway", drain_gateway, "MIGRATION", moves_client=True),
    Case("SIGSTOP of the stage", freeze_stage, "STAGE_LOST"),
)
