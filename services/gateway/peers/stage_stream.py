"""A session's stream to its stage: opens it from the journal, grants credit, sends switches, takes blocks."""

from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import grpc

from cascade.v1 import common_pb2, stage_pb2
from services.common.prompts import to_mix, to_transition
from services.gateway.base.settings import Settings
from services.gateway.journal import Prompt, Record
from services.gateway.journal.lora_sets import lora_set
from services.gateway.journal.record import Loras
from services.gateway.journal.ruling import ruling
from services.gateway.journal.switch_modes import MODES
from services.gateway.peers.count import Count
from services.gateway.peers.made import MadeBlock, made_block
from services.gateway.peers.pool import Peer
from services.gateway.peers.stream import (
    StreamedSession,
    StreamLost,
    converse,
    metadata,
    read_within,
    watch_stall,
)
from services.gateway.peers.wire import field, first_field

METHOD = "/cascade.v1.StageService/Generate"
Request = stage_pb2.GenerateRequest
Response = stage_pb2.GenerateResponse
StagePeer = Peer[stage_pb2.StageStatus]
V = TypeVar("V")
MAX_BLOCK = 2**31
MAX_NEEDED_IN_S = 3600.0
MAX_PROMPTS = 1024
"""Of a timeline, as the contract says."""


class StageHost(Protocol):
    """What a session's stream to its stage tells of all that comes."""

    def credit_end(self) -> int:
        """Blocks below this index may be made."""
        ...

    def needed_in_s(self, block: int) -> float | None:
        """How long from now until its latents are needed; None: unknown."""
        ...

    async def stage_opened(self, opened: Response.Opened) -> None: ...
    async def block_made(self, block: MadeBlock) -> None: ...
    async def prompt_applied(self, request_id: str, applied: Response.PromptApplied) -> None:
        """`request_id`: as the journal names the switch, or the timeline's entry."""
        ...

    async def switch_answered(self, request_id: str, refusal: bytes) -> None:
        """`refusal`: a google.rpc.Status, empty where the switch was accepted."""
        ...

    async def stage_draining(self) -> None: ...


class StageStream:
    """One Generate stream, from Open to its end."""

    def __init__(
        self, session: StreamedSession, host: StageHost, peer: StagePeer, epoch: int, settings: Settings
    ) -> None:
        self.is_open = False
        self.on_open: Callable[[], None] = lambda: None
        self._session = session
        self._host = host
        self._peer = peer
        self._epoch = epoch
        self._settings = settings
        self._credit_end = 0
        self._is_closing = False
        self._scheduled: deque[int] = deque()
        """Blocks of the timeline's entries that are still to take effect: their receipts have no name."""
        self._again = set[str]()
        """Ids of switches that have had their receipts, and are still to take effect at this stage."""
        self._first = set[str]()
        """Ids of switches that must take effect here before one that comes now may."""
        self._ended = stage_pb2.GenerateResponse.Ended.REASON_UNSPECIFIED
        self._count = Count(session.record.num_given_blocks)

    async def run(self) -> int:
        """The reason of a stream that ended without an error (Ended.Reason). Raises StreamLost."""
        open_call: Any = self._peer.channel.stream_stream(METHOD)
        call = open_call(metadata=metadata(self._settings.peer, self._session.record.session, self._epoch))
        watch = watch_stall("block", self._settings.gateway.stall_timeout_s, self._owed)
        await converse(call, self._peer, self._read(call), self._write(call), watch)
        return self._ended

    def close(self) -> None:
        """Ask the stage to end here; what it has made until then still arrives."""
        self._is_closing = True
        self._session.wakeup.fire()

    async def _write(self, call: Any) -> None:
        async for request in self._requests():
            await call.write(request)
        await call.done_writing()

    async def _requests(self) -> AsyncIterator[bytes]:
        """Serialized, so that latents need not be read on their way."""
        session, sent = self._session, set[str]()
        record = session.record
        model = model_at(self._peer)
        blocks = context_blocks(record, model)
        yield Request(open=self._opening(record, blocks, model)).SerializeToString()
        for block in blocks:
            yield field(Request.CONTEXT_BLOCK_FIELD_NUMBER, record.latents[block])
        kept = {prompt.request_id for prompt in record.waiting()}
        ahead = applied_ahead(record)
        told = self._last_told(ahead)
        while not self._is_closing:
            if not self.is_open:
                await session.wakeup.wait()
                continue
            while ahead:
                switch = switch_again(ahead.pop(0))
                self._again.add(switch.request_id)
                self._first.add(switch.request_id)
                yield self._switch(switch)
            waiting = [prompt for prompt in session.record.waiting() if prompt.request_id not in sent]
            todo = [each for each in waiting if not self._must_wait(each, each.request_id in kept)]
            for prompt in todo:
                sent.add(prompt.request_id)
                start, after = (record.next_stage_block, told) if prompt.request_id in kept else (0, 0)
                if after and not_before(prompt, start, after) == after:
                    self._first.add(prompt.request_id)
                yield self._switch(switch_of(prompt, start, after))
            if (end := self._host.credit_end()) > self._credit_end:
                self._credit_end = end
                credit = Request.Credit(end_block=self._count.at_peer(end))
                if (needed_in_s := self._host.needed_in_s(end - 1)) is not None:
                    credit.needed_in.FromMilliseconds(round(1000 * min(needed_in_s, MAX_NEEDED_IN_S)))
                yield Request(credit=credit).SerializeToString()
            elif not todo:
                await session.wakeup.wait()
        yield Request(close=Request.Close()).SerializeToString()

    def _must_wait(self, prompt: Prompt, is_kept: bool) -> bool:
        """Whether a switch that came after the loss would be overtaken by one from before it, which waits
        here for the block that its receipt names."""
        return bool(self._first) and prompt.at_block is None and not is_kept

    def _settled(self, request_id: str) -> None:
        if request_id in self._first:
            self._first.remove(request_id)
            self._session.wakeup.fire()

    def _switch(self, switch: Request.SwitchPrompt) -> bytes:
        if switch.HasField("at_block"):
            switch.at_block = self._count.at_peer(switch.at_block)
        return Request(switch_prompt=switch).SerializeToString()

    def _last_told(self, ahead: list[Prompt]) -> int:
        """The last block that one of these takes effect with; 0: none does in this session."""
        end = self._session.spec.num_blocks or MAX_BLOCK
        blocks = [prompt.first_block_touched or 0 for prompt in ahead]
        return max((block for block in blocks if block < end), default=0)

    def _opening(self, record: Record, blocks: list[int], model: stage_pb2.ModelInfo) -> Request.Open:
        asked, spec, start = self._session.asked, self._session.spec, record.next_stage_block
        has_switches = record.waiting() or applied_ahead(record)
        self._credit_end = 0 if has_switches else self._host.credit_end()  # these come first
        prompts = timeline(record, [*blocks, start])
        self._scheduled = deque(sorted(block for block in prompts if block > start))
        count = self._count
        opening = Request.Open(
            session=record.session,
            epoch=self._epoch,
            model=spec.model,
            width=spec.width,
            height=spec.height,
            seed=spec.seed,
            prompts={count.at_peer(block): text_of(prompt) for block, prompt in prompts.items()},
            mixes={count.at_peer(block): to_mix(each.mix) for block, each in prompts.items() if each.mix},
            transitions={
                count.at_peer(block): transition
                for block, prompt in prompts.items()
                if (transition := to_transition(prompt.transition))
            },
            switch_mode=spec.switch_mode,
            start_block=count.at_peer(start),
            num_context_blocks=len(blocks),
            credit_end_block=count.at_peer(self._credit_end),
            fps=spec.fps,
            latent_dtype=common_pb2.DATA_TYPE_BFLOAT16,
            stagger=asked.stagger or one_of(spec.stagger, model.staggers, 0),
            inflight_attention=asked.inflight_attention
            or one_of(
                spec.inflight_attention,
                model.inflight_attentions,
                common_pb2.INFLIGHT_ATTENTION_UNSPECIFIED,
            ),
        )
        opening.cuts.extend(map(count.at_peer, record.cuts))
        for block, loras in opening_loras(record, prompts, start).items():
            opening.loras[count.at_peer(block)].CopyFrom(lora_set(loras))
        if spec.HasField("num_blocks"):
            opening.num_blocks = spec.num_blocks - start
        if first_frame := record.first_frame:
            opening.first_frame.CopyFrom(common_pb2.LatentBlock.FromString(first_frame).latents)
        return opening

    async def _read(self, call: Any) -> None:
        timeouts = self._settings.gateway
        first = await read_within(call, timeouts.open_timeout_s, "answer to Open")
        opened = None if first is grpc.aio.EOF else Response.FromString(first)
        if opened is None or not opened.HasField("opened"):
            raise StreamLost(f"{self._peer.address}: the first message is not `opened`")
        await self._host.stage_opened(opened.opened)
        self.is_open = True
        self.on_open()
        self._session.wakeup.fire()
        while (message := await call.read()) is not grpc.aio.EOF:
            if first_field(message) == Response.BLOCK_FIELD_NUMBER:
                await self._host.block_made(self._count.from_stage(made_block(message)))
            else:
                await self._take(Response.FromString(message))
        if not self._ended:
            raise StreamLost(f"{self._peer.address}: the stream ended without `ended`")

    def _owed(self) -> int | None:
        block = self._session.record.next_stage_block
        return block if self.is_open and self._credit_end > block else None

    async def _take(self, message: Response) -> None:
        host = self._host
        match message.WhichOneof("message"):
            case "prompt_applied" if message.prompt_applied.request_id in self._again:
                self._settled(message.prompt_applied.request_id)
            case "switch_refused" if message.switch_refused.request_id in self._again:
                self._settled(message.switch_refused.request_id)
            case "switch_accepted" if message.switch_accepted.request_id in self._again:
                pass
            case "prompt_applied":
                applied = self._count.receipt(message.prompt_applied)
                await host.prompt_applied(applied.request_id or self._next_scheduled(), applied)
                self._settled(applied.request_id)
            case "switch_accepted":
                await host.switch_answered(message.switch_accepted.request_id, b"")
            case "switch_refused":
                refused = message.switch_refused
                await host.switch_answered(refused.request_id, refused.status.SerializeToString())
                self._settled(refused.request_id)
            case "draining":
                await host.stage_draining()
            case "ended":
                self._ended = message.ended.reason

    def _next_scheduled(self) -> str:
        """The timeline's entry that takes effect next, as the journal names it."""
        if not self._scheduled:
            raise StreamLost(f"{self._peer.address}: a receipt for no entry of the timeline")
        return f"create/{self._scheduled.popleft()}"


def model_at(peer: StagePeer) -> stage_pb2.ModelInfo:
    """What the stage runs. Raises StreamLost."""
    if peer.status is None:
        raise StreamLost(f"{peer.address}: gone")
    return peer.status.model


def one_of(value: V, allowed: Collection[V], default: V) -> V:
    """What a session began with, where this stage allows it."""
    return value if value in allowed else default


def context_blocks(record: Record, model: stage_pb2.ModelInfo) -> list[int]:
    """Blocks whose latents a session that opens at the next block brings: see ModelInfo.sink_blocks."""
    first, start = -record.num_given_blocks, record.next_stage_block
    sink = range(first, min(first + model.sink_blocks, start))
    pinned = [] if record.pinned is None else [record.pinned]
    return sorted({*sink, *pinned, *range(max(first, start - model.context_blocks), start)})


def timeline(record: Record, blocks: list[int]) -> dict[int, Prompt]:
    """The prompts of these blocks and all later ones, but for those of `applied_ahead`; a session outlives
    thousands."""
    ahead = {prompt.first_block_touched for prompt in applied_ahead(record)}
    entries = {block: entry for block, entry in record.entries().items() if block not in ahead}
    needed = ruling(entries, blocks)
    kept = sorted(block for block in entries if block in needed or block > blocks[-1])
    return {block: entries[block] for block in kept[:MAX_PROMPTS]}


def text_of(prompt: Prompt) -> str:
    """Of a mix the heaviest part, where a text has to stand beside it."""
    return max(prompt.mix, key=lambda part: part.weight).text if prompt.mix else prompt.prompt


def opening_loras(record: Record, prompts: Collection[int], start: int) -> dict[int, Loras]:
    """Of these entries of the timeline: those that rule by then, and, of later ones, what they bring
    themselves. Empty where none has any."""
    own = {entry.first_block: entry.loras for entry in record.prompts if entry.loras is not None}
    found = {block: record.loras_at(block) for block in prompts if block <= start}
    found |= {block: own[block] for block in prompts if block > start and block in own}
    return found if any(found.values()) else {}


def applied_ahead(record: Record) -> list[Prompt]:
    """Switches in force whose receipts name a block that is still to be made, by that block."""
    start = record.next_stage_block
    return [prompt for prompt in record.in_force() if (prompt.first_block_touched or 0) > start]


def switch_again(prompt: Prompt) -> Request.SwitchPrompt:
    """One of them, as this stage is told of it. Its receipt has gone to the clients, so it must not touch
    blocks before the one named there, though they are in flight when it takes effect. As an entry of the
    opening's timeline it would."""
    mode = MODES[prompt.mode]
    if mode in (common_pb2.SWITCH_MODE_UNSPECIFIED, common_pb2.SWITCH_MODE_IMMEDIATE):
        mode = common_pb2.SWITCH_MODE_BOUNDARY
    switch = switch_message(prompt, uuid4().hex, mode)
    switch.at_block = prompt.first_block_touched or 0
    return switch


def switch_of(prompt: Prompt, start: int, after: int) -> Request.SwitchPrompt:
    """An accepted switch, as the stage is told of it; a block before `start` is not waited for any more. At
    `after` a switch that was accepted before this one is still to take effect, and must not take its
    place."""
    switch = switch_message(prompt, prompt.request_id, MODES[prompt.mode])
    if block := not_before(prompt, start, after):
        switch.at_block = block
    return switch


def not_before(prompt: Prompt, start: int, after: int) -> int:
    """The block at which it is asked to take effect; 0: at once."""
    asked = prompt.at_block
    return asked if asked is not None and asked >= max(start, after) else after


def switch_message(
    prompt: Prompt, request_id: str, mode: "common_pb2.SwitchMode.ValueType"
) -> Request.SwitchPrompt:
    """To take effect now."""
    return Request.SwitchPrompt(
        request_id=request_id,
        text=text_of(prompt),
        mode=mode,
        mix=to_mix(prompt.mix) if prompt.mix else None,
        transition=to_transition(prompt.transition),
        loras=None if prompt.loras is None else lora_set(prompt.loras),
    )
