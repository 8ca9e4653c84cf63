"""What clients may ask of a session: done once per request id, whoever asks and however often."""

import asyncio
import hashlib
from contextlib import suppress

from cascade.v1 import session_pb2
from cascade.v1.stage_pb2 import ModelInfo
from cascade_core.prompts import readable
from services.common.errors import BlockNotAhead, RequestIdReused, TooManySwitches
from services.common.prompts import mix_of, transition_of
from services.common.remote import RemoteError
from services.gateway.api.creation import check_loras
from services.gateway.api.prompts import check_switch
from services.gateway.journal import Noted, PromptAccepted, Record, Requested
from services.gateway.journal.lora_sets import kept_loras
from services.gateway.journal.switch_modes import mode_name
from services.gateway.session import views
from services.gateway.session.live import LiveSession
from services.gateway.session.over import SessionOver
from services.gateway.session.session_needs import lists_loras, lora_files_noted, needs_of

MAX_WAITING = 64
"""Switches of one session that have not taken effect yet."""
MAX_BLOCKS = 2**31
VERDICT_S = 2.0
"""How long a call waits for the stage to say whether the model can take a prompt; after that only the receipt
tells."""


async def switch(
    live: LiveSession, request_id: str, asked: session_pb2.PromptSwitch, *, wait_s: float = 0.0
) -> session_pb2.PromptReceipt:
    """Change the prompt; returns the receipt as it stands once the stage has answered, or after `wait_s`.

    Raises RequestIdReused, InvalidPrompt, TooManySwitches, BlockNotAhead, and RemoteError where the stage
    refused.
    """
    verdict = asyncio.Event()
    try:
        async with live.asking:
            accepted = is_new(live.record, request_id, b"switch", asked.SerializeToString(deterministic=True))
            if accepted:
                await accept(live, request_id, asked, verdict)
        if accepted and wait_s and live.state == session_pb2.SESSION_STATE_ACTIVE:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await verdict.wait()
    finally:
        if live.verdicts.get(request_id) is verdict:
            del live.verdicts[request_id]
    prompt = live.record.find_prompt(request_id)
    if prompt is None:  # asked so long ago that it has taken effect, and is forgotten
        return session_pb2.PromptReceipt(request_id=request_id, state=session_pb2.SWITCH_STATE_APPLIED)
    receipt = views.receipt_of(prompt, live.record)
    if wait_s and receipt.state == session_pb2.SWITCH_STATE_REFUSED:
        raise RemoteError.from_status(receipt.status)
    return receipt


async def accept(
    live: LiveSession, request_id: str, asked: session_pb2.PromptSwitch, verdict: asyncio.Event
) -> None:
    """Journal a switch, which the stage's stream then sends; `verdict` is set when the stage has answered."""
    offers = offers_to(live)
    check_switch(asked, live.shared.admission.find_model(live.spec.model), offers)
    mix, transition = mix_of(asked.mix), transition_of(asked.transition)
    num_waiting, next_block = len(live.record.waiting()), live.record.next_stage_block
    if num_waiting >= MAX_WAITING:
        raise TooManySwitches(f"{num_waiting} switches wait to take effect")
    loras = kept_loras(asked.loras.loras) if asked.HasField("loras") else None
    names = [name for name, _ in loras or ()]
    if names and offers:
        check_loras("prompt_switch.loras", names, offers, live.spec.model)
    at_block = asked.at_block if asked.HasField("at_block") else None
    if at_block is not None and at_block < next_block:
        message = f"at_block: block {at_block} has been made; {next_block} is the next"
        raise BlockNotAhead(message, next_block=next_block)
    if at_block is not None and at_block >= (end := end_block(live)):
        message = f"at_block: the session ends before block {end}"
        raise BlockNotAhead(message, next_block=next_block)
    live.verdicts[request_id] = verdict
    await live.write(
        note(request_id, b"switch", asked.SerializeToString(deterministic=True)),
        PromptAccepted(
            request_id,
            asked.text or readable(mix),
            mode_name(asked.mode),
            at_block,
            live.shared.now_ms(),
            loras,
            mix,
            transition,
        ),
        *lora_files_noted(live.record, lists_loras(live, offers, names), names),
    )
    live.shared.admission.change(needs_of(live))
    live.tell_receipt(request_id)


def offers_to(live: LiveSession) -> list[ModelInfo]:
    """What a switch may ask for: what its stage offers; while it has none, what one of those may to which it
    may come."""
    if live.stage:
        return [live.stage]
    revision, offers = views.model_of(live.record).revision, live.shared.admission.offers(live.spec.model)
    return [info for info in offers if revision in ("", info.revision)]


def end_block(live: LiveSession) -> int:
    """One past the last block that there can be."""
    asked = live.spec.num_blocks if live.spec.HasField("num_blocks") else MAX_BLOCKS
    return min(asked, views.model_of(live.record).max_blocks or MAX_BLOCKS)


async def set_paused(live: LiveSession, request_id: str, *, is_paused: bool) -> None:
    """Note the wish; the session follows. Raises RequestIdReused."""
    kind = b"pause" if is_paused else b"resume"
    async with live.asking:
        if is_new(live.record, request_id, kind):
            await live.write(note(request_id, kind), Noted(views.PAUSED, b"1" if is_paused else b""))


async def delete(live: LiveSession, request_id: str) -> None:
    """Order the session's end, which comes at once. Raises RequestIdReused."""
    async with live.asking:
        if is_new(live.record, request_id, b"delete"):
            await live.write(note(request_id, b"delete"))
    live.end(SessionOver(session_pb2.END_REASON_DELETED))


def is_new(record: Record, request_id: str, kind: bytes, content: bytes = b"") -> bool:
    """False for a repeat. Raises RequestIdReused where the id came with something else."""
    known = record.requests.get(request_id)
    if known is None:
        return True
    if known != digest(kind, content):
        raise RequestIdReused(f"request_id {request_id}: was used for something else")
    return False


def note(request_id: str, kind: bytes, content: bytes = b"") -> Requested:
    return Requested(request_id, digest(kind, content))


def digest(kind: bytes, content: bytes) -> bytes:
    return hashlib.sha256(kind + b"/" + content).digest()[:16]
