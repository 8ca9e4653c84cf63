"""The checkpoint's files: the diffusers layout of the real models, half precision, nothing executable."""

from pathlib import Path

from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from cascade_core.model.model import CausalWanModel


def save_checkpoint(
    folder: Path,
    transformer: CausalWanModel,
    text_encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
    vae: AutoencoderKLWan,
) -> None:
    """Write transformer/, text_encoder/, tokenizer/ and vae/ into `folder`; turns the models to half."""
    _diffusers_form(transformer).half().save_pretrained(folder / "transformer")
    text_encoder.half().save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    vae.half().save_pretrained(folder / "vae")


def _diffusers_form(model: CausalWanModel) -> WanTransformer3DModel:
    config = model.config
    twin = WanTransformer3DModel(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        text_dim=config.text_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.num_layers,
        eps=config.eps,
    )
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    twin.load_state_dict(convert_wan_transformer_to_diffusers(state), strict=True)
    return twin
