"""Which prompts of a record say what kept and coming blocks are made with: pure."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping

from services.gateway.journal.record import Prompt, Record

MAX_CHAIN = 64
"""Transitions that may follow from one another, each begun in the middle of the one before; of a longer chain
the oldest counts as over."""


def ruling(entries: Mapping[int, Prompt], blocks: Iterable[int]) -> set[int]:
    """Of prompts by the block they begin with, those that these blocks' embeddings follow from: the one that
    each lies in, and, in the middle of a transition, the ones that it set out from."""
    starts = sorted(entries)
    found: set[int] = set()
    for block in blocks:
        at, place = block, max(0, bisect_right(starts, block) - 1)  # the first has what was given, too
        for _ in range(MAX_CHAIN):
            if not 0 <= place < len(starts):
                break
            start = starts[place]
            found.add(start)
            transition = entries[start].transition
            if transition is None or at >= start + transition.num_blocks:
                break
            at, place = start - 1, place - 1
    return found


def num_mixed_needed(record: Record) -> int:
    """Blocks of the longest transition that kept latents lie in, or coming blocks may; 1: there are mixes
    alone; 0: nothing is mixed."""
    ruling, following = ruling_prompts(record), record.next_stage_block
    oldest = following - record.limits.num_recent_blocks
    num_blocks = 0
    for entry in record.prompts:
        begins = following if entry.first_block is None else entry.first_block
        if entry.refused or (begins < following and entry.request_id not in ruling):
            continue
        length = entry.transition.num_blocks if entry.transition else 0
        num_blocks = max(num_blocks, bool(entry.mix), length if begins + length > oldest else 0)
    return num_blocks


def ruling_prompts(record: Record) -> set[str]:
    """Request ids of the prompts from which follows what kept latents were made with, or the next block will
    be."""
    entries = record.entries()
    blocks = ruling(entries, (*record.latents, record.next_stage_block))
    return {entries[block].request_id for block in blocks}
