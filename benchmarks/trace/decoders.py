"""Operations of the decoders for one latent frame."""

from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.trace.cases import Row
from cascade_core.config import ModelCard, find_card
from cascade_core.media.taehv import FACTOR, TaehvDecoder, TaehvModel
from cascade_core.media.vae import WanVae
from cascade_core.media.video_decoder import VideoDecoder
from cascade_core.media.wan_autoencoder import VaeConfig, WanAutoencoder

CARDS = "self-forcing-1.3b", "longlive-2.0-5b"
"""One of each VAE that is Wan's: 2.1's at 832x480, 2.2's at 1280x704."""


def decoder_rows() -> list[Row]:
    """Of each VAE and of its TAEHV."""
    return [row(name, find_card(model)) for model in CARDS for name in ("vae", "taehv")]


def row(name: str, card: ModelCard) -> Row:
    video = card.video
    size = {"width": video.width, "height": video.height}
    return {"decoder": name, "model": card.name} | size | {"flop": latent_flop(name, card)}


def latent_flop(name: str, card: ModelCard) -> int:
    """Of a latent frame that is not the first, which gives one picture alone."""
    stay = patch.object(nn.Module, "to", lambda module, *_, **__: module)  # what has no data cannot move
    latents = torch.Size((1, *card.latent_shape(card.video.height, card.video.width)[1:]))
    with FakeTensorMode(), stay:
        decoder = make_decoder(name, card)
        state = decoder.open()
        decoder.decode(state, torch.empty(latents))
        with FlopCounterMode(display=False) as counter:
            decoder.decode(state, torch.empty(latents))
    return int(counter.get_total_flops())


def make_decoder(name: str, card: ModelCard) -> VideoDecoder:
    """With weights that are not there."""
    device = torch.device("cpu")
    if name == "vae":
        return WanVae(WanAutoencoder(VaeConfig.of_card(card.vae)), device, torch.float32)
    model = TaehvModel(card.transformer.in_channels, card.video.vae_factor // FACTOR)
    return TaehvDecoder(model, device, torch.float32)
