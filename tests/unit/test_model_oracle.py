"""One full-attention forward against diffusers' own Wan transformer with the same weights."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from torch import Tensor

from cascade_core.attention.rope import RotaryTable
from cascade_core.config import TransformerConfig
from cascade_core.model.model import CausalWanModel, Conditioning
from tests.support import CPU, relative_error, tiny_model

SMALL = TransformerConfig(
    dim=48, ffn_dim=80, num_heads=2, num_layers=3, text_dim=12, text_len=8, in_channels=4, freq_dim=32
)
WIDE_HEADS = TransformerConfig(
    dim=256, ffn_dim=320, num_heads=2, num_layers=2, text_dim=16, text_len=8, in_channels=16
)
"""Heads of 128 and 256 time frequencies, as in the real models."""


def oracle_of(model: CausalWanModel) -> WanTransformer3DModel:
    config = model.config
    oracle = WanTransformer3DModel(
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
    oracle.load_state_dict(convert_wan_transformer_to_diffusers(state), strict=True)
    return oracle.eval()


def attend_to_all(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every token of every block sees every token; [N, L, H, D] in and out."""
    whole = [part.flatten(0, 1).transpose(0, 1)[None] for part in (query, key, value)]
    return F.scaled_dot_product_attention(*whole)[0].transpose(0, 1).unflatten(0, query.shape[:2])


def velocity(model: CausalWanModel, latents: Tensor, timesteps: list[float], prompt: Tensor) -> Tensor:
    """Velocity [N, F, C, h, w] of blocks [N, F, C, h, w] that follow one another in one video."""
    blocks, frames, _, height, width = latents.shape
    starts = [block * frames for block in range(blocks)]
    turns = RotaryTable(frames, height // 2, width // 2, model.config.head_dim, CPU).turns(starts)
    time, modulation = model.embed_time(timesteps)
    text = (model.embed_text(prompt),) * blocks
    return model(latents, Conditioning(time, modulation, turns, text), attend_to_all)


def oracle_velocity(oracle: WanTransformer3DModel, video: Tensor, timestep: Tensor, prompt: Tensor) -> Tensor:
    """Velocity [F, C, h, w] of a video [F, C, h, w]; the prompt is padded with zeros here."""
    padded = torch.zeros(1, SMALL.text_len, prompt.shape[1])
    padded[0, : prompt.shape[0]] = prompt
    whole = video.transpose(0, 1)[None]
    return oracle(whole, timestep, padded, return_dict=False)[0][0].transpose(0, 1)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=[SMALL, WIDE_HEADS], ids=["small", "head_dim_128"])
def pair(request: pytest.FixtureRequest) -> tuple[CausalWanModel, WanTransformer3DModel]:
    model = tiny_model(request.param, seed=3)
    return model, oracle_of(model)


Pair = tuple[CausalWanModel, WanTransformer3DModel]


@pytest.mark.parametrize(
    ("frames", "height", "width"), [(1, 2, 2), (3, 4, 4), (3, 6, 10), (5, 8, 4), (7, 2, 12), (21, 4, 6)]
)
@torch.inference_mode()
def test_one_forward_equals_the_oracle(pair: Pair, frames: int, height: int, width: int) -> None:
    model, oracle = pair
    latents = random(1, frames, model.config.in_channels, height, width, seed=frames)
    prompt = random(model.config.text_len, model.config.text_dim, seed=1)
    expected = oracle_velocity(oracle, latents[0], torch.tensor([625.0]), prompt)
    assert relative_error(velocity(model, latents, [625.0], prompt)[0], expected) < 1e-5


@pytest.mark.parametrize("timestep", [0.0, 1.0, 250.0, 833.3333333, 937.5, 1000.0])
@torch.inference_mode()
def test_every_timestep(pair: Pair, timestep: float) -> None:
    model, oracle = pair
    latents = random(1, 3, model.config.in_channels, 4, 6, seed=0)
    prompt = random(model.config.text_len, model.config.text_dim, seed=1)
    expected = oracle_velocity(oracle, latents[0], torch.tensor([timestep], dtype=torch.float64), prompt)
    assert relative_error(velocity(model, latents, [timestep], prompt)[0], expected) < 1e-5


@pytest.mark.parametrize("num_tokens", [0, 1, 5, 8])
@torch.inference_mode()
def test_a_short_prompt_is_padded_with_zeros_that_count(pair: Pair, num_tokens: int) -> None:
    model, oracle = pair
    latents = random(1, 3, model.config.in_channels, 4, 4, seed=0)
    prompt = random(num_tokens, model.config.text_dim, seed=1)
    expected = oracle_velocity(oracle, latents[0], torch.tensor([937.5]), prompt)
    assert relative_error(velocity(model, latents, [937.5], prompt)[0], expected) < 1e-5


@pytest.mark.parametrize("num_blocks", [1, 2, 5])
@torch.inference_mode()
def test_blocks_side_by_side_at_their_own_timesteps(pair: Pair, num_blocks: int) -> None:
    """The oracle takes a timestep per token: blocks in flight are one video at several noise levels."""
    model, oracle = pair
    latents = random(num_blocks, 3, model.config.in_channels, 4, 6, seed=0)
    prompt = random(5, model.config.text_dim, seed=1)
    timesteps = [0.0, 625.0, 833.3333333, 937.5, 1000.0][:num_blocks]
    per_token = torch.tensor(timesteps, dtype=torch.float64).repeat_interleave(3 * 2 * 3)[None]
    expected = oracle_velocity(oracle, latents.flatten(0, 1), per_token, prompt)
    actual = velocity(model, latents, timesteps, prompt).flatten(0, 1)
    assert relative_error(actual, expected) < 1e-5


@torch.inference_mode()
def test_a_timestep_for_each_frame(pair: Pair) -> None:
    """As Wan 2.2 5B starts from a picture: its frame at 0 among those of the pass, block by block."""
    model, oracle = pair
    latents = random(2, 3, model.config.in_channels, 4, 6, seed=0)
    prompt = random(5, model.config.text_dim, seed=1)
    timesteps = [0.0, 833.0, 833.0, 999.0, 999.0, 999.0]
    per_token = torch.tensor(timesteps, dtype=torch.float64).repeat_interleave(2 * 3)[None]
    expected = oracle_velocity(oracle, latents.flatten(0, 1), per_token, prompt)
    time, modulation = model.embed_time(timesteps)
    turns = RotaryTable(3, 2, 3, model.config.head_dim, CPU).turns([0, 3])
    rows = turns.unflatten(1, (3, -1)).flatten(0, 1)
    cond = Conditioning(time, modulation, rows, (model.embed_text(prompt),) * 6)
    actual = model(latents, cond, attend_to_all).flatten(0, 1)
    assert relative_error(actual, expected) < 1e-5


@torch.inference_mode()
def test_the_comparison_sees_every_parameter(pair: Pair) -> None:
    """A parameter that did not matter would make the oracle blind to it."""
    model, oracle = pair
    latents = random(1, 3, model.config.in_channels, 4, 4, seed=0)
    prompt = random(5, model.config.text_dim, seed=1)
    expected = oracle_velocity(oracle, latents[0], torch.tensor([937.5]), prompt)
    for name, parameter in model.named_parameters():
        before = parameter.clone()
        parameter += 0.05 * random(*parameter.shape, seed=9)
        changed = relative_error(velocity(model, latents, [937.5], prompt)[0], expected)
        parameter.copy_(before)
        assert changed > 1e-4, name
