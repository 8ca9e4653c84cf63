"""TAEHV: streamed against a whole-clip decode restated here, the public key layout, and bad files."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import conv2d, pixel_shuffle, relu

from cascade_core.config import find_card
from cascade_core.errors import WeightsError
from cascade_core.media.taehv import TaehvDecoder, TaehvModel, load_taehv
from cascade_core.media.video_decoder import to_pixels

CPU, FLOAT = torch.device("cpu"), torch.float32
CARD = find_card("demo")
WAN22 = replace(
    CARD, transformer=replace(CARD.transformer, in_channels=48), video=replace(CARD.video, vae_factor=16)
)


def made(model: TaehvModel) -> dict[str, Tensor]:
    """Random weights, scaled so that frames are neither flat nor clipped."""
    torch.manual_seed(1)
    state = model.state_dict()
    for key, value in state.items():
        value.normal_(std=0.05 if key.endswith("bias") else (1.5 / value[0].numel()) ** 0.5)
    state["decoder.22.weight"] *= 0.1
    state["decoder.22.bias"] += 0.5
    return state


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return made(TaehvModel())


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(9, 16, 4, 6, generator=torch.Generator().manual_seed(2)) * 2


@pytest.fixture
def decoder(state: dict[str, Tensor], tmp_path: Path) -> TaehvDecoder:
    torch.save(state, tmp_path / "taew2_1.pth")
    return load_taehv(CARD, tmp_path / "taew2_1.pth", CPU, FLOAT)


def whole_decode(state: dict[str, Tensor], z: Tensor) -> Tensor:
    """The whole clip [F, 16, h, w] at once, as published: [4F - 3, 3, 8h, 8w] in [0, 1]."""

    def conv(x: Tensor, name: str) -> Tensor:
        weight = state[f"decoder.{name}.weight"]
        return conv2d(x, weight, state.get(f"decoder.{name}.bias"), padding=weight.shape[-1] // 2)

    def remember(x: Tensor, layer: int) -> Tensor:
        shifted = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
        y = relu(conv(torch.cat([x, shifted], 1), f"{layer}.conv.0"))
        return relu(conv(relu(conv(y, f"{layer}.conv.2")), f"{layer}.conv.4") + x)

    x = relu(conv(3 * torch.tanh(z / 3), "1"))
    for first in (3, 9, 15):
        for layer in range(first, first + 3):
            x = remember(x, layer)
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        channels = x.shape[1]
        x = conv(x, f"{first + 4}.conv").reshape(-1, channels, *x.shape[2:])
        x = conv(x, str(first + 5))
    return conv(relu(x), "22").clamp(0, 1)[3:]


def test_has_the_layout_of_the_public_weights() -> None:
    shapes = {key: list(value.shape) for key, value in TaehvModel().state_dict().items()}
    assert len(shapes) == 64
    assert shapes["decoder.1.weight"] == [256, 16, 3, 3]
    assert shapes["decoder.3.conv.0.weight"] == [256, 512, 3, 3]
    assert shapes["decoder.7.conv.weight"] == [256, 256, 1, 1]
    assert shapes["decoder.8.weight"] == [128, 256, 3, 3]
    assert shapes["decoder.13.conv.weight"] == [256, 128, 1, 1]
    assert shapes["decoder.14.weight"] == [64, 128, 3, 3]
    assert shapes["decoder.19.conv.weight"] == [128, 64, 1, 1]
    assert shapes["decoder.20.weight"] == [64, 64, 3, 3]
    assert shapes["decoder.22.weight"] == [3, 64, 3, 3]
    assert {"decoder.1.bias", "decoder.22.bias"} <= shapes.keys()
    assert not shapes.keys() & {"decoder.8.bias", "decoder.7.conv.bias"}


def test_streamed_equals_whole(decoder: TaehvDecoder, state: dict[str, Tensor], latents: Tensor) -> None:
    session = decoder.open()
    blocks = [decoder.decode_float(session, block) for block in torch.split(latents, 3)]
    whole = whole_decode(state, latents)
    assert 0.1 < whole.std() < 0.5
    assert [len(block) for block in blocks] == [9, 12, 12]
    torch.testing.assert_close(torch.cat(blocks), whole * 2 - 1, atol=1e-5, rtol=0)


def test_wan22_has_more_channels_and_patches_of_pixels(tmp_path: Path) -> None:
    state = made(TaehvModel(48, 2))
    assert list(state["decoder.1.weight"].shape) == [256, 48, 3, 3]
    assert list(state["decoder.22.weight"].shape) == [12, 64, 3, 3]
    save_file(state, tmp_path / "taew2_2.safetensors")
    decoder = load_taehv(WAN22, tmp_path / "taew2_2.safetensors", CPU, FLOAT)
    latents = torch.randn(4, 48, 3, 4, generator=torch.Generator().manual_seed(2)) * 2
    session = decoder.open()
    blocks = torch.cat([decoder.decode_float(session, block) for block in torch.split(latents, 2)])
    whole = pixel_shuffle(whole_decode(state, latents), 2)
    assert whole.shape == (13, 3, 48, 64)
    torch.testing.assert_close(blocks, whole.clamp(0, 1) * 2 - 1, atol=1e-5, rtol=0)


def test_the_file_of_the_other_vae_is_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "taew2_1.pth")
    with pytest.raises(WeightsError, match=r"of 16 channels, demo makes 48: take taew2_2"):
        load_taehv(WAN22, tmp_path / "taew2_1.pth", CPU, FLOAT)


def test_sessions_do_not_disturb_each_other(decoder: TaehvDecoder, latents: Tensor) -> None:
    first, second = latents, latents.flip(0)
    alone = [decoder.decode(one, z) for one in [decoder.open()] for z in torch.split(first, 3)]
    a, b = decoder.open(), decoder.open()
    together = []
    for block_a, block_b in zip(torch.split(first, 3), torch.split(second, 3), strict=True):
        together.append(decoder.decode(a, block_a))
        decoder.decode(b, block_b)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_frames_are_pixels(decoder: TaehvDecoder, state: dict[str, Tensor], latents: Tensor) -> None:
    frames = decoder.decode(decoder.open(), latents[:3])
    assert (frames.dtype, frames.shape) == (torch.uint8, (9, 32, 48, 3))
    expected = (whole_decode(state, latents[:3]) * 255).permute(0, 2, 3, 1)
    assert (frames.float() - expected).abs().max() <= 0.51


def test_safetensors_load_too_and_the_encoder_is_ignored(
    decoder: TaehvDecoder, state: dict[str, Tensor], latents: Tensor, tmp_path: Path
) -> None:
    save_file({**state, "encoder.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "tae.safetensors")
    other = load_taehv(CARD, tmp_path / "tae.safetensors", CPU, FLOAT)
    assert torch.equal(decoder.decode(decoder.open(), latents[:3]), other.decode(other.open(), latents[:3]))


def test_random_weights_follow_the_seed(latents: Tensor) -> None:
    def decode(seed: int) -> Tensor:
        decoder = load_taehv(CARD, None, CPU, FLOAT, seed)
        return decoder.decode_float(decoder.open(), latents[:1])

    assert torch.equal(decode(3), decode(3))
    assert not torch.equal(decode(3), decode(4))


def test_wrong_tensors_are_all_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    wrong = {key: value for key, value in state.items() if key != "decoder.8.weight"}
    wrong |= {"decoder.99.weight": torch.zeros(1), "decoder.7.conv.weight": torch.zeros(512, 256, 1, 1)}
    torch.save(wrong, tmp_path / "wrong.pth")
    with pytest.raises(WeightsError) as caught:
        load_taehv(CARD, tmp_path / "wrong.pth", CPU, FLOAT)
    for part in (
        "wrong.pth",
        "decoder.8.weight",
        "decoder.99.weight",
        "decoder.7.conv.weight [512, 256, 1, 1]",
    ):
        assert part in str(caught.value)


def test_absent_and_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "damaged.pth").write_bytes(b"PK\x03\x04 cut")
    for name in ("damaged.pth", "absent.pth"):
        with pytest.raises(WeightsError, match=name):
            load_taehv(CARD, tmp_path / name, CPU, FLOAT)


def test_pixels_round_and_clip() -> None:
    video = torch.tensor([-1.2, -1.0, 0.0, 1.0, 1.2]).view(5, 1, 1, 1).expand(5, 3, 1, 1)
    assert to_pixels(video)[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]
