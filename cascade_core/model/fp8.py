"""The layers' matrix products in FP8 (W8A8): weights by row at load, activations by token as they come.

All Linears inside the layers become FP8: those of both attentions and of the feed-forward, 300 in 30 layers.
What conditions them (time, text, modulation, patches) and the head stay as they are. So do keys and values: a
scale ends with its product. Source: LongLive 2.0, whose list it is; torchao's row-wise form.
"""

import torch
from torch import Tensor, nn

from cascade_core.config import EngineConfig
from cascade_core.errors import InvalidConfig
from cascade_core.fp8 import FP8, quantize
from cascade_core.model.model import CausalWanModel

LEAST_CAPABILITY = (8, 9)
"""Of a GPU whose tensor cores multiply FP8."""


class Fp8Linear(nn.Module):
    """A Linear whose product is in FP8; its output has the type of its input."""

    def __init__(self, linear: nn.Linear) -> None:
        """From a Linear with weights, or from one on meta, for `load_state` to fill."""
        super().__init__()
        weight = linear.weight.detach()
        if weight.is_meta:  # to compute there would import what `torch.compile` needs, which takes a second
            scale = weight.new_empty(len(weight), 1, dtype=torch.float32)
            weight = weight.to(FP8)
        else:
            weight, scale = quantize(weight, dim=(1,))
        self.weight = nn.Parameter(weight, requires_grad=False)  # [N, K]
        self.weight_scale = nn.Parameter(scale, requires_grad=False)  # [N, 1]
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., N] of [..., K]. Each token has a scale of its own, so none changes another."""
        values, scales = quantize(x.flatten(0, -2), dim=(1,))
        product = scaled_product(values, scales, self.weight, self.weight_scale, self.bias, x.dtype)
        return product.view(*x.shape[:-1], -1)


def scaled_product(
    x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """x [M, K] times weight [N, K] transposed, both in FP8 with a scale for each row: [M, N] in `dtype`.

    In torch 2.11 the public form (`torch.nn.functional.scaled_mm`) runs on no CPU, and torch.compile does not
    know it. Fast accumulation (Hopper's, of fewer bits) is torchao's default as well.
    """
    product: Tensor = torch._scaled_mm(
        x, weight.t(), x_scale, weight_scale.t(), bias=bias, out_dtype=dtype, use_fast_accum=True
    )
    return product


def quantize_model(model: CausalWanModel) -> None:
    """Put the Linears of all layers into FP8, one by one; a model on meta gets its weights later."""
    quantize_linears(model.blocks)


def quantize_linears(module: nn.Module) -> None:
    """Put all Linears below a module into FP8."""
    for name in [name for name, child in module.named_modules() if isinstance(child, nn.Linear)]:
        linear = module.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        module.set_submodule(name, Fp8Linear(linear))


def check_fp8(config: EngineConfig, device: torch.device, dtype: torch.dtype) -> None:
    """Raise InvalidConfig where `quantize` asks for what this device does not compute."""
    if config.quantize == "none" or device.type == "cpu":
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        found = f"{torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}"
        raise InvalidConfig(
            "quantize: fp8 needs GPUs of compute capability 8.9 or newer (Ada, Hopper, Blackwell), and "
            f"{found}; set it to none"
        )
    if dtype != torch.bfloat16:
        raise InvalidConfig("quantize: fp8 on a GPU needs dtype bfloat16, or auto")
