"""Operations of the decoders for one latent frame."""

from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.trace.cases import Row
from cascade_core.config import find_card
from cascade_core.media.taehv import TaehvDecoder, TaehvModel
from cascade_core.media.vae import WanVae
from cascade_core.media.video_decoder import VideoDecoder
from cascade_core.media.wan_autoencoder import VaeConfig, WanAutoencoder

CARD = "self-forcing-1.3b"
"""Its size is that of all cards of 480p, and its VAE is Wan's."""


def decoder_rows() -> list[Row]:
    """Of the Wan VAE and of TAEHV."""
    card = find_card(CARD)
    video = card.video
    latents = torch.Size((1, *card.latent_shape(video.height, video.width)[1:]))
    size = {"width": video.width, "height": video.height}
    return [{"decoder": name} | size | {"flop": latent_flop(name, latents)} for name in ("vae", "taehv")]


def latent_flop(name: str, latents: torch.Size) -> int:
    """Of a latent frame that is not the first, which gives one picture alone."""
    stay = patch.object(nn.Module, "to", lambda module, *_, **__: module)  # what has no data cannot move
    with FakeTensorMode(), stay:
        decoder = make_decoder(name)
        state = decoder.open()
        decoder.decode(state, torch.empty(latents))
        with FlopCounterMode(display=False) as counter:
            decoder.decode(state, torch.empty(latents))
    return int(counter.get_total_flops())


def make_decoder(name: str) -> VideoDecoder:
    """With weights that are not there."""
    device = torch.device("cpu")
    if name == "vae":
        return WanVae(WanAutoencoder(VaeConfig()), device, torch.float32)
    return TaehvDecoder(TaehvModel(), device, torch.float32)
