"""Latents to frames and back: the Wan VAE, block by block."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from cascade_core.config import ModelCard
from cascade_core.errors import InvalidConfig, WeightsError
from cascade_core.media.video_decoder import DecoderState, suit_processor, to_pixels
from cascade_core.media.video_encoder import EncoderState, chunks, from_pixels
from cascade_core.media.wan_autoencoder import VaeConfig, WanAutoencoder, patchify, unpatchify
from cascade_core.weights.checkpoint import read_tensors
from cascade_core.weights.shards import reading
from cascade_core.weights.weights import load_state, read_vae


class WanVae:
    """One model for many sessions and clips, each with a memory of its own."""

    def __init__(self, model: WanAutoencoder, device: torch.device, dtype: torch.dtype) -> None:
        """`model` is moved to `device` and `dtype`."""
        self._model = model.to(device, dtype).eval().requires_grad_(False)
        suit_processor(self._model, device, dtype)
        self._device, self._dtype = device, dtype
        self._patch_size = model.config.patch_size
        shape = (1, -1, 1, 1, 1)
        self._mean = torch.tensor(model.config.latents_mean, device=device).view(shape)
        self._std = torch.tensor(model.config.latents_std, device=device).view(shape)

    def open(self) -> DecoderState:
        return DecoderState([None] * self._model.decoder.num_slots)

    def decode(self, state: DecoderState, latents: Tensor) -> Tensor:
        return to_pixels(self.decode_float(state, latents))

    @torch.inference_mode()
    def decode_float(self, state: DecoderState, latents: Tensor) -> Tensor:
        """As `decode`, but [T, 3, H, W] in [-1, 1], on the decoder's device and in its dtype."""
        z = latents.to(self._device, torch.float32).transpose(0, 1)[None]  # [1, C, F, h, w]
        z = self._model.post_quant_conv((z * self._std + self._mean).to(self._dtype))
        video = torch.cat([self._decode_latent(state, frame) for frame in z.split(1, dim=2)], dim=2)
        return unpatchify(video, self._patch_size)[0].transpose(0, 1).clamp(-1, 1)

    def open_encoder(self) -> EncoderState:
        return EncoderState([None] * self._model.encoder.num_slots)

    @torch.inference_mode()
    def encode(self, state: EncoderState, pictures: Tensor) -> Tensor:
        video = from_pixels(pictures, self._device, self._dtype)
        parts = [self._encode_chunk(state, part) for part in chunks(video, state.num_latents == 0)]
        moments = self._model.quant_conv(torch.cat(parts, dim=2)).float()
        mean, _ = moments.chunk(2, dim=1)  # the distribution's mode; the other half is its width
        latents: Tensor = (mean - self._mean) / self._std
        return latents[0].transpose(0, 1).contiguous().cpu()

    def _encode_chunk(self, state: EncoderState, pictures: Tensor) -> Tensor:
        video = pictures.transpose(0, 1)[None]  # [1, 3, T, H, W]
        state.num_latents += 1
        encoded: Tensor = self._model.encoder(patchify(video, self._patch_size), state.memory)
        return encoded

    def _decode_latent(self, state: DecoderState, latent: Tensor) -> Tensor:
        is_first = state.num_latents == 0
        state.num_latents += 1
        decoded: Tensor = self._model.decoder(latent, state.memory, is_first)
        return decoded


def load_vae(
    card: ModelCard, path: Path | None, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> WanVae:
    """The card's VAE from a diffusers folder, an original `.pth`, or (None) with random weights.

    Raises WeightsError when the file is absent, damaged, or does not fit.
    """
    if path is None:
        return WanVae(_random_model(card, seed), device, dtype)
    if path.is_dir():
        model, state = _folder_model(path / "config.json"), read_tensors(path)
    else:
        state = read_vae(path)
        model = _empty_model(VaeConfig.of_card(dict(card.vae) | widths(state)))
    _check_channels(card, model, path)
    load_state(model, state, path, device, dtype)
    return WanVae(model, device, dtype)


def widths(state: Mapping[str, Tensor]) -> dict[str, int]:
    """What a file without a configuration tells by its tensors: those of a pruned VAE are narrower. Nothing
    of a tensor that is not there, or of another kind: loading names it."""
    places = {
        "base_dim": ("encoder.conv_in.weight", 0),
        "decoder_base_dim": ("decoder.conv_out.weight", 1),
        "z_dim": ("post_quant_conv.weight", 0),
    }
    return {
        name: state[key].shape[axis]
        for name, (key, axis) in places.items()
        if key in state and state[key].ndim > axis
    }


def _check_channels(card: ModelCard, model: WanAutoencoder, path: Path) -> None:
    config, channels = model.config, card.transformer.in_channels
    if config.z_dim != channels:
        raise WeightsError(
            f"{path}: this VAE has latents of {config.z_dim} channels, {card.name} makes {channels}"
        )
    if not len(config.latents_mean) == len(config.latents_std) == channels:
        raise InvalidConfig(f"{card.name}: vae.latents_mean and latents_std need {channels} numbers each")


def _folder_model(config_file: Path) -> WanAutoencoder:
    with reading(config_file):
        values = json.loads(config_file.read_text())
        if not isinstance(values, dict):
            raise TypeError(f"a {type(values).__name__}, not an object")
        config = VaeConfig.of(values)
        model = _empty_model(config)
        mean, std = (torch.tensor(values) for values in (config.latents_mean, config.latents_std))
        if not mean.shape == std.shape == (config.z_dim,):
            raise ValueError("latents_mean and latents_std need z_dim numbers each")
        return model


def _empty_model(config: VaeConfig) -> WanAutoencoder:
    with torch.device("meta"):
        return WanAutoencoder(config)


def _random_model(card: ModelCard, seed: int) -> WanAutoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WanAutoencoder(VaeConfig.of_card(card.vae))
