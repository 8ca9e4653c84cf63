"""Tests of this folder need a CUDA device; elsewhere they are skipped."""

import pytest
import torch


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The first CUDA device, with float32 convolutions in float32 rather than TF32."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.cuda.set_device(0)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return torch.device("cuda", 0)
