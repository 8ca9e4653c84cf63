"""Random histories against a simple model: never over capacity, no place lost, nobody waits beside a free
place, the fullest first, and order kept."""

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.v1 import common_pb2
from cascade_core.config import make
from services.gateway.base.settings import GatewaySettings
from services.gateway.placement.admission import Admission
from services.gateway.placement.claims import Claim
from services.gateway.placement.ledger import Place
from services.gateway.placement.needs import Needs
from tests.services.support.fake_peers import DRAINING, READY, FakePool, decoder_status, stage_status

NVENC = common_pb2.VIDEO_ENCODER_NVENC
STATES = [READY, READY, DRAINING, common_pb2.SERVING_STATE_UNHEALTHY]
OPS = [
    *["enqueue"] * 8,
    *("recover", "recover", "cancel", "cancel", "open", "release", "release", "leave"),
    *("blame", "offer", "withdraw", "report", "report", "others", "state", "resize", "lose", "wait"),
]
Op = tuple[str, int, int, bool]


@dataclass
class Machine:
    """What is really there."""

    pool: FakePool
    address: str
    is_stage: bool
    specials: dict[str, Any]
    max_sessions: int = 1
    num_others: int = 0
    state: int = READY
    instance: int = 1
    num_reported: int = 0

    def report(self, num_open: int) -> None:
        """`num_open`: our sessions there."""
        make_status = stage_status if self.is_stage else decoder_status
        self.num_reported = self.num_others + num_open
        fields = {"max_sessions": self.max_sessions, "num_sessions": self.num_reported, "state": self.state}
        self.pool.report(self.address, make_status(instance=str(self.instance), **fields, **self.specials))


@dataclass(eq=False)
class Waiting:
    """A claim that somebody waits for."""

    kinds: tuple[bool, ...]
    needs: Needs
    avoid: frozenset[str]
    order: int
    task: "asyncio.Future[Any]"
    claim: Claim | None

    def cancel(self) -> None:
        """At any moment, before the task has begun to wait too."""
        self.task.cancel()
        if self.claim:
            self.claim.cancel()

    @property
    def rank(self) -> tuple[Any, ...]:
        return len(self.kinds) == 2, self.needs.rank, self.order


@dataclass
class Model:
    now: float = 0.0
    waiting: list[Waiting] = field(default_factory=list)
    held: list[Place[Any]] = field(default_factory=list)
    fresh: list[Place[Any]] = field(default_factory=list)
    served: list[Waiting] = field(default_factory=list)
    orders: Any = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.stages, self.decoders = FakePool(), FakePool()
        limits = make(GatewaySettings, {"queue_length": 1000, "open_timeout_s": 1e6})
        self.admission = Admission(limits, self.stages, self.decoders, lambda: self.now)
        self.machines = [
            Machine(self.stages, "s1", True, {}),
            Machine(self.stages, "s2", True, {}),
            Machine(self.stages, "s3", True, {"model": "big"}),
            Machine(self.decoders, "d1", False, {"models": ("demo", "big")}),
            Machine(self.decoders, "d2", False, {"models": ("demo",), "encoders": [NVENC]}),
        ]
        for machine in self.machines:
            machine.report(0)

    def machine(self, place: Place[Any]) -> Machine:
        return next(machine for machine in self.machines if machine.address == place.peer.address)

    def there(self, machine: Machine) -> list[Place[Any]]:
        """Our places on the process that runs there now."""
        return [
            place
            for place in self.held
            if self.machine(place) is machine and place.instance_id == str(machine.instance)
        ]

    def report(self, machine: Machine) -> None:
        machine.report(sum(place.is_open for place in self.there(machine)))

    def ledger(self, machine: Machine) -> Any:
        return self.admission._stages if machine.is_stage else self.admission._decoders

    def num_free(self, machine: Machine, *, num_fresh: int = 0) -> int:
        """`num_fresh`: places as before so many were granted."""
        peer = machine.pool.peers.get(machine.address)
        if peer is None or peer.is_gone or machine.state != READY:
            return 0
        if self.ledger(machine)._account(peer).back_s is not None:
            return 0
        held = len(self.there(machine)) - num_fresh + machine.num_others
        return machine.max_sessions - max(machine.num_reported, held)

    def fits(self, machine: Machine, waiting: Waiting) -> bool:
        if machine.address in waiting.avoid:
            return False
        if machine.is_stage:
            return machine.specials.get("model", "demo") == waiting.needs.model
        return waiting.needs.model in machine.specials["models"] and (
            not waiting.needs.encoders or "encoders" in machine.specials
        )

    def run(self, name: str, a: int, b: int) -> None:
        """One thing happens."""
        machine = self.machines[a % len(self.machines)]
        place = self.held[b % len(self.held)] if self.held else None
        if name in ("enqueue", "recover"):
            self.ask(name, a, b)
        elif name == "cancel" and self.waiting:
            self.waiting[a % len(self.waiting)].task.cancel()
        elif name in ("release", "leave") and place and (name == "release" or place.revoked.is_set()):
            self.give_back(place)
        elif name == "open" and place:
            place.praise()
        elif name == "blame" and place:
            place.blame()
            self.give_back(place)
        elif name == "offer" and place:
            place.offer()
        elif name == "withdraw" and place:
            assert place.withdraw() != place.revoked.is_set()
        elif name == "wait":
            self.now += (0.3, 1, 5, 11)[a % 4]
            self.admission._move()
        else:
            self.change(name, machine, b)

    def ask(self, name: str, a: int, b: int) -> None:
        model = "big" if a % 7 == 0 else "demo"
        encoders = frozenset([NVENC] if b % 7 == 0 and model == "demo" else [])
        needs = Needs("s", "t", model, encoders=encoders, priority=1 + b % 3, is_resumed=a % 5 == 0)
        avoid = frozenset({"s1", "d1"} if b % 5 == 0 and name == "recover" else ())
        claim = None
        if name == "enqueue":
            claim = self.admission.enqueue(needs)
            kinds, task = (True, False), asyncio.ensure_future(claim.wait())
        else:
            find = self.admission.stage if a % 2 else self.admission.decoder
            kinds, task = (bool(a % 2),), asyncio.ensure_future(find(needs, avoid))
        self.waiting.append(Waiting(kinds, needs, avoid, next(self.orders), task, claim))

    def give_back(self, place: Place[Any]) -> None:
        self.held.remove(place)
        place.release()

    def change(self, name: str, machine: Machine, b: int) -> None:
        """Something about a machine, which it reports at once."""
        ours = self.there(machine)
        if name == "others":
            if all(place.is_open for place in ours):  # else nobody could tell whose session it is
                machine.num_others = min(b % 3, max(0, machine.max_sessions - len(ours)))
        elif name == "state":
            machine.state = STATES[b % len(STATES)]
        elif name == "resize":
            machine.max_sessions = b % 4
        elif name == "lose":
            machine.instance += 1
            machine.num_others = machine.num_reported = 0
            machine.pool.lose(machine.address)
            return
        self.report(machine)

    def collect(self) -> None:
        """Take over what was served, and drop what was taken back."""
        self.fresh, self.served = [], []
        for waiting in [waiting for waiting in self.waiting if waiting.task.done()]:
            self.waiting.remove(waiting)
            if waiting.task.cancelled():
                continue
            result = waiting.task.result()
            self.fresh += result if isinstance(result, tuple) else [result]
            self.served.append(waiting)
        self.held = [place for place in self.held + self.fresh if not place.is_released]

    def check(self) -> None:
        for place in self.fresh:
            machine = self.machine(place)
            num_used = len(self.there(machine)) + machine.num_others
            assert num_used <= machine.max_sessions, f"{machine.address} has too many"
        assert self.admission.num_busy == sum(self.machine(place).is_stage for place in self.held)
        assert self.admission.queue_length + self.admission.num_urgent == len(self.waiting)
        for waiting in self.waiting:
            halves = [self.free_machines(waiting, kind) for kind in waiting.kinds]
            assert not all(halves), f"{waiting} waits beside a free place"

    def free_machines(self, waiting: Waiting, kind: bool) -> list[Machine]:
        return [
            machine
            for machine in self.machines
            if machine.is_stage == kind and self.fits(machine, waiting) and self.num_free(machine) > 0
        ]

    def check_choice(self) -> None:
        """Right after one event: order among those who need the same, and the fullest peer."""
        for served, waiting in itertools.product(self.served, self.waiting):
            if (served.kinds, served.needs.key, served.avoid) == (
                waiting.kinds,
                waiting.needs.key,
                waiting.avoid,
            ):
                assert served.rank < waiting.rank
        if len(self.served) != 1:
            return
        for place in self.fresh:
            chosen = self.machine(place)
            for machine in self.free_machines(self.served[0], chosen.is_stage):
                if machine is not chosen:
                    assert self.num_free(chosen, num_fresh=1) <= self.num_free(machine), "not the fullest"

    def check_revocations(self, before: set[Place[Any]]) -> None:
        """Only for somebody who waits."""
        assert self.waiting or self.served or revoked(self.held) <= before


def revoked(places: list[Place[Any]]) -> set[Place[Any]]:
    return {place for place in places if place.revoked.is_set()}


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


async def play(ops: list[Op]) -> None:
    model = Model()
    for name, a, b, is_interrupted in ops:
        before = revoked(model.held)
        model.run(name, a, b)
        if is_interrupted and model.waiting:
            model.waiting[b % len(model.waiting)].cancel()
        await settle()
        model.collect()
        model.check()
        if not is_interrupted and name != "cancel":
            model.check_choice()
            model.check_revocations(before)
    await end(model)
    model.admission.close()


async def end(model: Model) -> None:
    """Everybody goes, and every place is free again; then whoever comes is served."""
    for waiting in model.waiting:
        waiting.task.cancel()
    await settle()
    model.collect()
    for place in model.held:
        place.release()
    model.held = []
    model.now += 100
    for machine in model.machines:
        machine.state, machine.num_others, machine.max_sessions = READY, 0, 2
        machine.report(0)
    assert (model.admission.num_busy, model.admission.queue_length, model.admission.num_urgent) == (0, 0, 0)
    for machine in model.machines:
        peer = machine.pool.peers[machine.address]
        assert model.ledger(machine).num_free(peer) == 2, machine.address


ops = st.tuples(
    st.sampled_from(OPS), st.integers(0, 59), st.integers(0, 59), st.sampled_from([False, False, False, True])
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ops, min_size=20, max_size=80))
def test_random_histories(ops: list[Op]) -> None:
    asyncio.run(play(ops))
