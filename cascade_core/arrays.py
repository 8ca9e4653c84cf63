"""Latents and embeddings between processes: NumPy arrays. Imports no torch, so that an engine's parent,
which computes nothing, need not load it."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainValidator

Array = NDArray[np.float32]

if TYPE_CHECKING:
    from torch import Tensor

    Latents = Tensor | Array
else:

    def _check(value: Any) -> Any:
        torch = sys.modules.get("torch")  # nobody has a tensor who has not imported it
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            return value
        if torch is not None and isinstance(value, torch.Tensor):
            return value
        raise ValueError("must be a tensor, or an array of floating point")

    Latents = Annotated[Any, PlainValidator(_check)]
"""What whoever opens a session may bring."""


def as_array(latents: Latents) -> Array:
    """As it travels."""
    if isinstance(latents, np.ndarray):
        return latents.astype(np.float32, copy=False)
    array: Array = latents.detach().cpu().float().numpy()
    return array
