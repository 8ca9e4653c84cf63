"""From a card and a configuration to a Runner on this rank's device."""

from dataclasses import replace

import psutil
import torch

from cascade_core.attention.exchange import join_group
from cascade_core.attention.quantized import pick_quantized
from cascade_core.config import EngineConfig, ModelCard, Quantize, allowed_staggers
from cascade_core.errors import InvalidConfig
from cascade_core.model.fp8 import check_fp8, quantize_model
from cascade_core.model.model import CausalWanModel, Layer, keep_float32
from cascade_core.ranks.messages import Load
from cascade_core.ranks.runner import Runner
from cascade_core.schedule import Timeline, engine_shape, plan_tick
from cascade_core.weights.locate import ModelFiles
from cascade_core.weights.weights import load_state, randomize, read_transformer


def pick_device(config: EngineConfig, rank: int) -> torch.device:
    """This rank's device; InvalidConfig where there are fewer GPUs than ranks."""
    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    num_gpus = torch.cuda.device_count()
    if config.num_ranks > num_gpus:
        raise InvalidConfig(
            f"num_ranks: {config.num_ranks} ranks need as many GPUs, this machine has {num_gpus}"
        )
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)


def pick_dtype(config: EngineConfig, device: torch.device) -> torch.dtype:
    if config.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32


def free_bytes(device: torch.device, num_ranks: int) -> int:
    """Memory that sessions on this rank can still take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available // num_ranks)


def build_model(
    card: ModelCard,
    files: ModelFiles | None,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    quantize: Quantize = "none",
) -> CausalWanModel:
    """The transformer with the checkpoint's weights, or random ones (files None).

    Raises WeightsError, or InvalidConfig where the machine lacks the memory for it.
    """
    with torch.device("meta"):
        model = CausalWanModel(card.transformer)
        if quantize == "fp8":
            quantize_model(model)
    check_memory(card, model, device, dtype)
    if files is None:
        randomize(model, seed, device, dtype, keep_float32)
    else:
        load_state(model, read_transformer(card, files), files.transformer, device, dtype, keep_float32)
    return model.eval().requires_grad_(False)


def check_memory(card: ModelCard, model: CausalWanModel, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a model that cannot fit, before the kernel kills whatever it picks. `model` is on meta."""
    needed = sum(
        parameter.numel() * min(parameter.itemsize, dtype.itemsize)  # FP8 stays FP8
        for parameter in model.parameters()
    )
    free = free_bytes(device, num_ranks=1)
    if needed > free:
        sizes = f"{needed / 2**30:.1f} GiB on each rank, {free / 2**30:.1f} GiB are free"
        raise InvalidConfig(f"not enough memory for model {card.name}: its weights take {sizes}")


def build_runner(load: Load, device: torch.device, dtype: torch.dtype) -> Runner:
    """Load the model, then join the group (loading times differ; joining waits for the slowest)."""
    config, card = load.config, load.card
    check_fp8(config, device, dtype)
    kernel = pick_quantized(config, device, dtype)
    model = build_model(card, load.files, config.seed, device, dtype, config.quantize)
    if config.compile:
        for layer in model.layers:
            compile_layer(layer)
    exchange = join_group(load.rank, config.num_ranks, str(load.rendezvous), device, config.start_deadline_s)
    return Runner(model, card, engine_shape(config, card), load.rank, exchange, kernel)


def compile_layer(layer: Layer) -> None:
    """Fuse the element-wise parts between the attentions.

    The attentions stay outside: `read_text` groups blocks by the identity of their text cache, which, if
    traced, would compile anew for every layer and every prompt.
    """
    layer.qkv = torch.compile(layer.qkv)  # type: ignore[method-assign]
    layer.after_attention = torch.compile(layer.after_attention)  # type: ignore[method-assign]
    layer.feed_forward = torch.compile(layer.feed_forward)  # type: ignore[method-assign]


def warm_up(runner: Runner, config: EngineConfig, card: ModelCard) -> None:
    """Run at the default size, so that no session pays for kernels, compiling or connections.

    Compiled layers meet every number of blocks. On CUDA it runs until the window is full, since libraries
    plan for each new number of keys; what it held is given back, so that `free_bytes` counts it.
    """
    on_cpu = runner.model.device.type == "cpu"
    shape = replace(runner.shape, stagger=allowed_staggers(config, card)[0])  # the most blocks in flight
    window = shape.window
    num_blocks = shape.max_in_flight if config.compile else 1
    if not on_cpu:
        num_blocks = max(num_blocks, window.sink_blocks + window.window_blocks + 1)
    runner.open(-1, 0, card.video.height, card.video.width, {})
    runner.add_prompt(-1, 0, torch.zeros(1, card.transformer.text_dim))
    timeline = Timeline(-1, end_block=num_blocks)
    while not timeline.finished:
        plan, timeline = plan_tick(timeline, shape)
        if plan:
            runner.tick(plan)
    runner.close(-1)
    if not on_cpu:
        torch.cuda.synchronize(runner.model.device)
        torch.cuda.empty_cache()
