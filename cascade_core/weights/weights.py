"""Checkpoints in, a loaded model out: read in any published layout, merge the LoRA, check, load."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cascade_core.config import ModelCard
from cascade_core.errors import WeightsError
from cascade_core.fp8 import FP8, quantize
from cascade_core.weights.ahead import read_ahead
from cascade_core.weights.checkpoint import is_usable, read_tensors
from cascade_core.weights.layouts import diffusers_vae, original_transformer, transformers_umt5
from cascade_core.weights.locate import ModelFiles
from cascade_core.weights.lora import merge, read_lora
from cascade_core.weights.scaled import ScaledTensor
from cascade_core.weights.shards import reading

TRANSFORMER_KEYS = ("generator_ema", "generator", "model", "state_dict")
"""Where training code keeps the tensors, in the order tried after the card's own key."""

KeepFloat32 = Callable[[str], bool]


def read_transformer(card: ModelCard, files: ModelFiles) -> dict[str, Tensor]:
    """The transformer's tensors in our (the original Wan) names, with what its LoRA files add.

    Raises WeightsError for a file that is damaged, unsafe or ambiguous; whether the names fit the model
    is for `load_state` to say.
    """
    config = card.files and card.files.transformer
    keys = (config.key,) if config and config.key else ()
    with reading(files.transformer):
        state = original_transformer(read_tensors(files.transformer, keys + TRANSFORMER_KEYS))
    return merge(state, [update for lora, path in files.lora for update in read_lora(path, lora, state)])


def load_state(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: Path | str,
    device: torch.device,
    dtype: torch.dtype,
    keep_float32: KeepFloat32 = lambda _name: False,
) -> None:
    """Give a model on the meta device the tensors of `state`, cast and moved one by one.

    A tensor under two names (tied parameters) stays one tensor. A parameter that the model has in FP8 is
    quantized on the device before the next is moved.
    Raises one WeightsError that names `source`, where the tensors come from, and every missing, surplus,
    misshapen and unusable key; or, found while casting, every tensor with NaN or infinity.
    """
    expected, quantized = _expected(model)
    _check_state(expected, state, source)
    copies: dict[tuple[int, torch.dtype, bool], tuple[Tensor, ...]] = {}
    placed: dict[str, Tensor] = {}
    sums: dict[str, Tensor] = {}
    for name, tensor in read_ahead(state.items()):
        key = (id(tensor), torch.float32 if keep_float32(name) else dtype, name in quantized)
        if key not in copies:
            copies[key], sums[name] = _copy(tensor, device, key[1], is_quantized=name in quantized)
        placed |= zip((name, f"{name}_scale"), copies[key], strict=False)
    _check_finite(sums, source)
    model.load_state_dict(placed, assign=True)


def _copy(
    tensor: Tensor, device: torch.device, dtype: torch.dtype, *, is_quantized: bool
) -> tuple[tuple[Tensor, ...], Tensor]:
    """As the model has it, and a sum that is finite only where all of it is."""
    if is_quantized and isinstance(tensor, ScaledTensor) and tensor.is_by_row:
        values, scales = tensor.coded.to(device), tensor.scales.to(device)
        return (values, scales), values.float().sum() + scales.sum()
    cast = tensor.to(device, dtype)
    return (quantize(cast, dim=(1,)) if is_quantized else (cast,)), cast.sum()


def randomize(
    model: nn.Module, seed: int, device: torch.device, dtype: torch.dtype, keep_float32: KeepFloat32
) -> None:
    """Give a model on the meta device random weights, made on `device` and the same on each rank.

    Matrices have a standard deviation of 1 / sqrt(fan-in), so activations keep their scale layer after
    layer; biases are 0 and norm weights 1.
    """
    generator = torch.Generator(device).manual_seed(seed)
    expected, quantized = _expected(model)
    state: dict[str, Tensor] = {}
    for name, meta in expected.items():
        made = _random(name, meta.shape, generator, torch.float32 if keep_float32(name) else dtype)
        parts = quantize(made, dim=(1,)) if name in quantized else (made,)
        state |= zip((name, f"{name}_scale"), parts, strict=False)
    model.load_state_dict(state, assign=True)


def read_text_encoder(path: Path) -> dict[str, Tensor]:
    """An original Wan UMT5 `.pth` as the state of transformers' `UMT5EncoderModel`."""
    with reading(path):
        return transformers_umt5(read_tensors(path))


def read_vae(path: Path) -> dict[str, Tensor]:
    """An original `Wan2.1_VAE.pth` or `Wan2.2_VAE.pth`, or one of other widths, as the state of diffusers'
    `AutoencoderKLWan`."""
    with reading(path):
        return {diffusers_vae(name): tensor for name, tensor in read_tensors(path).items()}


def _expected(model: nn.Module) -> tuple[dict[str, Tensor], set[str]]:
    """What a checkpoint has to bring, and what of it the model has in FP8, with a scale for each row."""
    state = model.state_dict()
    quantized = {name for name, meta in state.items() if meta.dtype is FP8}
    scales = {f"{name}_scale" for name in quantized}
    return {name: meta for name, meta in state.items() if name not in scales}, quantized


def _check_state(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: Path | str) -> None:
    shared = [name for name in expected if name in state]
    usable = [name for name in shared if is_usable(state[name])]
    complaints = {
        "missing": [name for name in expected if name not in state],
        "surplus": [name for name in state if name not in expected],
        "misshapen": [
            f"{name} {list(state[name].shape)} instead of {list(expected[name].shape)}"
            for name in usable
            if state[name].shape != expected[name].shape
        ],
        "not dense floating point": [
            f"{name} ({_kind(state[name])})" for name in shared if not is_usable(state[name])
        ],
    }
    found = {kind: names for kind, names in complaints.items() if names}
    if found:
        counts = ", ".join(f"{len(names)} {kind}" for kind, names in found.items())
        lists = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in found.items())
        raise WeightsError(f"{source}: the checkpoint does not fit the model ({counts}); {lists}")


def _check_finite(sums: Mapping[str, Tensor], source: Path | str) -> None:
    """A sum is finite only where every value is, and costs one pass over what was just cast."""
    if bad := [name for name, total in sums.items() if not total.isfinite()]:
        raise WeightsError(f"{source}: {len(bad)} tensors hold NaN or infinity: {', '.join(bad)}")


def _kind(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "meta, without values"
    layout = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
    return f"{layout} {str(tensor.dtype).removeprefix('torch.')}"


def _random(name: str, shape: torch.Size, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype, device=generator.device)
    if len(shape) > 1:
        return tensor.normal_(std=1 / math.sqrt(shape[1:].numel()), generator=generator)
    return tensor.fill_(1.0 if name.endswith(".weight") else 0.0)
