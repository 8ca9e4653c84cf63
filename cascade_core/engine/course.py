"""Which embedding each block of a session has: where the prompts took over, and how gradually."""

from dataclasses import dataclass

from cascade_core.arrays import Array
from cascade_core.loras import Choices
from cascade_core.model.mixing import between
from cascade_core.prompts import Transition
from cascade_core.ranks.messages import NewPrompt


@dataclass(frozen=True)
class Leg:
    """From one turn of the course to the next."""

    first_block: int
    prompt: int
    """Number of its first block's prompt; those of the blocks that follow count up, as far as they differ."""
    rows: Array
    """Embedding [num_tokens, text_dim] of the new prompt."""
    origin: Array | None = None
    """Embedding of the block before it; None: there is none, or no transition."""
    transition: Transition | None = None
    loras: Choices = ()
    """Of all its blocks: a transition has those of the new prompt from its first block on."""

    @property
    def num_mixed(self) -> int:
        return self.transition.num_blocks if self.transition else 0

    def rows_of(self, prompt: int) -> Array:
        """Embedding of one of its prompts, by number."""
        step = prompt - self.prompt
        if self.origin is None or self.transition is None or step >= self.num_mixed:
            return self.rows
        share = (step + 1) / (self.num_mixed + 1)
        return between(self.origin, self.rows, share, self.transition.interpolation)

    def rows_at(self, block: int) -> Array:
        """Embedding of a block of it."""
        return self.rows_of(self.prompt + block - self.first_block)


class Course:
    """The legs that blocks can still ask for, first one first.

    A transition sets out from what the block before it has, so a course follows from its turns alone: where
    each began, to which prompt, over how many blocks. That is what a journal keeps of it.
    """

    def __init__(self) -> None:
        self._legs: list[Leg] = []
        self.next_prompt = 0
        """Number of the prompt that the next turn begins with."""

    def turn(
        self, first_block: int, rows: Array, transition: Transition | None = None, loras: Choices = ()
    ) -> None:
        """From this block on, another prompt; turns that were to come later are off. The very first has no
        transition."""
        before = [leg for leg in self._legs if leg.first_block < first_block]
        origin = before[-1].rows_at(first_block - 1) if transition and before else None
        leg = Leg(first_block, self.next_prompt, rows, origin, transition, loras)
        self._legs = [*before, leg]
        self.next_prompt += leg.num_mixed + 1

    def forget_before(self, block: int) -> None:
        """No turn will come at this block, or before it, any more."""
        while len(self._legs) > 1 and self._legs[1].first_block <= block:
            del self._legs[0]

    def prompt_of(self, number: int) -> NewPrompt:
        """The prompt of this number."""
        leg = next(leg for leg in reversed(self._legs) if leg.prompt <= number)
        return NewPrompt(leg.rows_of(number), leg.loras)
