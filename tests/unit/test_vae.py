"""The streamed Wan VAE against diffusers' own whole decode."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.nn.functional import interpolate

from cascade_core.config import ModelCard, find_card
from cascade_core.errors import WeightsError
from cascade_core.media.vae import WanVae, load_vae
from cascade_core.media.wan_autoencoder import VaeConfig, WanAutoencoder
from cascade_core.weights.locate import locate_part
from demo_world.world import Scene, World

CPU, FLOAT = torch.device("cpu"), torch.float32
SMALL: dict[str, Any] = {"base_dim": 4, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "demo": dict(find_card("demo").vae),
    "small": SMALL,
    "wan22": {
        "base_dim": 4,
        "decoder_base_dim": 6,
        "z_dim": 48,
        "dim_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "temperal_downsample": [False, True, True],
        "is_residual": True,
        "patch_size": 2,
        "in_channels": 12,
        "out_channels": 12,
        "latents_mean": [0.1 * (n % 5 - 2) for n in range(48)],
        "latents_std": [0.5 + n / 48 for n in range(48)],
    },
}
"""The last is Wan 2.2's, narrower."""


def make_model(config: dict[str, Any]) -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(**config).eval()


def streamed(model: AutoencoderKLWan, dtype: torch.dtype) -> WanVae:
    """Ours, with its weights."""
    ours = WanAutoencoder(VaeConfig.of(model.config))
    ours.load_state_dict(model.state_dict())
    return WanVae(ours, CPU, dtype)


def make_latents(num_frames: int = 9, seed: int = 1, channels: int = 16) -> Tensor:
    return torch.randn(num_frames, channels, 4, 6, generator=torch.Generator().manual_seed(seed))


def latents_for(name: str) -> Tensor:
    return make_latents(channels=CONFIGS[name].get("z_dim", 16))


@torch.no_grad()
def whole_decode(model: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """[F, 16, h, w] as the transformer makes them -> [T, 3, H, W] by diffusers' public `decode`."""
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (model.config.latents_mean, model.config.latents_std)
    )
    decoded: Tensor = model.decode(latents.transpose(0, 1)[None] * std + mean).sample
    return decoded[0].transpose(0, 1)


@pytest.fixture
def card() -> ModelCard:
    return find_card("demo")


@pytest.mark.parametrize("name", CONFIGS)
def test_streamed_equals_whole(name: str) -> None:
    latents = latents_for(name)
    expected = whole_decode(make_model(CONFIGS[name]), latents)
    decoder = streamed(make_model(CONFIGS[name]), FLOAT)
    session = decoder.open()
    blocks = [decoder.decode_float(session, block) for block in torch.split(latents, 3)]
    assert [len(block) for block in blocks] == [9, 12, 12]
    assert expected.std() > 0.01
    torch.testing.assert_close(torch.cat(blocks), expected, atol=1e-5, rtol=0)


def test_frames_are_pixels(card: ModelCard) -> None:
    expected = whole_decode(make_model(CONFIGS["demo"]), make_latents(3))
    decoder = streamed(make_model(CONFIGS["demo"]), FLOAT)
    frames = decoder.decode(decoder.open(), make_latents(3))
    assert (frames.dtype, frames.shape) == (torch.uint8, (9, 32, 48, 3))
    assert (frames.float() - (expected.permute(0, 2, 3, 1) / 2 + 0.5) * 255).abs().max() <= 0.51


@pytest.mark.parametrize("name", ["demo", "wan22"])
def test_bfloat16_is_as_good_on_the_screen(name: str) -> None:
    """Off by less than one of 255 levels on average, though random weights forgive less than trained ones."""
    frames: dict[torch.dtype, Tensor] = {}
    for dtype in (FLOAT, torch.bfloat16):
        decoder = streamed(make_model(CONFIGS[name]), dtype)
        session = decoder.open()
        blocks = [decoder.decode(session, block) for block in torch.split(latents_for(name), 3)]
        frames[dtype] = torch.cat(blocks).float()
    error = (frames[torch.bfloat16] - frames[FLOAT]).abs()
    assert frames[FLOAT].std() > 10
    assert error.mean() < 1


def test_sessions_do_not_disturb_each_other() -> None:
    decoder = streamed(make_model(SMALL), FLOAT)
    clips = [make_latents(seed=seed) for seed in (1, 2)]
    alone = []
    for clip in clips:
        session = decoder.open()
        alone.append(torch.cat([decoder.decode(session, block) for block in torch.split(clip, 3)]))
    sessions = [decoder.open(), decoder.open()]
    together: list[list[Tensor]] = [[], []]
    for blocks in zip(*(torch.split(clip, 3) for clip in clips), strict=True):
        for session, block, frames in zip(sessions, blocks, together, strict=True):
            frames.append(decoder.decode(session, block))
    assert all(torch.equal(one, torch.cat(frames)) for one, frames in zip(alone, together, strict=True))


@pytest.mark.parametrize(("name", "num_frames"), [("demo", 28), ("wan22", 38)])
def test_how_far_its_layers_look_back(name: str, num_frames: int) -> None:
    """Whatever the weights: opened so many latent frames before, it makes the very same pictures."""
    decoder = streamed(make_model(CONFIGS[name]), torch.float64)
    latents = make_latents(num_frames + 3, channels=CONFIGS[name].get("z_dim", 16))[..., :2, :2]

    def last_pictures(first: int) -> Tensor:
        session = decoder.open()
        if first:
            decoder.decode_float(session, latents[first : first + 1])
        return decoder.decode_float(session, latents[first:])[-4:]

    undisturbed = last_pictures(0)
    assert torch.equal(last_pictures(2), undisturbed)
    assert not torch.equal(last_pictures(3), undisturbed)


def test_random_weights_follow_the_seed_and_leave_the_global_one(card: ModelCard) -> None:
    def decode(seed: int) -> Tensor:
        decoder = load_vae(card, None, CPU, FLOAT, seed)
        return decoder.decode_float(decoder.open(), make_latents(1))

    before = torch.get_rng_state()
    assert torch.equal(decode(3), decode(3))
    assert not torch.equal(decode(3), decode(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_diffusers_folder_loads(card: ModelCard, tmp_path: Path) -> None:
    model = make_model(CONFIGS["demo"])
    model.save_pretrained(tmp_path / "vae")
    decoder = load_vae(card, tmp_path / "vae", CPU, FLOAT)
    frames = decoder.decode_float(decoder.open(), make_latents(3))
    torch.testing.assert_close(frames, whole_decode(model, make_latents(3)), atol=1e-5, rtol=0)


def test_pth_takes_the_cards_sizes(card: ModelCard, tmp_path: Path) -> None:
    """Original key names are the business of test_weights.py; diffusers' own pass the converter unchanged."""
    model = make_model(CONFIGS["demo"])
    torch.save(model.state_dict(), tmp_path / "vae.pth")
    decoder = load_vae(card, tmp_path / "vae.pth", CPU, FLOAT)
    frames = decoder.decode_float(decoder.open(), make_latents(3))
    torch.testing.assert_close(frames, whole_decode(model, make_latents(3)), atol=1e-5, rtol=0)


def card_for(name: str) -> ModelCard:
    """The demo's, with that VAE."""
    card, config = find_card("demo"), CONFIGS[name]
    return replace(
        card, vae=config, transformer=replace(card.transformer, in_channels=config.get("z_dim", 16))
    )


ORIGINAL_NAMES: list[tuple[str, Any]] = [
    (r"\.down_blocks\.(\d)\.resnets\.(\d)\.", r".downsamples.\1.downsamples.\2."),
    (r"\.up_blocks\.(\d)\.resnets\.(\d)\.", r".upsamples.\1.upsamples.\2."),
    (r"\.down_blocks\.(\d)\.downsampler\.", r".downsamples.\1.downsamples.2."),
    (r"\.up_blocks\.(\d)\.upsampler\.", r".upsamples.\1.upsamples.3."),
    (r"\.mid_block\.resnets\.(\d)\.", lambda found: f".middle.{2 * int(found[1])}."),
    (r"\.mid_block\.attentions\.0\.", r".middle.1."),
    (r"\.norm1\.", ".residual.0."),
    (r"\.conv1\.", ".residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"\.conv_in\.", ".conv1."),
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
]
"""diffusers' names of Wan 2.2's VAE -> those of the published file, Wan2.2_VAE.pth."""


def original(name: str) -> str:
    for pattern, replacement in ORIGINAL_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def test_the_original_file_of_wan22_loads(tmp_path: Path) -> None:
    model = make_model(CONFIGS["wan22"])
    torch.save({original(name): value for name, value in model.state_dict().items()}, tmp_path / "vae.pth")
    vae = load_vae(card_for("wan22"), tmp_path / "vae.pth", CPU, FLOAT)
    latents = make_latents(2, channels=48)
    frames = vae.decode_float(vae.open(), latents)
    torch.testing.assert_close(frames, whole_decode(model, latents), atol=1e-5, rtol=0)


def test_a_pruned_file_tells_its_widths_itself(tmp_path: Path) -> None:
    """The card says how wide the whole one is; encoder and decoder may be pruned unlike each other."""
    model = make_model(CONFIGS["demo"] | {"base_dim": 4, "decoder_base_dim": 6})
    torch.save(model.state_dict(), tmp_path / "light.pth")
    vae = load_vae(card_for("demo"), tmp_path / "light.pth", CPU, FLOAT)
    frames = vae.decode_float(vae.open(), make_latents(2))
    torch.testing.assert_close(frames, whole_decode(model, make_latents(2)), atol=1e-5, rtol=0)


def test_a_vae_of_other_channels_is_refused(tmp_path: Path) -> None:
    torch.save(make_model(CONFIGS["wan22"]).state_dict(), tmp_path / "vae.pth")
    make_model(CONFIGS["wan22"]).save_pretrained(tmp_path / "vae")
    for name in ("vae.pth", "vae"):
        with pytest.raises(WeightsError, match=r"latents of 48 channels, demo makes 16"):
            load_vae(card_for("demo"), tmp_path / name, CPU, FLOAT)


def test_bad_folders_are_refused(card: ModelCard, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_vae(card, tmp_path, CPU, FLOAT)
    make_model(SMALL).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"base_dim": 4', '"base_dim": 8'))
    with pytest.raises(WeightsError, match="misshapen"):
        load_vae(card, tmp_path, CPU, FLOAT)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    with pytest.raises(WeightsError, match="diffusion_pytorch_model"):
        load_vae(card, tmp_path, CPU, FLOAT)


@pytest.mark.parametrize(
    "config",
    [
        "[]",
        '"owner/name"',
        "cut",
        '{"z_dim": "x"}',
        '{"dim_mult": 3}',
        '{"latents_mean": "x"}',
        '{"latents_std": [1.0, 2.0]}',
    ],
)
def test_a_damaged_config_is_refused_by_name(card: ModelCard, tmp_path: Path, config: str) -> None:
    make_model(SMALL).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(WeightsError, match=r"^reading .*config\.json failed: [^\n]+$"):
        load_vae(card, tmp_path, CPU, FLOAT)


def make_pictures(num_pictures: int = 33, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num_pictures, 3, 6, 8, generator=generator)
    smooth = interpolate(coarse, size=(32, 48), mode="bilinear")
    return (smooth * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@torch.no_grad()
def whole_encode(model: AutoencoderKLWan, pictures: Tensor) -> Tensor:
    """[T, H, W, 3] -> [F, C, h, w] as the transformer wants them, by diffusers' public `encode`."""
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (model.config.latents_mean, model.config.latents_std)
    )
    video = pictures.permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    latents: Tensor = (model.encode(video).latent_dist.mode() - mean) / std
    return latents[0].transpose(0, 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_encoded_by_blocks_equals_encoded_whole(name: str) -> None:
    pictures, expected = make_pictures(), whole_encode(make_model(CONFIGS[name]), make_pictures())
    vae = streamed(make_model(CONFIGS[name]), FLOAT)
    state = vae.open_encoder()
    blocks = [vae.encode(state, block) for block in pictures.split([9, 12, 12])]
    assert expected.std() > 0.01
    assert [len(block) for block in blocks] == [3, 3, 3]
    torch.testing.assert_close(torch.cat(blocks), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_picture_alone_is_the_first_latent_of_its_clip(name: str) -> None:
    vae = streamed(make_model(CONFIGS[name]), FLOAT)
    alone = vae.encode(vae.open_encoder(), make_pictures()[:1])
    clip = vae.encode(vae.open_encoder(), make_pictures()[:9])
    torch.testing.assert_close(alone, clip[:1], atol=1e-5, rtol=0)


def test_clips_do_not_disturb_each_other() -> None:
    vae = streamed(make_model(SMALL), FLOAT)
    clips = [make_pictures(21, seed).split([9, 12]) for seed in (1, 2)]
    alone = [[vae.encode(state, block) for block in clip] for clip in clips for state in [vae.open_encoder()]]
    states = [vae.open_encoder(), vae.open_encoder()]
    together = [
        [vae.encode(state, clip[index]) for state, clip in zip(states, clips, strict=True)]
        for index in (0, 1)
    ]
    for clip, blocks in zip(alone, zip(*together, strict=True), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(clip, blocks, strict=True))


def test_the_demos_vae_knows_its_own_pictures_again(card: ModelCard) -> None:
    """Trained weights: what it encodes it decodes to nearly the same, and its latents have the scale of
    noise."""
    vae = load_vae(card, locate_part(card, None, "vae"), CPU, FLOAT)
    frames = torch.from_numpy(World(seed=1).frames(Scene("red", "circle", "right", "white"), 21))
    encoder, decoder = vae.open_encoder(), vae.open()
    latents = [vae.encode(encoder, block) for block in frames.split([9, 12])]
    assert 0.5 < torch.cat(latents).std() < 2
    again = torch.cat([vae.decode(decoder, block) for block in latents])
    error = (again.float() - frames.float()).square().mean()
    assert 10 * torch.log10(255**2 / error) > 30  # dB
