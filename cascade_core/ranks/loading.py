"""From a card and a configuration to a Runner on this rank's device."""

import time
from pathlib import Path

import psutil
import torch
from torch import Tensor

from cascade_core.attention.exchange import join_group
from cascade_core.attention.quantized import pick_quantized
from cascade_core.config import EngineConfig, ListedLora, ModelCard, Quantize
from cascade_core.errors import InvalidConfig
from cascade_core.fp8 import FP8
from cascade_core.model.fp8 import check_fp8, quantize_model
from cascade_core.model.lora_bank import LoraBank
from cascade_core.model.low_rank import TARGETS, Stacks, stack, widths
from cascade_core.model.model import CausalWanModel, keep_float32
from cascade_core.ranks.messages import Load
from cascade_core.ranks.runner import Runner
from cascade_core.schedule import engine_shape
from cascade_core.weights.listed import read_listed
from cascade_core.weights.locate import Located, ModelFiles
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


@torch.inference_mode()
def build_bank(
    loras: Located, model: CausalWanModel, device: torch.device, dtype: torch.dtype
) -> LoraBank | None:
    """The listed LoRAs on the device; None: there are none.

    Raises WeightsError, or InvalidConfig where the machine lacks the memory for them.
    """
    if not loras:
        return None
    dims, state = model.config, model.state_dict()
    sides = widths(dims)

    def load(lora: ListedLora, path: Path) -> Stacks:
        pairs = read_listed(lora, path, state, TARGETS)
        stacks = {
            target: stack(map(pairs[target].get, range(dims.num_layers)), *sides[target]).to(dtype)
            for target in TARGETS
            if target in pairs
        }
        needed, free = sum(each.num_bytes for each in stacks.values()), free_bytes(device, num_ranks=1)
        if needed > free:
            sizes = f"{needed / 2**20:.0f} MiB on each rank, {free / 2**20:.0f} MiB are free"
            raise InvalidConfig(f"loras: not enough memory for {lora.name}: it takes {sizes}")
        return {target: each.to(device) for target, each in stacks.items()}

    return LoraBank([load(lora, path) for lora, path in loras], sides, dims.num_layers)


def check_memory(card: ModelCard, model: CausalWanModel, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a model that cannot fit, before the kernel kills whatever it picks. `model` is on meta."""
    needed = loaded_bytes(model, dtype)
    free = free_bytes(device, num_ranks=1)
    if needed > free:
        sizes = f"{needed / 2**30:.1f} GiB on each rank, {free / 2**30:.1f} GiB are free"
        raise InvalidConfig(f"not enough memory for model {card.name}: its weights take {sizes}")


def loaded_bytes(model: CausalWanModel, dtype: torch.dtype) -> int:
    """What the weights of a model on meta will take."""

    def itemsize(name: str, parameter: Tensor) -> int:
        keeps_type = parameter.dtype is FP8 or name.endswith("_scale") or keep_float32(name)
        return parameter.itemsize if keeps_type else dtype.itemsize

    return sum(each.numel() * itemsize(name, each) for name, each in model.named_parameters())


def build_runner(load: Load, device: torch.device, dtype: torch.dtype) -> tuple[Runner, float]:
    """Load the model, then join the group; also the seconds of joining, which waits for the slowest."""
    config, card = load.config, load.card
    check_fp8(config, device, dtype)
    kernel = pick_quantized(config, device, dtype)
    model = build_model(card, load.files, config.seed, device, dtype, config.quantize)
    bank = build_bank(load.loras, model, device, dtype)
    loaded = time.monotonic()
    exchange = join_group(load.rank, config.num_ranks, str(load.rendezvous), device, config.start_deadline_s)
    runner = Runner(model, card, engine_shape(config, card), load.rank, exchange, kernel, bank)
    return runner, time.monotonic() - loaded
