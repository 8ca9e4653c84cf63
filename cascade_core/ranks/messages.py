"""What travels between the engine and its ranks: commands down, replies up, on a private socket pair.

How it travels: `pipe.py`. Latents and embeddings are NumPy arrays there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cascade_core.arrays import Array
from cascade_core.config import EngineConfig, ModelCard
from cascade_core.errors import CascadeError
from cascade_core.loras import Choice, Choices
from cascade_core.schedule import TickPlan
from cascade_core.weights.locate import Located, ModelFiles


@dataclass(frozen=True)
class Embedding:
    """A prompt as the model reads it."""

    rows: Array
    """[num_tokens, text_dim]."""
    unknown_words: tuple[str, ...] = ()
    """What the tokenizer has no token for, which the model therefore ignores."""


@dataclass(frozen=True)
class NewPrompt:
    """What a rank gets before the first tick that needs it."""

    rows: Array
    """[num_tokens, text_dim]."""
    loras: Choices = ()
    forget: frozenset[int] = frozenset()
    """Numbers of prompts that the rank needs no more, and forgets first."""


@dataclass(frozen=True)
class Load:
    """First command: build the model and join the group."""

    card: ModelCard
    config: EngineConfig
    files: ModelFiles | None
    """Where the weights are on this machine; None: random ones."""
    rank: int
    threads: int
    rendezvous: Path
    """Path of a file that does not exist yet, for the ranks to find each other."""
    loras: Located = ()
    """Listed ones, and where their files are."""


@dataclass(frozen=True)
class Open:
    """Make room for a session; answered by Opened."""

    session: int
    seed: int
    height: int
    width: int
    context: Mapping[int, Array]
    """Clean latents [F, C, h, w] per block to prime with."""
    prompts: Mapping[int, Array]
    """Embeddings [num_tokens, text_dim] by prompt number."""
    choices: Mapping[int, Choice] = field(default_factory=dict)
    """LoRAs of those prompts that have any."""
    first_frame: Array | None = None
    """Clean latents [1, C, h, w] that block 0 begins with."""


@dataclass(frozen=True)
class AddPrompt:
    """Compute the text cache of another prompt before the next tick."""

    session: int
    prompt: int
    embedding: Array
    choice: Choice = ()
    """LoRAs that it has."""
    forget: frozenset[int] = frozenset()
    """Prompts whose text caches make room for it."""


@dataclass(frozen=True)
class Drop:
    """Forget a session."""

    session: int


@dataclass(frozen=True)
class Tick:
    """Run this rank's part of a tick; answered by Ticked."""

    plan: TickPlan


@dataclass(frozen=True)
class Encode:
    """Rank 0: embed a prompt beside the ticks; answered by Encoded."""

    request: int
    prompt: str


Command = Load | Open | AddPrompt | Drop | Tick | Encode


@dataclass(frozen=True)
class StartTimes:
    """Where the time of a rank's start went."""

    load_s: float
    """Reading the weights."""
    join_s: float
    """Joining the group, which waits for the slowest."""
    warm_up_s: float
    """Compiling, and meeting the shapes of sessions."""


@dataclass(frozen=True)
class Ready:
    """Weights are loaded, the group is joined, and nothing is left to compile."""

    device: str
    free_bytes: int
    """Memory left for sessions on this rank."""
    bytes_per_value: int
    compiled: bool
    """Whether the layers are compiled."""
    times: StartTimes


@dataclass(frozen=True)
class Opened:
    """A session has its memory, or not."""

    session: int
    error: str | None = None


@dataclass(frozen=True)
class Ticked:
    """A tick is done on this rank."""

    latents: Array | None
    """Latents [F, C, h, w] of the block that became clean, from the rank it lives on."""
    compute_s: float
    """Time of the device, without the wait for ticks before it."""


@dataclass(frozen=True)
class Encoded:
    """A prompt's embedding, or why there is none."""

    request: int
    embedding: Embedding | None = None
    error: CascadeError | None = None


@dataclass(frozen=True)
class Failed:
    """The rank gives up and exits."""

    message: str
    error: CascadeError | None = None
    """An error of our own tree that the user can act on."""


Reply = Ready | Opened | Ticked | Encoded | Failed
