"""Whether this tier notices: each kind of fault that it is there for, planted."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError

from benchmarks.trace.cases import BUDGETED, Case, budget, trace
from benchmarks.trace.counts import HostWaits
from benchmarks.trace.fake_cuda import CUDA
from benchmarks.trace.refusals import NotOnCuda
from cascade_core.attention import attention
from cascade_core.attention.attention import Kernel, Partial, kernels
from cascade_core.config import find_card
from cascade_core.model.model import Attention
from tests.cuda_dry.support import Rank, rank, shallow
from tests.cuda_dry.test_budgets import committed, excess


def run_with(kernel: Kernel) -> Rank:
    """A block of the demo model, whose attention is by this kernel."""
    with rank(shallow("demo"), kernel=kernel) as one:
        one.run(1)
        return one


def beside(fault: Callable[[Tensor], object]) -> Kernel:
    """The preferred kernel, after something else was done with the queries."""

    def kernel(query: Tensor, key: Tensor, value: Tensor) -> Partial:
        fault(query)
        return next(iter(kernels("cuda", query.dtype).values()))(query, key, value)

    return kernel


def test_without_a_fault_nothing_is_said() -> None:
    run_with(beside(lambda query: None)).check()


def test_a_type_that_does_not_fit() -> None:
    with rank(shallow("demo")) as one:
        one.runner.model.blocks[0].ffn[0].to(torch.float32)
        with pytest.raises(NotOnCuda, match="addmm: takes one type"):
            one.run(1)


def test_attention_in_a_type_that_its_kernel_lacks() -> None:
    with pytest.raises(NotOnCuda, match="takes one type"):
        run_with(lambda query, key, value: attention._cuda_flash(query, key, value.float()))
    with pytest.raises(NotOnCuda, match="half precision alone"):
        run_with(lambda *tensors: attention._cuda_flash(*(each.float() for each in tensors)))


def test_another_device() -> None:
    with rank(shallow("demo")) as one:
        norm = one.runner.model.blocks[0].norm3
        norm.weight = nn.Parameter(torch.ones(norm.weight.shape, dtype=norm.weight.dtype))
        with pytest.raises(FakeTensorDeviceMismatchError):
            one.run(1)


def test_an_operator_that_cuda_lacks() -> None:
    with pytest.raises(NotOnCuda, match="flash_attention_for_cpu: CUDA has no kernel for it"):
        run_with(attention._cpu)


ASKED = {
    "item": lambda x: x.sum().item(),
    "truth": lambda x: bool(x.isfinite().all()),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "masked assignment": lambda x: x.__setitem__(x > 0, x.new_empty(3)),
    "list": lambda x: x.tolist(),
    "comparison": lambda x: torch.equal(x, x),
}


@pytest.mark.parametrize("name", ASKED)
def test_a_value_that_the_host_asks_for(name: str) -> None:
    with pytest.raises(HostWaits, match=r"the host waits for .* at cuda_dry/test_faults\.py:\d+"):
        run_with(beside(ASKED[name]))


WAITING = {
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu", non_blocking=True),
    "copy": lambda x: torch.empty(x.shape, dtype=x.dtype).copy_(x),
    "blocking": lambda x: torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x),
    "upload": lambda x: torch.zeros(3).to(CUDA, non_blocking=True),
    "constant": lambda x: torch.tensor([1.0, 2.0], device=CUDA),
    "index": lambda x: x[[0, 1]],
    "synchronize": lambda x: torch.cuda.synchronize(),
    "event": lambda x: torch.cuda.current_stream().record_event().synchronize(),
}


def test_each_copy_that_the_host_waits_for() -> None:
    """All at once; each stands in a line of its own."""
    one = run_with(beside(lambda x: [wait(x) for wait in WAITING.values()]))
    lines = {wait.partition(" at ")[2] for wait in one.waits}
    expected = {f"cuda_dry/test_faults.py:{wait.__code__.co_firstlineno}" for wait in WAITING.values()}
    assert lines == expected
    with pytest.raises(AssertionError):
        one.check()


def test_a_pinned_copy_is_none() -> None:
    run_with(beside(lambda x: torch.zeros(3).pin_memory().to(CUDA, non_blocking=True))).check()


def test_memory_that_a_session_keeps() -> None:
    kept: list[Tensor] = []
    one = run_with(beside(lambda query: kept.append(query.new_empty(2**20))))
    with pytest.raises(AssertionError, match="more than session_bytes says"):
        one.check()


def test_memory_that_a_tick_takes() -> None:
    one = run_with(beside(lambda query: query.new_empty(2**33)))
    with pytest.raises(AssertionError, match="more than is left for activations"):
        one.check()


def test_one_cast_more(monkeypatch: pytest.MonkeyPatch) -> None:
    query = Attention.query
    monkeypatch.setattr(Attention, "query", lambda self, x, *rest: query(self, x.float().to(x.dtype), *rest))
    case = Case("demo", find_card("demo"), 1, 5, "bidirectional")
    over = excess(budget(trace(case, limit=5), case), committed(case))
    assert [line.partition(":")[0] for line in over] == list(BUDGETED)
