"""What a compiled engine spares: kernels and element-wise bytes of what it compiles, eager and fused.

Inductor fuses the very functions that `compile_layer` hands to it, at the model's own size on tensors without
data. It is told that they are on a CPU, since it looks for a GPU before it plans for one, and stops before it
writes code: so these are its own plans for a CPU, which splits and joins kernels at much the same places.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import ExternKernelSchedulerNode, NopKernelSchedulerNode
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.trace.cases import Case, Row, Session, counting_cuda
from benchmarks.trace.fake_cuda import CUDA
from cascade_core.attention.exchange import SoloExchange
from cascade_core.config import Quantize, TransformerConfig
from cascade_core.model.fp8 import quantize_linears
from cascade_core.model.model import Layer, keep_float32
from cascade_core.ranks.compiling import compile_layer
from cascade_core.ranks.loading import build_model
from cascade_core.ranks.runner import Runner

PRODUCTS = "addmm", "mm", "bmm", "_scaled_mm"


@dataclass(frozen=True)
class Spec:
    """A tensor without the tensor."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def make(self) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype)


@dataclass(frozen=True)
class Call:
    """One call of a function that is compiled."""

    name: str
    """Of the method of `Layer`."""
    arguments: tuple[Any, ...]
    """With a Spec in the place of each tensor."""
    kernels: int
    """Of every kind but matrix products, eager."""
    elementwise_bytes: int


def spared(case: Case) -> Row:
    """Kernels of a tick, and bytes for each of a rank's blocks."""
    card = case.card
    calls = record(case)
    lowered = [fused(card.transformer, call, case.quantize) for call in calls]
    layers = card.transformer.num_layers
    return {
        "model": case.model,
        "quantize": case.quantize,
        "kernels": layers
        * sum(call.kernels - kernels for call, (kernels, _) in zip(calls, lowered, strict=True)),
        "elementwise_bytes": layers
        * sum(call.elementwise_bytes - size for call, (_, size) in zip(calls, lowered, strict=True)),
    }


def record(case: Case) -> list[Call]:
    """The calls that one layer makes in a pass of one block."""
    card = replace(case.card, transformer=replace(case.card.transformer, num_layers=1))
    calls: list[Call] = []
    with counting_cuda() as counter:

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                with counter.counting() as counts:
                    result = function(*arguments)
                products = sum(counts.by_operator.get(name, [0])[0] for name in PRODUCTS)
                calls.append(
                    Call(
                        function.__name__,
                        described(arguments),
                        counts.kernels - products,
                        counts.elementwise_bytes,
                    )
                )
                return result

            return call

        model = build_model(card, None, 0, CUDA, torch.bfloat16, case.quantize)
        with patch.object(torch, "compile", counted):
            for layer in model.layers:
                compile_layer(layer)
        session = Session(Runner(model, card, case.shape, 0, SoloExchange()))
        session.tick()
        calls.clear()  # priming has more blocks at once
        session.tick()
    return calls


def described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Spec(tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, tuple):
        return tuple(map(described, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{field.name: described(getattr(value, field.name)) for field in fields(value)}
        )
    return value


def made(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.make()
    if isinstance(value, tuple):
        return tuple(map(made, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: made(getattr(value, field.name)) for field in fields(value)})
    return value


def fused(config: TransformerConfig, call: Call, quantize: Quantize = "none") -> tuple[int, int]:
    """Kernels but matrix products, and the bytes that they read and write, as inductor plans them."""
    with FakeTensorMode(), torch.inference_mode(), lowering() as planned:
        layer = fake_layer(config)
        if quantize == "fp8":
            quantize_linears(layer)
        torch.compiler.reset()  # what earlier models left counts towards its limit
        with suppress(BackendCompilerFailed):
            compiled: Callable[..., Any] = torch.compile(getattr(layer, call.name))
            compiled(*made(call.arguments))
    (result,) = planned
    return result


def fake_layer(config: TransformerConfig) -> Layer:
    """In the types that a GPU's would have."""
    layer = Layer(config)
    for name, parameter in list(layer.named_parameters()):
        module, _, leaf = name.rpartition(".")
        dtype = torch.float32 if keep_float32(name) else torch.bfloat16
        empty = torch.empty(parameter.shape, dtype=dtype)
        setattr(layer.get_submodule(module), leaf, torch.nn.Parameter(empty, requires_grad=False))
    return layer


class _Enough(Exception):
    """All is known that is asked."""


@contextmanager
def lowering() -> Iterator[list[tuple[int, int]]]:
    """What inductor plans meanwhile, one entry for each graph; none is compiled."""
    planned: list[tuple[int, int]] = []

    def stop(graph: GraphLowering, *_: Any, **__: Any) -> None:
        graph.init_wrapper_code()
        graph._update_scheduler()
        nodes = [
            node
            for node in graph.scheduler.nodes
            if not isinstance(node, ExternKernelSchedulerNode | NopKernelSchedulerNode)
        ]
        planned.append((len(nodes), sum(node.get_read_write_buffers_sizes() for node in nodes)))
        raise _Enough

    with patch.object(GraphLowering, "codegen", stop):
        yield planned
