"""What the fake engine makes instead of pictures: bytes that say what they were made of.

Each block's digest is made of the session's seed, the block's number, its prompt and the digest of the block
before. So whoever has received a session can tell whether it was primed with the right blocks, under the
right prompts, and whether any block was made twice, left out or taken from another session.
"""

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LATENTS = struct.Struct("<8sQ8s16s")
"""Magic, block, prompt, digest: each value of the latents is one byte, which bfloat16 holds exactly."""
SEGMENT = struct.Struct("<8sQ8s16s16s")
"""As LATENTS, and the digest that the decoder knew of the block before."""
MAGIC = b"cascade?"
NOTHING = bytes(16)
"""Before block 0."""


@dataclass(frozen=True)
class Block:
    """One block, as the stage made it."""

    number: int
    prompt: bytes
    digest: bytes

    def latents(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        values = np.zeros(shape, np.float32)
        data = LATENTS.pack(MAGIC, self.number, self.prompt, self.digest)
        values.reshape(-1)[: len(data)] = np.frombuffer(data, np.uint8)
        return values

    def segment(self, before: bytes) -> bytes:
        """`before`: the digest of the block that the decoder had before this one."""
        return SEGMENT.pack(MAGIC, self.number, self.prompt, self.digest, before)


@dataclass(frozen=True)
class Segment:
    """One block, as the client gets it."""

    block: Block
    before: bytes


def make_block(seed: int, number: int, prompt: bytes, before: bytes) -> Block:
    content = seed.to_bytes(8, "little") + number.to_bytes(8, "little") + prompt + before
    return Block(number, prompt, hashlib.sha256(content).digest()[:16])


def prompt_mark(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:8]


def block_of(latents: NDArray[np.float32]) -> Block:
    """What is written in latents. Raises ValueError where nothing is."""
    magic, number, prompt, digest = LATENTS.unpack(
        latents.reshape(-1)[: LATENTS.size].astype(np.uint8).tobytes()
    )
    if magic != MAGIC:
        raise ValueError("no latents of the fake engine")
    return Block(number, prompt, digest)


def read_segment(data: bytes) -> Segment:
    """Raises ValueError where it is none of the fake engine."""
    if len(data) != SEGMENT.size or not data.startswith(MAGIC):
        raise ValueError("no segment of the fake engine")
    _, number, prompt, digest, before = SEGMENT.unpack(data)
    return Segment(Block(number, prompt, digest), before)
