"""Frozen configuration: model cards (what a model is) and EngineConfig (how this process runs it).

Every value is checked once, when the object is made; an unknown key or a value out of range raises
`InvalidConfig` that names the field. Cards are TOML files in `cascade_core/cards/`.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from cascade_core.errors import InvalidConfig, UnknownModel

InflightAttention = Literal["bidirectional", "causal"]
Rope = Literal["absolute", "window"]
SwitchMode = Literal["immediate", "boundary", "recache", "cut"]
Solver = Literal["renoise", "unipc"]
Quantize = Literal["none", "fp8"]

T = TypeVar("T")
Stagger = Annotated[int, Field(ge=1, le=17)]
RANDOM = "random"
"""The value of `weights` that asks for random ones."""
FP8_MULTIPLE = 16
"""What FP8 matrix products take: both widths of a weight are multiples of it."""
STRICT = ConfigDict(extra="forbid", strict=False)
Positive = Annotated[int, Field(ge=1)]
ExamplePrompt = Annotated[str, Field(max_length=1024, pattern=r"\S")]


@dataclass(frozen=True, config=STRICT)
class TransformerConfig:
    """Dimensions of the causal Wan DiT; the defaults are those of Wan 2.1."""

    dim: Positive
    """Width of a token."""
    ffn_dim: Positive
    """Width inside the feed-forward."""
    num_heads: Positive
    """Attention heads; each is dim / num_heads wide."""
    num_layers: Positive
    """Transformer layers (`blocks` in the checkpoints' names)."""
    text_dim: Positive = 4096
    """Width of the text encoder's output."""
    text_len: Positive = 512
    """Tokens of a prompt after padding; padding is attended, as in the reference."""
    in_channels: Positive = 16
    """Latent channels, in and out."""
    freq_dim: Annotated[int, Field(ge=2, multiple_of=2)] = 256
    """Width of the sinusoidal timestep embedding."""
    eps: Annotated[float, Field(gt=0)] = 1e-6
    """Added to the variance in every norm."""

    @model_validator(mode="after")
    def _check(self) -> "TransformerConfig":
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(f"dim {self.dim} must be num_heads {self.num_heads} times an even number")
        return self

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads


NUM_TRAIN_STEPS = 1000
Steps = Annotated[
    tuple[Annotated[float, Field(ge=1, le=NUM_TRAIN_STEPS)], ...], Field(min_length=1, max_length=16)
]


def _listed_steps(steps: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{step:g}' for step in steps)}]"


@dataclass(frozen=True, config=STRICT)
class SamplingConfig:
    """Few-step flow matching, as in the inference of the Self-Forcing family."""

    steps: Steps
    """Descending places in the shifted table of 1000 timesteps; 1000 is pure noise."""
    first_steps: Steps | None = None
    """Of block 0, where that takes more of them; None: `steps`."""
    solver: Solver = "renoise"
    """renoise: the clean block that a pass estimates gets new noise for the next. unipc: a multistep solver,
    which begins below 1000 and tells the model its timesteps as whole numbers, rounded down."""
    shift: Annotated[float, Field(gt=0)] = 5.0
    """Moves the table towards noise: sigma' = shift * s / (1 + (shift - 1) * s)."""
    context_noise: Annotated[float, Field(ge=0, lt=1000)] = 0.0
    """Timestep of the context pass, which writes a clean block's K/V."""

    @model_validator(mode="after")
    def _check(self) -> "SamplingConfig":
        for name, steps in (("steps", self.steps), ("first_steps", self.first_steps or self.steps)):
            if list(steps) != sorted(set(steps), reverse=True):
                raise ValueError(f"{name} {_listed_steps(steps)} must descend without repeats")
            if self.solver == "unipc" and steps[0] == NUM_TRAIN_STEPS:
                raise ValueError(f"{name} {_listed_steps(steps)} must begin below 1000 with solver unipc")
        if self.num_extra_passes < 0:
            raise ValueError(f"first_steps must not be fewer than steps, which are {len(self.steps)}")
        return self

    @property
    def num_passes(self) -> int:
        """P: the denoising passes of a block and its context pass."""
        return len(self.steps) + 1

    @property
    def num_extra_passes(self) -> int:
        """Passes that block 0 makes before its last P."""
        return len(self.first_steps or self.steps) - len(self.steps)

    def steps_of(self, block: int) -> tuple[float, ...]:
        """Of the denoising passes of this block."""
        return self.first_steps or self.steps if block == 0 else self.steps


@dataclass(frozen=True, config=STRICT)
class WindowConfig:
    """Which frames a block attends to. Frames are latent frames, in whole blocks."""

    block_frames: Positive = 3
    """Latent frames denoised together; each gives 4 pictures, the very first of a session one."""
    window_frames: Positive = 21
    """Newest frames a block sees, counted back from its own end, itself included."""
    sink_frames: Annotated[int, Field(ge=0)] = 0
    """First frames of the session, always seen, besides the window."""
    context_window_frames: Positive | None = None
    """The window of the context pass; None: `window_frames`. Equal to `block_frames` it re-encodes a
    clean block on its own (with the sink), as Krea does against drift."""
    rope: Rope = "absolute"
    """absolute: true frame positions, as the reference, until `max_positions`. window: the sink moves
    along in front of the window, so a session never ends."""
    max_positions: Positive = 1024
    """Latent frames a session may have with `rope = absolute`; the reference's table ends there."""
    shot_shift_frames: Annotated[int, Field(ge=0)] | None = None
    """For models that were made for scene cuts: the first block of a new shot stays in view beside the sink
    until the next one begins, in the place of the window's oldest, and with `rope = absolute` positions move
    on by as many latent frames. None: switches of mode `cut` are refused."""

    @model_validator(mode="after")
    def _check(self) -> "WindowConfig":
        for name in ("window_frames", "sink_frames", "context_window_frames"):
            value = getattr(self, name)
            if value is not None and value % self.block_frames:
                raise ValueError(f"{name} {value} must be a multiple of block_frames {self.block_frames}")
        if (self.context_window_frames or 0) > self.window_frames:
            raise ValueError("context_window_frames must not exceed window_frames")
        if self.can_cut and (
            self.context_window_frames is not None or not self.sink_frames or self.window_blocks < 3
        ):
            raise ValueError(
                "shot_shift_frames needs sink_frames, a window of 3 blocks, and no context_window_frames"
            )
        return self

    @property
    def window_blocks(self) -> int:
        return self.window_frames // self.block_frames

    @property
    def sink_blocks(self) -> int:
        return self.sink_frames // self.block_frames

    @property
    def can_cut(self) -> bool:
        """Whether shots can be cut."""
        return self.shot_shift_frames is not None

    @property
    def context_window_blocks(self) -> int:
        return (self.context_window_frames or self.window_frames) // self.block_frames

    @property
    def max_blocks(self) -> int | None:
        """Blocks a session can have; None: endless."""
        return None if self.rope == "window" else self.max_positions // self.block_frames


MAX_SIDE = 4096
FrameSide = Annotated[int, Field(ge=16, le=MAX_SIDE)]


@dataclass(frozen=True, config=STRICT)
class VideoConfig:
    """What playback expects."""

    width: FrameSide
    """Default width in pixels; a session may choose its own multiple of `size_multiple`."""
    height: FrameSide
    """Default height in pixels, as `width`."""
    fps: Annotated[float, Field(gt=0, le=240)] = 16.0
    """Playback speed that the model was trained for."""
    vae_factor: Literal[8, 16] = 8
    """Pixels along a side of a latent pixel: 8 with the VAE of Wan 2.1, 16 with that of Wan 2.2."""

    @model_validator(mode="after")
    def _check(self) -> "VideoConfig":
        for name in ("width", "height"):
            if complaint := self.side_complaint(getattr(self, name)):
                raise ValueError(f"{name} {complaint}")
        return self

    @property
    def size_multiple(self) -> int:
        """Pixels that a token covers along each side; a frame has whole tokens."""
        return 2 * self.vae_factor

    def side_complaint(self, pixels: int) -> str:
        """What is wrong with a frame's side; empty: nothing."""
        least = self.size_multiple
        if pixels % least or not least <= pixels <= MAX_SIDE:
            return f"{pixels} is not a multiple of {least} in {least}..{MAX_SIDE}"
        return ""


@dataclass(frozen=True, config=STRICT)
class FileConfig:
    """One weights file and where it comes from."""

    repo: str
    """Hub id, `owner/name`."""
    path: str
    """File inside the repository, or a folder of (sharded) safetensors."""
    key: str | None = None
    """Top-level key of a `.pt` file that holds the tensors; None: the file is flat."""


@dataclass(frozen=True, config=STRICT)
class LoraConfig(FileConfig):
    """A low-rank update merged into the transformer at load. docs/engine.md says which forms are taken."""

    rank: Positive | None = None
    """Width that each pair must have; None: whatever the file has."""
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """For a file that does not tell its own alpha: the update is scaled by alpha / rank; None: by 1."""
    strength: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """Multiplies all that the file adds."""


@dataclass(frozen=True, config=STRICT)
class ListedLora:
    """A LoRA that sessions may use: low-rank pairs of the layers' Linears, kept beside the weights."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    """What sessions call it: 1 to 64 lower-case letters, digits, `.`, `_`, `-`, a letter or digit first."""
    path: Annotated[str, Field(min_length=1)]
    """File, or a folder of PEFT; with `repo` inside that repository."""
    repo: str | None = None
    """Hub id, `owner/name`; None: it is on this machine."""
    licence: Annotated[str, Field(max_length=128)] = "unknown"
    """SPDX id or the licence's own name; shown where a user picks it."""
    commercial_use: bool = False
    """Whether the licence allows it."""
    key: str | None = None
    """As of a file of the card; so are `rank` and `alpha`."""
    rank: Positive | None = None
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


MAX_LORAS = 16
"""That an engine may list."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, Mapping) else value


@dataclass(frozen=True, config=STRICT)
class FilesConfig:
    """Everything a model is loaded from."""

    transformer: FileConfig
    vae: FileConfig
    text_encoder: FileConfig
    tokenizer: FileConfig
    lora: Annotated[tuple[LoraConfig, ...], BeforeValidator(_listed)] = ()
    """`[files.lora]`, or `[[files.lora]]` for several, whose updates add up."""


@dataclass(frozen=True, config=STRICT)
class ModelCard:
    """One model: dimensions, sampling, window, video, files, licence."""

    name: str
    """What `--model` takes."""
    title: str
    """One line for people."""
    licence: str
    """SPDX id or the licence's own name; shown where a user picks the model."""
    commercial_use: bool
    source: str
    """Address of the model's page, or `this repository`."""
    transformer: TransformerConfig
    sampling: SamplingConfig
    video: VideoConfig
    window: WindowConfig = field(default_factory=WindowConfig)
    files: FilesConfig | None = None
    """Published weights; None: the model has none."""
    bundled: Annotated[str, Field(pattern=r"^\w+(/[\w-]+)+$")] | None = None
    """Folder inside an installed package that holds the weights, `package/folder`; not beside `files`."""
    vae: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of diffusers' AutoencoderKLWan for random weights; empty: the Wan 2.1 VAE."""
    note: str = ""
    """What a user should know: where this differs from the reference, what is not verified."""
    image_start: Literal["first_frame", "clip"] = "clip"
    """How it begins from a picture: `first_frame`, it was made for that, and takes it as the clean first
    latent frame of block 0; `clip`, it goes on from a clip that shows the picture and stands still."""
    still_blocks: Annotated[int, Field(ge=1, le=16)] = 1
    """Length of that clip. No meaning with `first_frame`."""
    start_note: Annotated[str, Field(max_length=512)] = ""
    """For people: how well it begins from a picture or a clip. Empty: nobody has tried."""
    example_prompts: Annotated[tuple[ExamplePrompt, ...], Field(max_length=32)] = ()
    """Shown where a user writes a prompt: what the model is good at, in wording that it knows. At most 32."""

    @model_validator(mode="after")
    def _check(self) -> "ModelCard":
        if self.files and self.bundled:
            raise ValueError("files and bundled exclude each other")
        if self.image_start == "first_frame" and self.window.block_frames == 1:
            raise ValueError("image_start first_frame needs blocks of more than one frame")
        return self

    @property
    def has_weights(self) -> bool:
        """Whether the card names a place of weights; if not, it runs on random ones unless some are given."""
        return bool(self.files or self.bundled)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Shape [F, C, h, w] of one block's latents, from pixels."""
        factor = self.video.vae_factor
        return (self.window.block_frames, self.transformer.in_channels, height // factor, width // factor)

    def grid(self, height: int, width: int) -> tuple[int, int, int]:
        """Tokens of a block in time, height and width, from pixels."""
        size = self.video.size_multiple
        return (self.window.block_frames, height // size, width // size)

    def tokens_per_block(self, height: int, width: int) -> int:
        return math.prod(self.grid(height, width))

    def num_frames(self, block: int) -> int:
        """RGB frames of a block: the VAE is 4x in time, but the first latent frame gives one."""
        return 4 * self.window.block_frames - (3 if block == 0 else 0)

    def session_bytes(self, height: int, width: int, bytes_per_value: int = 2) -> int:
        """Memory of one session on each rank, whatever its stagger: KV cache, text caches, and the keys and
        values in flight of the full cascade."""
        dims, window = self.transformer, self.window
        kv_token = 2 * dims.num_layers * dims.dim * bytes_per_value
        # The sink's keys lie there twice where they move (`rope = window`, which an engine may ask for).
        cached_blocks = 1.5 * window.sink_blocks + window.window_blocks
        tokens = self.tokens_per_block(height, width)
        in_flight = 2 * self._most_blocks * tokens * dims.dim * bytes_per_value
        text_tokens = self.max_text_caches * dims.text_len
        return int(kv_token * (cached_blocks * tokens + text_tokens)) + in_flight

    @property
    def max_text_caches(self) -> int:
        """Of one session, on one rank: each block of a tick may have its own prompt, and so may the block
        that starts next."""
        return self._most_blocks + 1

    @property
    def _most_blocks(self) -> int:
        """Of one tick: the full cascade's, or those that a session is primed with."""
        window = self.window
        return max(self.sampling.num_passes, 2 * window.sink_blocks + window.window_blocks + window.can_cut)


@dataclass(frozen=True, config=STRICT)
class EngineConfig:
    """How one engine runs one model. Checked against the card by `check_engine`."""

    model: str
    """Name of a model card; see `cascade-engine models`."""
    weights: str | None = None
    """Folder or file of the checkpoint, hub id, `random`, or None: where the card says (an installed
    package, or the hub and its cache)."""
    num_ranks: Annotated[int, Field(ge=1, le=16)] = 1
    """Rank processes; on CUDA one GPU each, so in Kubernetes equal to the pod's `nvidia.com/gpu`."""
    stagger: Stagger = 1
    """Passes a block makes before its successor starts: 1 is the full cascade, P is sequential. For sessions
    that ask for none."""
    allowed_staggers: tuple[Stagger, ...] | None = None
    """Those that a session may ask for; None: 1 to P."""
    inflight_attention: InflightAttention = "bidirectional"
    """Whether a block sees the noisier blocks behind it (paper's default) or only those before it. For
    sessions that ask for none."""
    allowed_inflight_attentions: tuple[InflightAttention, ...] | None = None
    """Those that a session may ask for; None: both."""
    window_counts_behind: bool = True
    """Whether the noisier blocks behind that a block sees count towards its window: it then sees no more than
    the model was trained with, and the slowest of five ranks has a fifth less to do. The block right before
    stays in view. The demo model looks as good with it; larger ones are not measured."""
    switch_set_back: Annotated[int, Field(ge=0, le=16)] = 2
    """Passes that blocks in flight go back by at an `immediate` switch, so that they follow the new prompt:
    as many ticks bring no block. 0: they go on, and those nearly done mix both prompts."""
    rope: Rope | None = None
    """None: what the card says."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a GPU."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on CUDA, float32 on CPU."""
    quantize: Quantize = "none"
    """fp8: the layers' matrix products in FP8, weights by row and activations by token, which halves the
    model's memory; conditioning, head, keys and values keep `dtype`. For GPUs of compute capability 8.9 and
    newer (Ada, Hopper, Blackwell); slow on a CPU. The demo model looks as good with it; larger ones are not
    measured."""
    quantize_attention: bool = False
    """Self-attention in 8 bits, by FlashAttention 3 (Hopper) or SageAttention 2 (compute capability 8.9, 9.0,
    12.x), whichever is installed; cached keys and values keep `dtype`. Independent of `quantize`.
    Experimental: not yet shown to look as good."""
    compile: bool | None = None
    """torch.compile of the layers, at start and never later: the first start takes a minute longer. None: on
    CUDA, where there are Triton and a C compiler."""
    compile_cache: Annotated[str, Field(min_length=1)] | None = None
    """Folder that keeps what was compiled, so that later starts do without that minute; who can write there
    can run code in the ranks. None: TORCHINDUCTOR_CACHE_DIR, or `cascade-engine/compiled` in the user's cache
    folder."""
    max_sessions: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Sessions open at once; None: as many as fit in memory."""
    max_pixels: Annotated[int, Field(ge=256)] | None = None
    """Largest width x height of a session, so that nobody's size makes a tick miss its deadline; None: four
    times the card's."""
    tick_deadline_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    """A tick that takes longer counts as hung: the ranks are restarted. Keep it well under the gateway's
    own patience, and above the slowest honest tick."""
    request_deadline_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 120.0
    """Time the ranks have to answer an open or to embed a prompt (UMT5-XXL on a CPU takes seconds)."""
    start_deadline_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 900.0
    """Time the ranks have to load weights; the start-up probe must allow more."""
    loras: Annotated[tuple[ListedLora, ...], Field(max_length=MAX_LORAS)] = ()
    """LoRAs that a session may use, at most 16, of rank 512 at most, kept in memory beside the weights:
    `name`, `path` (with `repo`: on the hub), `licence`, `commercial_use`, and for files that do not tell them
    `alpha`, `rank` and `key`. Tables in a file, a JSON list in a variable."""
    threads_per_rank: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of a rank; None: OMP_NUM_THREADS, else the cores shared out evenly."""
    text_cache_entries: Annotated[int, Field(ge=1, le=4096)] = 64
    """Prompt embeddings kept (least recently used go first)."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of random weights; a session's noise has its own."""


def allowed_staggers(config: EngineConfig, card: ModelCard) -> tuple[int, ...]:
    """What a session may ask for, ascending."""
    return tuple(sorted(set(config.allowed_staggers or range(1, card.sampling.num_passes + 1))))


def allowed_attentions(config: EngineConfig) -> tuple[InflightAttention, ...]:
    """What a session may ask for."""
    known = get_args(InflightAttention)
    return tuple(each for each in known if each in (config.allowed_inflight_attentions or known))


def check_engine(config: EngineConfig, card: ModelCard) -> None:
    """Raise InvalidConfig where the engine's settings do not fit the model, or each other."""
    num_passes = card.sampling.num_passes
    for name, most in (("stagger", config.stagger), ("allowed_staggers", allowed_staggers(config, card)[-1])):
        if most > num_passes:
            raise InvalidConfig(f"{name}: {most} is not in 1..{num_passes} (passes per block)")
    for name, value, allowed in (
        ("stagger", config.stagger, allowed_staggers(config, card)),
        ("inflight_attention", config.inflight_attention, allowed_attentions(config)),
    ):
        if value not in allowed:
            listed = ", ".join(map(str, allowed))
            raise InvalidConfig(f"{name}: {value}, the default, is not one of allowed_{name}s: {listed}")
    names = [lora.name for lora in config.loras]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise InvalidConfig(f"loras: {', '.join(twice)} is listed twice")
    widths = {name: getattr(card.transformer, name) for name in ("dim", "ffn_dim")}
    if config.quantize == "fp8" and any(width % FP8_MULTIPLE for width in widths.values()):
        listed = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise InvalidConfig(
            f"quantize: fp8 needs widths in multiples of {FP8_MULTIPLE}, {card.name} has {listed}"
        )
    if config.num_ranks > num_passes:
        raise InvalidConfig(
            f"num_ranks: {config.num_ranks} is not in 1..{num_passes} (passes per block): the rest would idle"
        )


def uses_random_weights(config: EngineConfig, card: ModelCard) -> bool:
    """Whether weights are random: asked for, or because the card has none and none are given."""
    return config.weights == RANDOM or (config.weights is None and not card.has_weights)


def make(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build a configuration object, or raise InvalidConfig with one line per wrong field."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise InvalidConfig(complaints(error)) from None


def complaints(error: ValidationError) -> str:
    """One `field: what is wrong` per wrong field."""
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or error.title}: {item['msg']}"
        for item in error.errors()
    )


@cache
def load_cards() -> dict[str, ModelCard]:
    """All cards shipped with the package, by name."""
    folder = files("cascade_core") / "cards"
    cards = (load_card_file(Path(str(entry))) for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return {card.name: card for card in sorted(cards, key=lambda card: card.name)}


def load_card_file(path: Path) -> ModelCard:
    """Read one card. Raises InvalidConfig that names the file and the field."""
    try:
        return make(ModelCard, tomllib.loads(path.read_text()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, InvalidConfig, OSError) as error:
        raise InvalidConfig(f"model card {path}: {error}") from None


def find_card(model: str) -> ModelCard:
    """The card of that name, or the card in that TOML file. Raises UnknownModel or InvalidConfig."""
    if model.endswith(".toml"):
        return load_card_file(Path(model))
    cards = load_cards()
    if model not in cards:
        raise UnknownModel(
            f"model {model!r} is unknown; known: {', '.join(cards)}, or a path to a .toml card"
        )
    return cards[model]
