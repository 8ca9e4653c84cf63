"""What a session goes on from, where it does not begin from nothing but a prompt."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Beginning:
    """Latents that a session goes on from."""

    latents: Mapping[int, bytes] = field(default_factory=dict)
    """Serialized, by block, without gaps. Blocks below 0 come before the session's first. If there are
    `num_given_blocks`, they are -num_given_blocks to -1; if not, -1 alone is no block, but the first latent
    frame of block 0."""
    num_given_blocks: int = 0
    """Blocks of a clip that is not sent."""

    @property
    def next_block(self) -> int:
        """The first to be made."""
        return max(self.latents, default=-1) + 1
