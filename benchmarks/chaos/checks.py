"""Whether a segment is what an undisturbed session would have had."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

from benchmarks.chaos.content import NOTHING, make_block, prompt_mark, read_segment
from cascade_client import PromptReceipt, Segment
from tests.services.support.media_support import assert_gapless


class Check(Protocol):
    """Of one session, segment by segment."""

    def asks(self, request_id: str, text: str) -> None:
        """A switch is about to be asked for."""

    def hears(self, receipt: PromptReceipt) -> None:
        """What became of it."""

    def complaint(self, init: bytes, segment: Segment) -> str:
        """What is wrong with the next segment; empty: nothing."""


class NoCheck:
    """Of an installation whose content nobody knows."""

    def asks(self, request_id: str, text: str) -> None: ...

    def hears(self, receipt: PromptReceipt) -> None: ...

    def complaint(self, init: bytes, segment: Segment) -> str:
        return "" if segment.data else "it is empty"


class FakeCheck:
    """Knows every byte: the fake engine's blocks follow from seed and prompts."""

    def __init__(self, seed: int, prompt: str) -> None:
        self._seed = seed
        self._digest = NOTHING
        self._prompts = {0: prompt}
        self._asked: dict[str, str] = {}
        self._heard: list[str] = []

    def asks(self, request_id: str, text: str) -> None:
        self._asked[request_id] = text

    def hears(self, receipt: PromptReceipt) -> None:
        self._heard.append(f"{receipt.request_id} {receipt.state} {receipt.first_block_touched}")
        if receipt.state == "APPLIED" and receipt.request_id in self._asked:
            assert receipt.first_block_touched is not None
            self._prompts[receipt.first_block_touched] = self._asked[receipt.request_id]

    def complaint(self, init: bytes, segment: Segment) -> str:
        try:
            found = read_segment(segment.data)
        except ValueError as error:
            return str(error)
        former, self._digest = self._digest, found.block.digest
        text = self._prompts[max(block for block in self._prompts if block <= segment.block)]
        ruling = prompt_mark(text)
        if found.block.number != segment.block:
            return f"it holds block {found.block.number}"
        if found.block.prompt != ruling:
            made = next((one for one in self._asked.values() if prompt_mark(one) == found.block.prompt), "?")
            return f"made under {made!r}, not under {text!r} as the receipts say: {self._heard[-4:]}"
        if found.block != make_block(self._seed, segment.block, ruling, former):
            return "the stage was primed with other blocks than those before it"
        if found.before != former:
            return "the decoder had seen another block before it"
        return ""


class DemoCheck:
    """To the byte until the first recovery, which may change the picture; from there on it has to be valid
    video of the right length."""

    def __init__(self, expected: Sequence[bytes]) -> None:
        """`expected`: the data of an undisturbed session of the same seed and prompt."""
        self._expected = expected
        self._epoch: int | None = None

    def asks(self, request_id: str, text: str) -> None: ...

    def hears(self, receipt: PromptReceipt) -> None: ...

    def complaint(self, init: bytes, segment: Segment) -> str:
        self._epoch = self._epoch or segment.epoch
        if segment.epoch == self._epoch == 1:
            return "" if segment.data == self._expected[segment.block] else "other bytes"
        try:
            frames = Fraction(segment.num_frames) / Fraction(segment.duration_s).limit_denominator(1000)
            assert_gapless(init, [segment.data], [segment.num_frames], frames)
        except AssertionError as error:
            return f"no valid video: {error}"[:200]
        return ""
