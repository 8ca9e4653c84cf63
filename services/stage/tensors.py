"""Latents on the wire and in torch. The data is copied once on its way out, and in float32 not at all on its
way in."""

import warnings

import torch

from cascade.v1 import common_pb2
from services.common.validation import InvalidField, check_tensor

FLOAT32, BFLOAT16 = common_pb2.DATA_TYPE_FLOAT32, common_pb2.DATA_TYPE_BFLOAT16
TORCH_TYPES = {FLOAT32: torch.float32, BFLOAT16: torch.bfloat16}


def to_tensor(latents: torch.Tensor, dtype: common_pb2.DataType.ValueType) -> common_pb2.Tensor:
    """`latents` [F, C, h, w]; DATA_TYPE_UNSPECIFIED: float32."""
    dtype = dtype or FLOAT32
    values = latents.to(TORCH_TYPES[dtype]).contiguous()
    data = values.view(torch.uint8).numpy().tobytes()
    return common_pb2.Tensor(dtype=dtype, shape=list(latents.shape), data=data)


def from_tensor(field: str, tensor: common_pb2.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Latents as float32, to be read only. `field`: its path, for the InvalidField that it raises unless the
    tensor has that shape, as many bytes as that takes, and finite numbers."""
    if tuple(tensor.shape) != shape:
        raise InvalidField([(f"{field}.shape", f"must be {list(shape)}, not {list(tensor.shape)}")])
    check_tensor(field, tensor)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        latents = torch.frombuffer(tensor.data, dtype=TORCH_TYPES[tensor.dtype])
    if not latents.isfinite().all():
        raise InvalidField([(f"{field}.data", "must be finite numbers")])
    return latents.view(shape).float()
