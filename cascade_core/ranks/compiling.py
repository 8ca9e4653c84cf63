"""torch.compile of the layers: the element-wise parts between the attentions become a few kernels.

All of it happens at start. Two forms serve every session: one block, and several; how many, and how many
tokens each has, is left open. Where LoRAs are listed there are two more, with low-rank products of any width.
A shape that none fits would run uncompiled (`never_again`).
"""

import errno
import os
import shutil
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from cascade_core.config import EngineConfig, ModelCard
from cascade_core.errors import InvalidConfig
from cascade_core.model.lora_bank import LoraBank
from cascade_core.model.low_rank import NONE, LayerLow
from cascade_core.model.model import CausalWanModel, Layer


def wants_compiling(config: EngineConfig, device: torch.device) -> bool:
    """As asked for; if nobody did, on CUDA, and where the tools are there."""
    if config.compile is None:
        return device.type == "cuda" and not missing_tool(device)
    return config.compile


def missing_tool(device: torch.device) -> str:
    """What compiling for the device lacks here; empty: nothing."""
    on_cuda = device.type == "cuda"
    variable, names = ("CC", ("gcc", "clang")) if on_cuda else ("CXX", ("g++", "clang++"))
    if variable not in os.environ and not any(map(shutil.which, names)):
        return f"a compiler ({' or '.join(names)})"
    return "Triton" if on_cuda and not find_spec("triton") else ""


def compile_model(
    model: CausalWanModel, config: EngineConfig, card: ModelCard, loras: LoraBank | None = None
) -> bool:
    """Compile the layers if that is wanted, and say whether. Raises InvalidConfig where it cannot be."""
    if not wants_compiling(config, model.device):
        return False
    if lacking := missing_tool(model.device):
        raise InvalidConfig(f"compile: needs {lacking}; false does without")
    use_cache(config.compile_cache)
    compile_layers(model, card.tokens_per_block(card.video.height, card.video.width), loras)
    return True


def compile_layers(model: CausalWanModel, tokens: int, loras: LoraBank | None = None) -> None:
    """Compile all layers for any number of blocks and tokens; for `tokens` a block they are fastest."""
    for layer in model.layers:
        compile_layer(layer)
    meet_forms(next(iter(model.layers)), model, tokens, loras)


def use_cache(folder: str | None) -> None:
    """Keep what is compiled there; None: where TORCHINDUCTOR_CACHE_DIR says, or in the user's cache folder.

    Raises InvalidConfig where the folder that was asked for cannot be written to.
    """
    # In this process: a pool of compilers beside each rank takes gigabytes, for seconds of the first start.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    if folder is None and "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    path = Path(folder) if folder else default_cache()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "may not be written to")
    except OSError as error:
        if folder:
            raise InvalidConfig(f"compile_cache: {folder}: {error.strerror}") from None
    else:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(path)


def default_cache() -> Path:
    """In the user's folder for what can be made again."""
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "cascade-engine" / "compiled"


def compile_layer(layer: Layer) -> None:
    """Fuse the element-wise parts between the attentions.

    The attentions stay outside: `read_text` groups blocks by the identity of their text cache, which, if
    traced, would compile anew for every layer and every prompt.
    """
    layer.key_value = torch.compile(layer.key_value)  # type: ignore[method-assign]
    layer.query = torch.compile(layer.query)  # type: ignore[method-assign]
    layer.after_attention = torch.compile(layer.after_attention)  # type: ignore[method-assign]
    layer.feed_forward = torch.compile(layer.feed_forward)  # type: ignore[method-assign]


@torch.inference_mode()
def meet_forms(layer: Layer, model: CausalWanModel, tokens: int, loras: LoraBank | None = None) -> None:
    """Have one block and several compiled; all layers share what was made for one of them."""
    for num_blocks in (1, 2):
        for low in (NONE, loras.samples(num_blocks)) if loras else (NONE,):
            meet_form(layer, model, num_blocks, max(2, tokens), low)  # a size of 1 never stands for others


def meet_form(layer: Layer, model: CausalWanModel, num_blocks: int, tokens: int, low: LayerLow) -> None:
    """2 blocks stand for any number above 1."""
    dims = model.config
    zeros = partial(torch.zeros, dtype=model.dtype, device=model.device)
    hidden, read = (any_size(zeros(num_blocks, tokens, dims.dim), 0, 1) for _ in range(2))
    attended = any_size(zeros(num_blocks, tokens, dims.num_heads, dims.head_dim), 0, 1)
    modulation = any_size(zeros(6, num_blocks, 1, dims.dim), 1)
    turns = any_size(zeros(num_blocks, tokens, 1, dims.head_dim // 2, 2).float(), 0, 1)
    low = {
        target: (any_size(a, 0), any_size(b, 0), any_size(scales, 0, 2))
        for target, (a, b, scales) in low.items()
    }
    normed, *_ = layer.key_value(hidden, modulation, turns, low)
    layer.query(any_size(normed, 0, 1), turns, low)
    layer.after_attention(hidden, attended, modulation, low)
    layer.feed_forward(hidden, read, modulation, low)


def any_size(x: Tensor, *dims: int) -> Tensor:
    """Has the compiler leave these sizes of x open, but for 1, which it takes as it is."""
    for dim in dims:
        if x.shape[dim] > 1:
            torch._dynamo.mark_dynamic(x, dim)
    return x


def never_again() -> None:
    """From now on this process compiles nothing: a session never waits for it."""
    torch.compiler.set_stance("eager_on_recompile")
