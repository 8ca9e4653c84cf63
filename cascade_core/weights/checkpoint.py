"""Reading tensors from files that may be damaged or hostile: nothing in a file is ever executed."""

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from cascade_core.errors import WeightsError
from cascade_core.weights.scaled import INSTEAD, is_torchao, join_scaled
from cascade_core.weights.shards import reading, shard_files

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
MAX_NAMED = 10
SCALED = re.compile(
    r"(?:^|\.)(?:scaled_fp8|scale_weight|weight_scale(?:_inv)?|scale_input|input_scale|comfy_quant)$"
)
"""Keys of files whose 8-bit weights mean nothing without them."""
NVFP4 = re.compile(r"(?:^|\.)(?:quantized_weight_\w+|weight_scale_2)$")
"""Keys of files whose weights have 4 bits: FourOverSix's (LongLive 2.0), ModelOpt's and ComfyUI's."""
QUANTIZERS = ("torchao.", "transformer_engine.", "fouroversix.")
"""Packages whose tensors are classes of their own."""


def read_tensors(path: Path, keys: Sequence[str] = ()) -> dict[str, Tensor]:
    """All tensors of a `.safetensors` file, a folder of them, or a pickled one (`PICKLES`), on the CPU.

    A pickle is searched for the first of `keys` at its top level, and else must itself be flat. Large
    files are mapped, not read: a tensor costs memory when it is first used.

    Raises WeightsError, with the file's name, for one that is absent, cut short, of another format, or
    holds anything but tensors.
    """
    state = _read(path, keys)
    _refuse_nvfp4(path, state)
    if scaled := next(filter(SCALED.search, state), None):
        raise WeightsError(f"{path}: scaled FP8 ({scaled}) is not supported; take the file in bf16 or fp16")
    return state


def _refuse_nvfp4(path: Path, names: Iterable[object]) -> None:
    if four_bit := next((name for name in map(str, names) if NVFP4.search(name)), None):
        raise WeightsError(f"{path}: NVFP4 ({four_bit}) is not supported; {INSTEAD}")


def read_metadata(path: Path) -> dict[str, str]:
    """What stands in a safetensors file, or in all of a folder, beside the tensors. Empty for other files."""
    files = shard_files(path) if path.is_dir() else [path]
    metadata: dict[str, str] = {}
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as content:
                metadata |= content.metadata() or {}
    return metadata


def _read(path: Path, keys: Sequence[str]) -> dict[str, Tensor]:
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in PICKLES:
        return _pick(path, _read_pickle(path), keys)
    raise WeightsError(f"{path}: unknown format; expected .safetensors, {', '.join(PICKLES)} or a folder")


def is_usable(tensor: Tensor) -> bool:
    """Dense floating-point numbers that are there (a nested tensor calls itself strided, too)."""
    is_dense = tensor.layout is torch.strided and not tensor.is_nested
    return is_dense and tensor.is_floating_point() and not tensor.is_meta


def _read_folder(folder: Path) -> dict[str, Tensor]:
    files = shard_files(folder)
    if not files:
        raise WeightsError(f"{folder}: no .safetensors file in this folder")
    state: dict[str, Tensor] = {}
    for file in files:
        shard = _read_safetensors(file)
        if twice := sorted(state.keys() & shard.keys()):
            raise WeightsError(f"{file}: repeats {_some(twice)}; keep one set of files per folder")
        state.update(shard)
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as content:
            metadata = content.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: damaged or not a safetensors file ({error}); fetch it again") from None
    if not is_torchao(metadata):
        return tensors
    with reading(path):
        return join_scaled(path, tensors, metadata)


def _read_pickle(path: Path) -> Any:
    try:
        # Only torch's zip format can be mapped; files from before torch 1.6 are read whole.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle stops at any byte, so with any exception
        raise WeightsError(f"{path}: {_pickle_complaint(error)}") from None


def _pickle_complaint(error: Exception) -> str:
    code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if code and code[1].startswith(QUANTIZERS):
        package = code[1].partition(".")[0]
        return f"holds quantized weights that only {package} can read from a pickle; {INSTEAD}"
    if code:
        return f"holds pickled code or objects ({code[1]}), which is refused; save plain tensors instead"
    return "damaged, cut short, or not a PyTorch checkpoint of plain tensors; fetch it again"


def _some(names: Sequence[str]) -> str:
    """A hint for an error message, cut after ten names."""
    rest = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _pick(path: Path, content: Any, keys: Sequence[str]) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not named tensors")
    found = next((content[key] for key in keys if isinstance(content.get(key), Mapping)), content)
    _refuse_nvfp4(path, found)
    others = [str(k) for k, value in found.items() if not (isinstance(k, str) and isinstance(value, Tensor))]
    if others and found is content:
        names = _some([str(name) for name in content])
        raise WeightsError(
            f"{path}: not flat, and none of {', '.join(keys)} at its top level, which has: {names}"
        )
    if others:
        raise WeightsError(f"{path}: not tensors: {', '.join(others)}")
    return dict(found)
