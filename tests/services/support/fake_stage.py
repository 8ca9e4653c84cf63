"""A stage without a model: it keeps the contract of stage.proto and makes numbered bytes instead of latents.

As a process: `python -m tests.services.support.fake_stage --port 50061 --capacity 200 --latent-bytes 600000`.
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import grpc

from cascade.v1 import common_pb2, stage_pb2, stage_pb2_grpc
from cascade_core.errors import InvalidPrompt, UnknownModel
from services.common.errors import BlockNotAhead, ProtocolViolation, RequestIdReused, TooManySwitches
from services.common.status import describe
from services.common.validation import InvalidField, validate
from tests.services.support.fake_machine import Machine, Mark, Stream, next_of, prompt_mark, told

Request, Response = stage_pb2.GenerateRequest, stage_pb2.GenerateResponse
REFUSED = "REFUSED"
"""A prompt with this word is more than the model takes."""
UNKNOWN = "xyzzy"
"""A word that the model does not know."""
MAX_SWITCHES = 64
BIDIRECTIONAL = common_pb2.INFLIGHT_ATTENTION_BIDIRECTIONAL
CAUSAL = common_pb2.INFLIGHT_ATTENTION_CAUSAL
IN_FLIGHT = 2
"""Blocks from the first that an immediate switch touches to the first that it rules alone."""


class FakeStage(Machine):
    """Its latents have `latent_bytes` bytes whatever their shape says, and begin with a Mark: fake decoders
    alone can read them."""

    def __init__(
        self,
        *,
        latent_bytes: int = 64,
        block_s: float = 0.0,
        model: str = "demo",
        revision: str = "r1",
        sink_blocks: int = 1,
        context_blocks: int = 3,
        max_transition_blocks: int = 64,
        max_blocks: int = 0,
        max_prompt_tokens: int = 0,
        example_prompts: Sequence[str] = (),
        num_touched: int = 0,
        staggers: Sequence[int] = (1, 2, 3, 4),
        default_stagger: int = 2,
        attentions: Sequence[int] = (BIDIRECTIONAL, CAUSAL),
        loras: Mapping[str, str] | None = None,
        scene_cuts: bool = False,
        image_start: "common_pb2.ImageStart.ValueType" = common_pb2.IMAGE_START_CLIP,
        **machine: Any,
    ) -> None:
        """`block_s`: seconds per block and session; 0: as fast as credit allows. `num_touched`: blocks
        in flight that an immediate switch touches when its own block starts. No `staggers`: one of a former
        release, which says nothing of them and takes no notice. `loras`: digests of those listed, by name."""
        super().__init__(**machine)
        self.block_s = block_s
        self.num_touched = num_touched
        self.info = stage_pb2.ModelInfo(
            model=model,
            revision=revision,
            licence="none",
            block_frames=3,
            sink_blocks=sink_blocks,
            context_blocks=context_blocks,
            num_passes=4,
            max_blocks=max_blocks,
            max_prompt_tokens=max_prompt_tokens,
            fps=16,
            width=64,
            height=64,
            max_pixels=1024 * 1024,
            example_prompts=example_prompts,
            max_transition_blocks=max_transition_blocks,
            scene_cuts=scene_cuts,
        )
        if staggers:
            self.info.staggers.extend(staggers)
            self.info.default_stagger = default_stagger
            self.info.inflight_attentions.extend(attentions)
            self.info.default_inflight_attention = attentions[0]
            self.info.image_start = image_start
            self.info.start_note = "Made-up latents go on from anything."
        for name, digest in (loras or {}).items():
            self.info.loras.add(name=name, licence="MIT", digest=digest)
        self.filler = bytes(max(0, latent_bytes - len(Mark(0, 0, b"").pack())))

    def register(self, server: grpc.aio.Server) -> None:
        stage_pb2_grpc.add_StageServiceServicer_to_server(self, server)

    def fill_status(self, status: stage_pb2.StageStatus) -> None:
        status.model.CopyFrom(self.info)
        status.world_size, status.device, status.num_blocks = 1, "cpu", self.num_blocks

    async def Generate(self, requests: Any, context: Any) -> AsyncIterator[Response]:
        async for response in told(self._generate(aiter(requests)), context):
            yield response

    async def WatchStatus(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for report in self.watch(request, stage_pb2.StageServiceWatchStatusResponse, context):
            yield report

    async def Drain(self, request: Any, context: Any) -> stage_pb2.StageServiceDrainResponse:
        return stage_pb2.StageServiceDrainResponse(drain=self.take_drain(request))

    async def _generate(self, requests: AsyncIterator[Request]) -> AsyncIterator[Response]:
        stream = await self._open(await next_of(requests, "open"))
        reading = None
        try:
            await stream.take_context(requests)
            await asyncio.sleep(self.open_s)
            await self.audible()
            yield Response(opened=stream.opened())
            reading = asyncio.create_task(stream.read(requests))
            async for response in stream.responses():
                await self.audible()
                yield response
        finally:
            self.leave(stream)
            if reading:
                reading.cancel()

    async def _open(self, opening: Request.Open) -> "StageStream":
        validate(Request(open=opening))
        if opening.model != self.info.model:
            raise UnknownModel(f"{opening.model} is not {self.info.model}")
        staggers, attentions = self.info.staggers, self.info.inflight_attentions
        if staggers and opening.stagger not in (0, *staggers):
            raise InvalidField([("open.stagger", f"{opening.stagger} is not one of {staggers}")])
        if attentions and opening.inflight_attention not in (0, *attentions):
            raise InvalidField([("open.inflight_attention", f"is not one of {attentions}")])
        self.check_loras(*opening.loras.values())
        if opening.cuts and not self.info.scene_cuts:
            raise InvalidField([("open.cuts", f"{self.info.model} was not made for them")])
        stream = StageStream(self, opening)
        await self.admit(stream)
        try:
            for block, text in opening.prompts.items():
                if REFUSED in text:
                    raise too_long(f"open.prompts[{block}]")
            if opening.num_context_blocks != len(stream.needed):
                raise ProtocolViolation(f"context must be {stream.needed}, not {opening.num_context_blocks}")
        except BaseException:
            self.leave(stream)
            raise
        return stream

    def check_loras(self, *sets: common_pb2.LoraSet) -> None:
        listed = {lora.name for lora in self.info.loras}
        for choice in (choice for each in sets for choice in each.loras):
            if choice.name not in listed:
                raise InvalidField([("loras", f"{choice.name} is not one of {sorted(listed)}")])


class StageStream(Stream):
    """One session at the stage."""

    machine: FakeStage

    def __init__(self, machine: FakeStage, opening: Request.Open) -> None:
        super().__init__(machine, opening.session, opening.epoch)
        info, start = machine.info, opening.start_block
        self.opening = Request.Open()
        self.opening.CopyFrom(opening)  # reading a map may change it
        self.needed = context_of(info, start, opening.cuts)
        self.context: list[Mark] = []
        """Of the context blocks, as they came."""
        self.sent: list[int] = []
        """Blocks made."""
        self.switches: list[str] = []
        """Request ids, as they came, repeats included."""
        self.credit_end = opening.credit_end_block
        self.needed_in_s: float | None = None
        """As the newest credit has it."""
        self.next_block = start
        ends = [start + opening.num_blocks] if opening.HasField("num_blocks") else []
        self.end_block = min([*ends, *([info.max_blocks] if info.max_blocks else [])], default=2**31)
        self.prompt = opening.prompts[max(block for block in opening.prompts if block <= start)]
        ruling = [block for block in opening.loras if block <= start]
        self.loras = chosen(opening.loras[max(ruling)]) if ruling else {}
        self.made_with: dict[int, dict[str, float]] = {}
        """Names of LoRAs and their scales, by block."""
        self._answers: list[Response] = []
        self._seen: dict[str, tuple[bytes, list[Response]]] = {}
        self._waiting = [
            (block, number, "", text, opening.switch_mode, opening.loras.get(block), mixed(opening, block))
            for number, (block, text) in enumerate(sorted(opening.prompts.items()))
            if block > start
        ]

    def opened(self) -> Response.Opened:
        opening, info = self.opening, self.machine.info
        width, height = opening.width or info.width, opening.height or info.height
        opened = Response.Opened(epoch=self.epoch, revision=info.revision, width=width, height=height)
        opened.latent_shape.extend([info.block_frames, 16, height // 8, width // 8])
        for block, text in sorted(opening.prompts.items()):
            if UNKNOWN in text:
                opened.unknown_words.add(block=block, words=[UNKNOWN])
        return opened

    async def take_context(self, requests: AsyncIterator[Request]) -> None:
        for block in self.needed:
            latents = await next_of(requests, "context_block")
            mark = Mark.of(latents.latents.data)
            if latents.index != block or mark.block != block:
                raise ProtocolViolation(f"context block {block} is due, not {latents.index}")
            self.context.append(mark)

    def take(self, request: Request) -> None:
        match request.WhichOneof("message"):
            case "switch_prompt":
                self._take_switch(request.switch_prompt)
            case "credit":
                self.credit_end = max(self.credit_end, request.credit.end_block)
                is_told = request.credit.HasField("needed_in")
                self.needed_in_s = request.credit.needed_in.ToMilliseconds() / 1000 if is_told else None
            case "close":
                self.is_closing = True
            case kind:
                raise ProtocolViolation(f"{kind} does not belong here")

    def _take_switch(self, switch: Request.SwitchPrompt) -> None:
        self.switches.append(switch.request_id)
        content = switch.SerializeToString(deterministic=True)
        known = self._seen.get(switch.request_id)
        if known and known[0] == content:
            self._answers.extend(known[1])
        elif refusal := self._refusal(switch, is_known=known is not None):
            status = describe(refusal, "fake")
            self._answer(
                content, Response(switch_refused={"request_id": switch.request_id, "status": status})
            )
        else:
            at_block = switch.at_block if switch.HasField("at_block") else self.next_block
            number = len(self.opening.prompts) + len(self.switches)
            loras = switch.loras if switch.HasField("loras") else None
            num_mixed = switch.transition.num_blocks
            waiting = (at_block, number, switch.request_id, switch.text, switch.mode, loras, num_mixed)
            self._waiting.append(waiting)
            self._waiting.sort(key=lambda waiting: waiting[:2])
            self._answer(content, Response(switch_accepted={"request_id": switch.request_id}))

    def _refusal(self, switch: Request.SwitchPrompt, *, is_known: bool) -> Exception | None:
        if is_known:
            return RequestIdReused(f"request_id {switch.request_id}: was used with other content")
        if REFUSED in switch.text:
            return too_long("text")
        try:
            self.machine.check_loras(switch.loras)
        except InvalidField as error:
            return error
        if len(self._waiting) >= MAX_SWITCHES:
            return TooManySwitches("too many wait")
        if switch.HasField("at_block") and not self.next_block <= switch.at_block < self.end_block:
            return BlockNotAhead(f"{switch.at_block} is not ahead", next_block=self.next_block)
        return None

    def _answer(self, content: bytes, response: Response) -> None:
        answer = response.switch_accepted if response.HasField("switch_accepted") else response.switch_refused
        self._seen.setdefault(answer.request_id, (content, []))[1].append(response)
        self._answers.append(response)

    async def responses(self) -> AsyncIterator[Response]:
        """From `opened` to `ended`."""
        due_s = time.monotonic()
        while True:
            self.news.clear()
            for response in self._news():
                yield response
            if self.is_closing:
                yield ended("REASON_CLOSED")
                return
            if self.next_block >= self.end_block:
                asked = self.opening.HasField("num_blocks")
                is_full = asked and self.end_block == self.opening.start_block + self.opening.num_blocks
                yield ended("REASON_COMPLETE" if is_full else "REASON_POSITIONS_EXHAUSTED")
                return
            left_s = due_s - time.monotonic()
            if self.next_block >= self.credit_end or left_s > 0:
                await self._wait(left_s if self.next_block < self.credit_end else None)
                continue
            due_s = max(due_s, time.monotonic() - self.machine.block_s) + self.machine.block_s
            await self.machine.suffer(self.next_block)
            for response in self._apply():
                yield response
            yield self._make()

    def _news(self) -> list[Response]:
        if self.error:
            raise self.error
        answers, self._answers = self._answers, []
        if self.machine.drain and not self.is_drain_told:
            self.is_drain_told = True
            draining = Response.Draining()
            draining.time_left.FromMilliseconds(int(1000 * self.machine.drain_left_s()))
            answers.append(Response(draining=draining))
        return answers

    async def _wait(self, limit_s: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self.news.wait()

    def _apply(self) -> list[Response]:
        """Receipts of all switches that the next block is the first under."""
        responses = []
        while self._waiting:
            block, _, request_id, text, mode, loras, num_mixed = self._waiting[0]
            is_quick = mode in (common_pb2.SWITCH_MODE_UNSPECIFIED, common_pb2.SWITCH_MODE_IMMEDIATE)
            if block - is_quick * self.machine.num_touched > self.next_block:
                break
            del self._waiting[0]
            self.prompt = text
            self.loras = self.loras if loras is None else chosen(loras)
            full = self.next_block + max(num_mixed, IN_FLIGHT if is_quick and request_id else 0)
            words = [UNKNOWN] if UNKNOWN in text else []
            applied = Response.PromptApplied(
                request_id=request_id,
                first_block_touched=self.next_block,
                first_block_full=full,
                unknown_words=words,
                last_block_mixed=self.next_block + num_mixed - 1 if num_mixed else None,
            )
            if self.machine.info.loras:
                applied.loras.loras.extend(
                    common_pb2.LoraChoice(name=name, scale=scale) for name, scale in self.loras.items()
                )
            responses.append(Response(prompt_applied=applied))
            if request_id:
                self._seen[request_id][1].append(responses[-1])
        return responses

    def _make(self) -> Response:
        info, block = self.machine.info, self.next_block
        mark = Mark(block, self.epoch, prompt_mark(self.prompt))
        width, height = self.opening.width or info.width, self.opening.height or info.height
        latents = common_pb2.Tensor(
            dtype=common_pb2.DATA_TYPE_BFLOAT16,
            shape=[info.block_frames, 16, height // 8, width // 8],
            data=mark.pack() + self.machine.filler,
        )
        made = Response.Block(block=common_pb2.LatentBlock(index=block, latents=latents))
        made.latency.FromMilliseconds(1)
        made.tick_time.FromMilliseconds(1)
        made.ticks.extend(self._ticks(block))
        self.sent.append(block)
        self.made_with[block] = self.loras
        self.next_block += 1
        self.machine.num_blocks += 1
        return Response(block=made)

    def _ticks(self, block: int) -> Iterator[common_pb2.Tick]:
        """One block after the other, a pass a tick."""
        first = (block - self.opening.start_block) * self.machine.info.num_passes
        for number in range(self.machine.info.num_passes):
            tick = common_pb2.Tick(index=first + number)
            tick.compute_time.FromMilliseconds(1)
            tick.passes.add(block=block, pass_index=number, rank=0)
            yield tick


def chosen(loras: common_pb2.LoraSet) -> dict[str, float]:
    return {each.name: each.scale if each.HasField("scale") else 1.0 for each in loras.loras}


def mixed(opening: Request.Open, block: int) -> int:
    """Blocks of an entry's transition."""
    return opening.transitions[block].num_blocks if block in opening.transitions else 0


def context_of(info: stage_pb2.ModelInfo, start: int, cuts: Iterable[int]) -> list[int]:
    """See ModelInfo.sink_blocks."""
    sink = range(min(info.sink_blocks, start))
    pinned = [cut for cut in cuts if cut < start][-1:]
    return sorted({*sink, *pinned, *range(max(0, start - info.context_blocks), start)})


def too_long(field: str) -> InvalidPrompt:
    error = InvalidPrompt("the prompt has more tokens than the model takes")
    error.violations = ((field, "has 600 tokens, at most 512"),)  # type: ignore[attr-defined]
    return error


def ended(reason: str) -> Response:
    return Response(ended=Response.Ended(reason=Response.Ended.Reason.Value(reason)))


async def serve(stage: Machine) -> None:
    async with stage:
        print(f"listening at {stage.address}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--capacity", type=int, default=4)
    parser.add_argument("--latent-bytes", type=int, default=64)
    parser.add_argument("--block-s", type=float, default=0.0)
    parser.add_argument("--open-s", type=float, default=0.0)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--max-blocks", type=int, default=0)
    asyncio.run(serve(FakeStage(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
