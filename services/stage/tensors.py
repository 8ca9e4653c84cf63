"""Latents on the wire and as arrays. The data is copied once on its way out, and in float32 not at all on its
way in. NumPy has no bfloat16: it is the upper half of a float32."""

import numpy as np
from numpy.typing import NDArray

from cascade.v1 import common_pb2
from cascade_core.arrays import Array, Latents, as_array
from services.common.validation import InvalidField, check_tensor

FLOAT32, BFLOAT16 = common_pb2.DATA_TYPE_FLOAT32, common_pb2.DATA_TYPE_BFLOAT16
NAN = 0x7FC0


def to_tensor(latents: Latents, dtype: common_pb2.DataType.ValueType) -> common_pb2.Tensor:
    """`latents` [F, C, h, w]; DATA_TYPE_UNSPECIFIED: float32."""
    dtype = dtype or FLOAT32
    values = np.ascontiguousarray(as_array(latents))
    data = (upper_halves(values) if dtype == BFLOAT16 else values).tobytes()
    return common_pb2.Tensor(dtype=dtype, shape=list(latents.shape), data=data)


def from_tensor(field: str, tensor: common_pb2.Tensor, shape: tuple[int, ...]) -> Array:
    """Latents as float32, to be read only. `field`: its path, for the InvalidField that it raises unless the
    tensor has that shape, as many bytes as that takes, and finite numbers."""
    if tuple(tensor.shape) != shape:
        raise InvalidField([(f"{field}.shape", f"must be {list(shape)}, not {list(tensor.shape)}")])
    check_tensor(field, tensor)
    if tensor.dtype == BFLOAT16:
        values = (np.frombuffer(tensor.data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(tensor.data, np.float32)
    if not np.isfinite(values).all():
        raise InvalidField([(f"{field}.data", "must be finite numbers")])
    return values.reshape(shape)


def upper_halves(values: Array) -> NDArray[np.uint16]:
    """Rounded to the nearest, and to an even one between two."""
    bits = values.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), NAN, rounded).astype(np.uint16)
