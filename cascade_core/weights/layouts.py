"""Key names of published checkpoints -> our names, which are the original Wan ones."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

from cascade_core.errors import WeightsError

V = TypeVar("V")
Table = tuple[tuple[str, str], ...]

WRAPPERS: Final = frozenset(
    ("model", "module", "diffusion_model", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod")
)
"""Segments that training wrappers (FSDP, DDP, compile, a parent module) put into keys, anywhere."""

DIFFUSERS: Final[Table] = (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^proj_out\.", "head.head."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"\.scale_shift_table$", ".modulation"),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
    (r"\.norm2\.", ".norm3."),  # the one norm with weights; diffusers numbers the norms in another order
)

FLAT_DIFFUSERS: Final[Table] = tuple(
    (pattern.replace(r"\.", "_"), name.replace(".", "_")) for pattern, name in DIFFUSERS
)
FLAT_DIFFUSERS_ONLY: Final = re.compile("_attn[12]_|_ffn_net_|condition_embedder_|proj_out_")
FLAT_PREFIX: Final = re.compile("^(base_model_|transformer_|lora_unet_|lora_transformer_|lycoris_)+")

UMT5: Final[Table] = (
    (r"^token_embedding\.", "shared."),
    (r"^norm\.", "encoder.final_layer_norm."),
    (r"\.attn\.([qkvo])\.", r".layer.0.SelfAttention.\1."),
    (r"\.pos_embedding\.embedding\.", ".layer.0.SelfAttention.relative_attention_bias."),
    (r"\.norm1\.", ".layer.0.layer_norm."),
    (r"\.norm2\.", ".layer.1.layer_norm."),
    (r"\.ffn\.gate\.0\.", ".layer.1.DenseReluDense.wi_0."),
    (r"\.ffn\.fc1\.", ".layer.1.DenseReluDense.wi_1."),
    (r"\.ffn\.fc2\.", ".layer.1.DenseReluDense.wo."),
    (r"^blocks\.", "encoder.block."),
)


WAN21_UPSAMPLES: Final = re.compile(r"^decoder\.upsamples\.(\d+)\.(.+)")
WAN21_STAGE: Final = 4
"""Layers of a stage of its decoder: three residual blocks and a sampling."""
WAN22_BLOCK: Final = re.compile(
    r"^(encoder|decoder)\.(down|up)samples\.(\d+)\.(?:down|up)samples\.(\d+)\.(.+)"
)
WAN_VAE: Final[Table] = (
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in."),
    (r"^(encoder|decoder)\.head\.0\.", r"\1.norm_out."),
    (r"^(encoder|decoder)\.head\.2\.", r"\1.conv_out."),
    (r"^encoder\.downsamples\.", "encoder.down_blocks."),
    (r"\.middle\.0\.", ".mid_block.resnets.0."),
    (r"\.middle\.1\.", ".mid_block.attentions.0."),
    (r"\.middle\.2\.", ".mid_block.resnets.1."),
    (r"\.residual\.0\.", ".norm1."),
    (r"\.residual\.2\.", ".conv1."),
    (r"\.residual\.3\.", ".norm2."),
    (r"\.residual\.6\.", ".conv2."),
    (r"\.shortcut\.", ".conv_shortcut."),
)


def strip_wrappers(key: str) -> str:
    """`model._fsdp_wrapped_module.blocks.0.norm3.bias` -> `blocks.0.norm3.bias`."""
    return ".".join(segment for segment in key.split(".") if segment not in WRAPPERS)


def original_transformer(state: Mapping[str, V]) -> dict[str, V]:
    """A transformer state in our names, from the original or the diffusers layout, wrapped or not.

    Raises WeightsError where two keys become one.
    """
    names = {key: strip_wrappers(key) for key in state}
    if any(name.startswith("condition_embedder.") or ".attn1." in name for name in names.values()):
        names = {key: _rename(name, DIFFUSERS) for key, name in names.items()}
    _refuse_doubles(names.values())
    return {name: state[key] for key, name in names.items()}


def find_parameters(keys: Sequence[str], parameters: Iterable[str]) -> list[str | None]:
    """Which of our parameters each key of a LoRA file means; None: none of them.

    The file has the original or the diffusers layout, any wrappers in front, and dots or, as kohya writes,
    underscores: no two parameters differ in these alone.
    """
    ours = {name.replace(".", "_"): name for name in parameters}
    flat = [FLAT_PREFIX.sub("", strip_wrappers(key).replace(".", "_")) for key in keys]
    if any(map(FLAT_DIFFUSERS_ONLY.search, flat)):
        flat = [_rename(name, FLAT_DIFFUSERS) for name in flat]
    return [ours.get(name) for name in flat]


def transformers_umt5(state: Mapping[str, V]) -> dict[str, V]:
    """An original Wan UMT5 encoder state in the names of transformers' `UMT5EncoderModel`.

    Raises WeightsError where it is none.
    """
    renamed = {_rename(strip_wrappers(key), UMT5): value for key, value in state.items()}
    if "shared.weight" not in renamed:
        raise WeightsError("no token_embedding.weight: not an original Wan UMT5 encoder")
    # Two names of one tied parameter: a strict load asks for both.
    return {**renamed, "encoder.embed_tokens.weight": renamed["shared.weight"]}


def diffusers_vae(name: str) -> str:
    """A key of an original Wan VAE in the names of diffusers' `AutoencoderKLWan`, which stay as they are."""
    if found := WAN22_BLOCK.match(name):  # blocks that hold blocks: residual ones, and a sampling at the end
        side, kind, block, inner, rest = found.groups()
        is_sampler = rest.startswith(("resample.", "time_conv."))
        place = f"{kind}sampler" if is_sampler else f"resnets.{inner}"
        name = f"{side}.{kind}_blocks.{block}.{place}.{rest}"
    elif found := WAN21_UPSAMPLES.match(name):
        stage, layer = divmod(int(found[1]), WAN21_STAGE)
        place = "upsamplers.0" if layer == WAN21_STAGE - 1 else f"resnets.{layer}"
        name = f"decoder.up_blocks.{stage}.{place}.{found[2]}"
    return _rename(name, WAN_VAE)


def _rename(name: str, table: Table) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def _refuse_doubles(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise WeightsError(f"{name} occurs twice under different prefixes")
        seen.add(name)
