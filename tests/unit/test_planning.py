"""What a plan says: of operations and memory exactly, of speed in the right direction, of others' figures how
far it is off."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from benchmarks.trace.__main__ import card_of
from cascade_core.attention.exchange import SoloExchange
from cascade_core.attention.kv_cache import KvCache
from cascade_core.config import WindowConfig, find_card, load_cards
from cascade_core.errors import InvalidConfig, UnknownModel
from cascade_core.model.model import CausalWanModel, keep_float32
from cascade_core.planning.assumptions import assumptions
from cascade_core.planning.calibration import comparisons
from cascade_core.planning.counts import attention_flop, gathered_bytes, product_flop, views
from cascade_core.planning.gpus import find_gpu, load_gpus
from cascade_core.planning.memory import MEMORY_SHARE, num_sessions, session_budget, weights_bytes
from cascade_core.planning.pipeline import first_plans, measure, steady_plans
from cascade_core.planning.plan import CapacityPlan, PlanRequest, as_json, make_plan
from cascade_core.planning.timing import Roofline
from cascade_core.planning.traces import cases_of, find_overheads, load_traces, nearest
from cascade_core.ranks.runner import Runner
from cascade_core.schedule import Shape, sight

BIG = ("self-forcing-1.3b", "longlive-1.3b", "krea-14b")


def roofline(model: str = "self-forcing-1.3b", gpu: str = "h100", **changes: object) -> Roofline:
    card = find_card(model)
    tokens = card.tokens_per_block(card.video.height, card.video.width)
    data_sheet = replace(find_gpu(gpu), **changes)
    return Roofline(card, data_sheet, tokens, find_overheads(card, tokens, compiled=True))


def shape_of(model: str, num_ranks: int, stagger: int = 1, attention: str = "bidirectional") -> Shape:
    card = find_card(model)
    return Shape(card.sampling.num_passes, stagger, num_ranks, card.window, attention)


# Operations.


def test_operations_are_those_that_torch_counts() -> None:
    """Passes of the demo model on this machine, by PyTorch's own counter."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    on_cpu = {attention: lambda *shapes, **_: sdpa_flop_count(*shapes[:3])}
    card = find_card("demo")
    shape = shape_of("demo", 1, 5)
    with torch.device("meta"):
        model = CausalWanModel(card.transformer)
    model = model.to_empty(device="cpu")
    runner = Runner(model, card, shape, 0, SoloExchange())
    runner.open(0, 0, card.video.height, card.video.width, {})
    runner.add_prompt(0, 0, torch.zeros(1, card.transformer.text_dim))
    tokens = card.tokens_per_block(card.video.height, card.video.width)
    for plan in first_plans(shape):
        with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
            runner.tick(plan)
        ((view,),) = views(plan, shape)
        planned = product_flop(card, tokens) + attention_flop(card, tokens, view.blocks)
        assert counter.get_total_flops() == planned


@pytest.mark.parametrize("model", sorted({case["model"] for case in load_traces()["cases"]}))
def test_operations_and_gathers_are_those_of_the_trace(model: str) -> None:
    """Every traced tick of rank 0, on every number of ranks."""
    card = card_of(model)
    tokens = card.tokens_per_block(card.video.height, card.video.width)
    for case in cases_of(model):
        shape = Shape(
            card.sampling.num_passes,
            case["stagger"],
            case["num_ranks"],
            card.window,
            case["inflight_attention"],
            counts_behind=case.get("window_counts_behind", False),
        )
        planned = {}
        for plan in steady_plans(shape):
            seen = views(plan, shape)
            for works, rank in zip(plan.ranks, seen, strict=True):
                planned[tuple(work.pass_index for work in works)] = (
                    len(rank) * product_flop(card, tokens),
                    sum(attention_flop(card, tokens, view.blocks) for view in rank),
                    gathered_bytes(card, tokens, plan, shape),
                )
        traced = {
            tuple(tick["passes"]): (tick["matmul_flop"], tick["attention_flop"], tick["gathered_bytes"])
            for tick in case["ticks"]
        }
        assert traced.keys() == planned.keys()
        for passes, figures in traced.items():
            assert figures == pytest.approx(planned[passes], rel=1e-9), (case["num_ranks"], passes)


@pytest.mark.parametrize("model", list(load_cards()))
@pytest.mark.parametrize("num_ranks", [1, 3, 5])
def test_a_pass_is_taken_to_see_the_clean_blocks_that_the_cache_has(model: str, num_ranks: int) -> None:
    card = find_card(model)
    shape = shape_of(model, min(num_ranks, card.sampling.num_passes))
    for plan in steady_plans(shape):
        cache = KvCache(
            replace(card.transformer, num_layers=1), card.window, 1, torch.device("cpu"), torch.float32
        )
        for block in range(plan.works[0].block):
            cache.place(block)
            cache.commit(block)
        for works, seen in zip(plan.ranks, views(plan, shape), strict=True):
            for work, view in zip(works, seen, strict=True):
                oldest, _ = sight(work, plan.works, shape, plan.inflight_attention)
                sink, window = cache.visible(oldest)
                assert view.clean == len(sink) + len(window)


@pytest.mark.parametrize("stagger", range(1, 6))
@pytest.mark.parametrize("num_ranks", range(1, 6))
def test_a_round_of_ticks_makes_a_block_on_each_rank(num_ranks: int, stagger: int) -> None:
    shape = shape_of("self-forcing-1.3b", num_ranks, stagger)
    plans = steady_plans(shape)
    emitted = [plan.emits for plan in plans if plan.emits is not None]
    assert len(emitted) == num_ranks
    assert {block % num_ranks for block in emitted} == set(range(num_ranks))
    assert sum(len(plan.works) for plan in plans) == num_ranks * shape.num_passes


# Memory.


@pytest.mark.parametrize("model", BIG)
def test_weights_take_what_the_model_takes(model: str) -> None:
    dims = find_card(model).transformer
    with torch.device("meta"):
        wan = CausalWanModel(dims)
    parameters = dict(wan.named_parameters())
    stored = sum(x.numel() * (4 if keep_float32(name) else 2) for name, x in parameters.items())
    assert weights_bytes(dims) == pytest.approx(stored, rel=0.02)
    matrices = sum(x.numel() for name, x in parameters.items() if name.startswith("blocks.") and x.ndim == 2)
    assert weights_bytes(dims) - weights_bytes(dims, fp8=True) == pytest.approx(matrices, rel=0.002)


@pytest.mark.parametrize("gpu", ["h100", "b200"])
@pytest.mark.parametrize("model", BIG)
def test_as_many_sessions_as_their_caches_fill_the_memory(model: str, gpu: str) -> None:
    card, data_sheet = find_card(model), find_gpu(gpu)
    height, width = card.video.height, card.video.width
    count = num_sessions(card, data_sheet, height, width, fp8=False)
    session = card.session_bytes(height, width)
    budget = session_budget(card, data_sheet, fp8=False)
    assert count * session <= budget < (count + 1) * session
    assert budget < 1e9 * data_sheet.memory_gb - weights_bytes(card.transformer)


@pytest.mark.parametrize("gpu", ["h100", "h200", "b200", "gb200"])
@pytest.mark.parametrize("model", sorted({case["model"] for case in load_traces()["cases"]}))
def test_what_is_kept_free_is_enough_for_activations(model: str, gpu: str) -> None:
    """The most that any traced tick held, whatever the number of ranks."""
    card, data_sheet = card_of(model), find_gpu(gpu)
    peak = max(tick["peak_bytes"] for case in cases_of(model) for tick in case["ticks"])
    session = card.session_bytes(card.video.height, card.video.width)
    free = session_budget(card, data_sheet, fp8=False) * (1 / MEMORY_SHARE - 1)
    assert peak <= weights_bytes(card.transformer) + session + free


def test_what_does_not_fit_says_what_it_needs() -> None:
    with pytest.raises(InvalidConfig, match=r"krea-14b does not fit into l40s: of 44\.7 GiB rank 0 needs"):
        make_plan(PlanRequest("krea-14b", "l40s"))
    assert make_plan(PlanRequest("krea-14b", "l40s", fp8=True)).pipelines[0].sessions_by_memory >= 1
    with pytest.raises(InvalidConfig, match="4096x4096"):
        make_plan(PlanRequest("self-forcing-1.3b", "h100", width=4096, height=4096))


# Speed.


@pytest.mark.parametrize("model", BIG)
@pytest.mark.parametrize("stagger", [1, 2, 5])
def test_more_ranks_are_never_slower_where_links_are_fast(model: str, stagger: int) -> None:
    fast = roofline(model, link_gb_s=1e15)
    blocks = [measure(fast, shape_of(model, ranks, stagger)).block_ms for ranks in range(1, 6)]
    assert all(more <= fewer * (1 + 1e-9) for fewer, more in pairwise(blocks)), blocks


@pytest.mark.parametrize("field", ["bf16_tflop_s", "memory_gb_s", "link_gb_s"])
@given(factor=st.floats(1, 100), model=st.sampled_from(BIG), gpu=st.sampled_from(sorted(load_gpus())))
@settings(max_examples=20, deadline=None)
def test_a_better_gpu_is_never_slower(field: str, factor: float, model: str, gpu: str) -> None:
    shape = shape_of(model, 5)
    better = {field: factor * getattr(find_gpu(gpu), field)}
    now, then = (measure(each, shape) for each in (roofline(model, gpu), roofline(model, gpu, **better)))
    assert then.block_ms <= now.block_ms * (1 + 1e-9)
    assert then.first_block_ms <= now.first_block_ms * (1 + 1e-9)


@pytest.mark.parametrize("model", BIG)
def test_causal_is_never_slower_than_bidirectional_and_sequential_is_one_pass_after_the_other(
    model: str,
) -> None:
    sequential, bidirectional, causal = make_plan(PlanRequest(model, "h100")).pipelines
    assert causal.speed.block_ms <= bidirectional.speed.block_ms
    assert sequential.speed.block_ms == pytest.approx(5 * sequential.speed.tick_ms)
    assert bidirectional.speed.block_ms < sequential.speed.block_ms <= 5 * bidirectional.speed.tick_ms
    assert sequential.speed.hiding_gb_s == sequential.speed.pass_ms.gather == 0


@pytest.mark.parametrize("model", BIG)
def test_a_window_that_counts_the_blocks_behind_costs_what_one_ranks_does(model: str) -> None:
    free, counted = (
        make_plan(PlanRequest(model, "h100", counts_behind=counts_behind)).pipelines
        for counts_behind in (False, True)
    )
    assert counted[0] == free[0], "no block is behind in the sequential pipeline"
    assert counted[2] == free[2], "nor seen by causal attention"
    assert counted[1].speed.pass_ms.attention < free[1].speed.pass_ms.attention
    assert counted[1].speed.pass_ms.attention <= 1.05 * free[0].speed.pass_ms.attention


def test_a_slow_link_is_waited_for_and_the_bandwidth_that_hides_it_is_enough() -> None:
    shape = shape_of("self-forcing-1.3b", 5)
    needed = measure(roofline(), shape).hiding_gb_s
    slow, enough = (measure(roofline(link_gb_s=part * needed / 0.8), shape) for part in (0.1, 1.001))
    assert slow.block_ms > enough.block_ms
    assert enough.pass_ms.gather == 0
    krea = measure(roofline("krea-14b"), shape_of("krea-14b", 5))
    assert (krea.hiding_gb_s, krea.pass_ms.gather > 0) == (float("inf"), True)


def test_a_block_that_is_alone_travels_for_the_caches_only() -> None:
    shape = shape_of("longlive-1.3b", 5, 5)
    card = find_card("longlive-1.3b")
    received = [gathered_bytes(card, 4680, plan, shape) for plan in steady_plans(shape)]
    assert [each > 0 for each in received] == 5 * [False, False, False, False, True]
    assert 0 < measure(roofline("longlive-1.3b"), shape).hiding_gb_s < float("inf")


def test_fp8_products_take_half_and_eager_code_takes_more() -> None:
    plain, quantized, eager = (
        make_plan(PlanRequest("krea-14b", "h100", **options)).pipelines[0].speed.pass_ms
        for options in ({}, {"fp8": True}, {"compiled": False})
    )
    assert quantized.products == pytest.approx(plain.products / 2, rel=0.01)
    assert quantized.attention == plain.attention
    assert quantized.elementwise > plain.elementwise
    assert (eager.products, eager.attention) == (plain.products, plain.attention)
    assert eager.elementwise > plain.elementwise
    assert eager.launches > plain.launches


@pytest.mark.parametrize("compiled", [True, False])
def test_fp8_adds_what_was_traced(compiled: bool) -> None:
    """At one rank and at five, where it was traced; in proportion where several blocks share a rank."""
    card = find_card("self-forcing-1.3b")
    plain, quantized = (find_overheads(card, 4680, compiled, fp8) for fp8 in (False, True))
    added = quantized.alone.elementwise_bytes - plain.alone.elementwise_bytes
    for count, overhead in quantized.joint.items():
        more = overhead.elementwise_bytes - plain.joint[count].elementwise_bytes
        assert more == pytest.approx(count * added)
        assert overhead.num_kernels > plain.joint[count].num_kernels
    if not compiled:
        about = {"num_ranks": 5, "inflight_attention": "bidirectional", "window_counts_behind": False}.items()
        without, with_it = (
            next(each["ticks"] for each in cases_of(card.name, how) if about <= each.items())
            for how in ("none", "fp8")
        )
        traced = [tick["elementwise_bytes"] for tick in with_it]
        assert traced == pytest.approx([tick["elementwise_bytes"] + added for tick in without], rel=1e-3)


def test_a_larger_picture_takes_longer_and_more_memory() -> None:
    small, large = (
        make_plan(PlanRequest("krea-14b", "b200", width=w, height=h)).pipelines[0]
        for w, h in ((832, 480), (1280, 720))
    )
    ratio = 1280 * 720 / (832 * 480)
    assert large.speed.pass_ms.products == pytest.approx(ratio * small.speed.pass_ms.products)
    assert large.speed.pass_ms.elementwise == pytest.approx(ratio * small.speed.pass_ms.elementwise)
    assert large.speed.pass_ms.attention > ratio * small.speed.pass_ms.attention
    assert large.vae_decoders / large.fps == pytest.approx(ratio * small.vae_decoders / small.fps)
    assert large.sessions_by_memory < small.sessions_by_memory


def test_sessions_are_what_speed_and_memory_allow() -> None:
    for model in BIG:
        for pipeline in make_plan(PlanRequest(model, "h100", fps=7)).pipelines:
            assert pipeline.sessions_by_speed <= pipeline.fps / 7 < pipeline.sessions_by_speed + 1
            least = min(pipeline.sessions_by_speed, pipeline.sessions_by_memory)
            assert pipeline.sessions == 5 // pipeline.num_gpus * least


# What it rests on.


def test_figures_that_fix_a_constant_are_met_and_one_gpu_is_within_a_fifth() -> None:
    for each in comparisons():
        if each.published.fixes:
            assert abs(each.deviation) < 0.01, each.published.title
        elif each.published.num_ranks == 1:
            assert abs(each.deviation) < 0.2, each.published.title
        else:
            assert each.deviation > 0, "the paper's own cascades are below what is planned"
    fixed = [each.published.fixes for each in comparisons() if each.published.fixes]
    assert sorted(fixed) == ["Blackwell", "attention", "kernels"]


def test_facts_in_the_assumptions_are_those_of_the_plan() -> None:
    text = " ".join(assumptions(make_plan(PlanRequest("longlive-1.3b", "gb200"))))
    assert "GB200 NVL72: 2500 TFLOP/s" in text
    assert "traced on" in text
    assert "H100's" not in text
    assert "H100's" in " ".join(assumptions(make_plan(PlanRequest("longlive-1.3b", "l40s"))))


def test_a_card_without_a_trace_rests_on_the_one_most_like_it() -> None:
    card = find_card("self-forcing-1.3b")
    other = replace(card, name="mine", window=WindowConfig(window_frames=9))
    assert nearest(other) in ("self-forcing-1.3b", "longlive-1.3b")
    twice = replace(card, name="mine", transformer=replace(card.transformer, num_layers=60))
    once, double = (find_overheads(each, 4680, compiled=False) for each in (card, twice))
    assert double.alone.num_kernels == pytest.approx(2 * once.alone.num_kernels, rel=0.25)


@pytest.mark.parametrize(
    ("request_", "error", "says"),
    [
        (PlanRequest("wan", "h100"), UnknownModel, "known: bench"),
        (PlanRequest("demo", "a100"), InvalidConfig, "gpu: 'a100' is unknown; known: h100, h200, b200"),
        (PlanRequest("demo", "h100", num_ranks=6), InvalidConfig, r"num_ranks: 6 is not in 1\.\.5"),
        (PlanRequest("causvid-1.3b", "h100", num_ranks=5), InvalidConfig, r"num_ranks: 5 is not in 1\.\.4"),
        (PlanRequest("demo", "h100", stagger=6), InvalidConfig, r"stagger: 6 is not in 1\.\.5"),
        (PlanRequest("demo", "h100", width=100), InvalidConfig, "width: 100 is not a multiple of 16"),
        (PlanRequest("demo", "h100", fps=-1), InvalidConfig, "fps: -1 is not above 0"),
    ],
)
def test_what_is_wrong_is_named(request_: PlanRequest, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make_plan(request_)


@pytest.mark.parametrize("gpu", sorted(load_gpus()))
def test_every_card_that_fits_has_a_plan_in_numbers(gpu: str) -> None:
    for model in load_cards():
        try:
            plan = make_plan(PlanRequest(model, gpu))
        except InvalidConfig:
            assert (model, gpu) == ("krea-14b", "l40s")
            continue
        values = as_json(plan)
        assert values["model"] == model
        for pipeline in values["pipelines"]:
            assert 0 < pipeline["fps"] < 1e6
            for name in ("vae_decoders", "taehv_decoders"):
                assert (pipeline[name] is None) == (model in ("demo", "bench"))


def test_loras_take_memory_for_each_that_is_listed_and_time_for_three() -> None:
    def plan(**loras: int) -> CapacityPlan:
        return make_plan(PlanRequest("longlive-1.3b", "h100", **loras))

    plans = [plan(), *(plan(num_loras=number, lora_rank=64) for number in (1, 3, 4))]
    blocks = [each.pipelines[0].speed.block_ms for each in plans]
    assert blocks[0] < blocks[1] < blocks[2] == blocks[3]
    assert [each.pipelines[0].lora_slowdown for each in plans] == [block / blocks[0] for block in blocks]
    memory = [each.loras.memory_bytes(each.card.transformer) for each in plans]
    assert memory[0] == 0 < memory[1] < memory[2] == 0.75 * memory[3]
    for name, wrong, allowed in (("num_loras", 17, "0..16"), ("lora_rank", 513, "1..512")):
        with pytest.raises(InvalidConfig, match=f"^{name}: {wrong} is not in {allowed}$"):
            plan(**{"num_loras": 1, name: wrong})
