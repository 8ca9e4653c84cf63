"""Numbers of blocks. A session counts from its first segment; its stage and its decoder count from the first
block of the clip that it goes on from."""

from dataclasses import dataclass

from cascade.v1 import common_pb2, stage_pb2
from services.gateway.peers.made import MadeBlock

MAX_BLOCK = 2**31 - 1
"""As the contracts say."""
Pass = common_pb2.Tick.Pass
PromptApplied = stage_pb2.GenerateResponse.PromptApplied


@dataclass(frozen=True)
class Count:
    """One session's."""

    num_given_blocks: int
    """Blocks of the clip."""

    def at_peer(self, block: int) -> int:
        return min(block + self.num_given_blocks, MAX_BLOCK) if self.num_given_blocks else block

    def from_peer(self, block: int) -> int:
        return max(0, block - self.num_given_blocks)

    def from_stage(self, made: MadeBlock) -> MadeBlock:
        """What is said of a block, in the session's numbers; the latents keep the stage's."""
        if not self.num_given_blocks:
            return made
        said = stage_pb2.GenerateResponse.Block()
        said.CopyFrom(made.said)
        said.block.index = self.from_peer(said.block.index)
        for tick in said.ticks:
            passes = [self._pass(each) for each in tick.passes if each.block >= self.num_given_blocks]
            tick.ClearField("passes")
            tick.passes.extend(passes)
        return MadeBlock(said, made.latents)

    def _pass(self, made: Pass) -> Pass:
        return Pass(block=self.from_peer(made.block), pass_index=made.pass_index, rank=made.rank)

    def receipt(self, applied: PromptApplied) -> PromptApplied:
        """The same of a receipt."""
        told = PromptApplied()
        told.CopyFrom(applied)
        told.first_block_touched = self.from_peer(applied.first_block_touched)
        told.first_block_full = self.from_peer(applied.first_block_full)
        if applied.HasField("last_block_mixed"):
            told.last_block_mixed = self.from_peer(applied.last_block_mixed)
        return told
