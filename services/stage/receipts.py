"""What became of each prompt switch of a stream, so that a repeat is answered and not done again."""

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from google.rpc.status_pb2 import Status

from cascade.v1 import stage_pb2
from services.common.errors import RequestIdReused
from services.common.prompts import mix_of, transition_of
from services.stage.opening import MODES, to_choices

Response = stage_pb2.GenerateResponse
SwitchPrompt = stage_pb2.GenerateRequest.SwitchPrompt
MAX_KEPT = 10_000
"""Switches of one stream that are remembered."""


@dataclass
class Receipt:
    """One switch, by its request_id."""

    request_id: str
    content: bytes
    is_now: bool
    """It waits for no block."""
    came_at_s: float = field(default_factory=time.monotonic)
    is_accepted: bool = False
    refusal: Status | None = None
    applied: Response | None = None

    def accepted(self) -> Response:
        return Response(switch_accepted=Response.SwitchAccepted(request_id=self.request_id))

    def again(self) -> list[Response]:
        """The receipts given so far."""
        if self.refusal:
            return [refused(self.request_id, self.refusal)]
        return [self.accepted(), *([self.applied] if self.applied else [])]


def refused(request_id: str, status: Status) -> Response:
    return Response(switch_refused=Response.SwitchRefused(request_id=request_id, status=status))


class Receipts:
    """The newest receipts of one stream."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Receipt] = OrderedDict()

    def find(self, request_id: str) -> Receipt | None:
        return self._kept.get(request_id)

    def enter(self, switch: SwitchPrompt) -> tuple[Receipt, bool]:
        """The switch's receipt, and whether it is a new one. Raises RequestIdReused."""
        content = digest(switch)
        known = self._kept.get(switch.request_id)
        if known and known.content != content:
            raise RequestIdReused(f"request_id {switch.request_id} was used for another switch")
        if known:
            return known, False
        receipt = Receipt(switch.request_id, content, not switch.HasField("at_block"))
        self._kept[switch.request_id] = receipt
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return receipt, True

    def forget(self, receipt: Receipt) -> None:
        """After a refusal that may pass: the same request can be tried again."""
        self._kept.pop(receipt.request_id, None)


def digest(switch: SwitchPrompt) -> bytes:
    """Of the content as it is meant: an unset mode is IMMEDIATE."""
    at_block = switch.at_block if switch.HasField("at_block") else None
    loras = to_choices(switch.loras) if switch.HasField("loras") else None
    prompt, transition = mix_of(switch.mix) or switch.text, transition_of(switch.transition)
    content = (prompt, MODES[switch.mode], at_block, loras, transition)
    return hashlib.sha256(repr(content).encode()).digest()
