"""Tests of this folder need a CUDA device; elsewhere they are skipped."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def device() -> Iterator[torch.device]:
    """The first CUDA device, with float32 convolutions in float32 rather than TF32."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.cuda.set_device(0)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield torch.device("cuda", 0)
