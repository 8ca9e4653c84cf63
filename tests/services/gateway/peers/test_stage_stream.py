"""A session that is opened again at a stage, told by what a fake stage makes of it."""

import asyncio
from dataclasses import dataclass, field

import grpc
import pytest

from cascade.v1 import common_pb2
from cascade.v1.session_pb2 import SessionSpec
from cascade.v1.stage_pb2 import GenerateResponse, StageServiceWatchStatusRequest, StageStatus
from cascade.v1.stage_pb2_grpc import StageServiceStub
from services.common.wakeup import Wakeup
from services.gateway.base.settings import Settings
from services.gateway.journal import LatentsMade, NewSession, PromptAccepted, PromptApplied, Record
from services.gateway.journal.record import new_record
from services.gateway.journal.rules import apply
from services.gateway.peers.made import MadeBlock
from services.gateway.peers.peer import Peer
from services.gateway.peers.stage_stream import StageStream
from tests.services.support.fake_machine import Mark, prompt_mark
from tests.services.support.fake_stage import FakeStage

WAIT_S = 20.0
NUM_BLOCKS = 6


@dataclass
class Session:
    """As its streams see it."""

    record: Record
    spec: SessionSpec
    asked: SessionSpec = field(default_factory=SessionSpec)
    wakeup: Wakeup = field(default_factory=Wakeup)


@dataclass
class Host:
    """Takes what comes."""

    session: Session
    made: dict[int, bytes] = field(default_factory=dict)
    """The mark of each block's prompt."""
    answered: list[str] = field(default_factory=list)
    applied: list[str] = field(default_factory=list)

    def credit_end(self) -> int:
        return NUM_BLOCKS

    def needed_in_s(self, block: int) -> float | None:
        return None

    async def stage_opened(self, opened: GenerateResponse.Opened) -> None: ...

    async def stage_draining(self) -> None: ...

    async def switch_answered(self, request_id: str, refusal: bytes) -> None:
        assert not refusal
        self.answered.append(request_id)
        self.session.wakeup.fire()

    async def prompt_applied(self, request_id: str, applied: GenerateResponse.PromptApplied) -> None:
        self.applied.append(request_id)

    async def block_made(self, block: MadeBlock) -> None:
        latents = common_pb2.LatentBlock.FromString(block.latents)
        self.made[latents.index] = Mark.of(latents.latents.data).prompt


def record(*, prompts: dict[int, str], touched: int) -> Record:
    """Two blocks are made, and the receipt of a switch to `new` has come before the next one."""
    made = new_record(NewSession("s", "t", b"", prompts), 0)
    filler = common_pb2.Tensor(dtype=common_pb2.DATA_TYPE_BFLOAT16, shape=[1], data=b"")
    for block in range(2):
        filler.data = Mark(block, 1, prompt_mark("old")).pack()
        latents = common_pb2.LatentBlock(index=block, latents=filler).SerializeToString()
        made = apply(made, LatentsMade(block, latents))
    accepted = PromptAccepted("s1", "new", "immediate", None, 0)
    return apply(made, accepted, PromptApplied("s1", touched, touched + 1, 0))


async def open_again(session: Session, host: Host | None = None) -> Host:
    """At a stage that has two blocks in flight; what came of it."""
    host = host or Host(session)
    async with (
        asyncio.timeout(WAIT_S),
        FakeStage(num_touched=2) as stage,
        grpc.aio.insecure_channel(stage.address) as channel,
    ):
        peer: Peer[StageStatus] = Peer(stage.address, channel)
        watch = StageServiceStub(channel).WatchStatus(StageServiceWatchStatusRequest())
        peer.report((await watch.read()).status)
        await StageStream(session, host, peer, 2, Settings()).run()
    return host


@pytest.mark.parametrize("touched", [2, 3, 4])
async def test_a_switch_touches_no_block_before_the_one_that_its_receipt_says(touched: int) -> None:
    """Its stage was lost after the receipt and before that block; the next one has blocks in flight, too. An
    entry of the timeline whose time has not come yet takes effect as it would have."""
    spec = SessionSpec(model="demo", num_blocks=NUM_BLOCKS)
    session = Session(record(prompts={0: "old", 5: "last"}, touched=touched), spec)
    host = await open_again(session)
    last = max(3, touched)
    wanted = [
        "old" if block < touched else "new" if block < last else "last" for block in range(2, NUM_BLOCKS)
    ]
    assert [host.made[block] for block in range(2, NUM_BLOCKS)] == [prompt_mark(text) for text in wanted]
    assert host.applied == ["create/5"]


async def test_a_switch_that_waits_rules_after_one_that_was_told_before() -> None:
    """Both had taken effect at the same block, and the stage's second receipt was lost with its gateway."""
    told = record(prompts={0: "old"}, touched=3)
    told = apply(told, PromptAccepted("s2", "newer", "immediate", None, 0))
    host = await open_again(Session(told, SessionSpec(model="demo", num_blocks=NUM_BLOCKS)))
    assert [host.made[block] for block in range(3, NUM_BLOCKS)] == [prompt_mark("newer")] * 3
    assert host.applied == ["s2"]


async def test_a_switch_whose_place_another_took_is_not_told_again() -> None:
    """The first waited for block 4 to start; the second touched block 3, which was in flight."""
    told = record(prompts={0: "old"}, touched=4)
    second = PromptAccepted("s2", "newer", "immediate", None, 0), PromptApplied("s2", 3, 4, 0)
    host = await open_again(Session(apply(told, *second), SessionSpec(model="demo", num_blocks=NUM_BLOCKS)))
    assert [host.made[block] for block in range(2, NUM_BLOCKS)] == [
        prompt_mark("old"),
        *[prompt_mark("newer")] * 3,
    ]
    assert host.applied == []


@dataclass
class Impatient(Host):
    """Switches as soon as the session is open again, and has the last block made after that."""

    def credit_end(self) -> int:
        return NUM_BLOCKS if self.answered else NUM_BLOCKS - 1

    async def stage_opened(self, opened: GenerateResponse.Opened) -> None:
        accepted = PromptAccepted("s2", "newest", "immediate", None, 0)
        self.session.record = apply(self.session.record, accepted)


async def test_a_switch_from_before_the_loss_does_not_overtake_one_from_after_it() -> None:
    told = record(prompts={0: "old"}, touched=4)
    host = Impatient(Session(told, SessionSpec(model="demo", num_blocks=NUM_BLOCKS)))
    await open_again(host.session, host)
    assert host.made[NUM_BLOCKS - 1] == prompt_mark("newest")
    assert host.applied == ["s2"]
