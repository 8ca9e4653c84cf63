"""The demo model's training: computes what inference computes, resumes, writes what the loader reads."""

from pathlib import Path
from random import Random

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor, nn

from cascade_core.config import ModelCard, TransformerConfig, make
from cascade_core.model.sampler import block_noise, clean_estimate, pass_sigmas, renoise
from cascade_core.model.text import load_text_encoder
from cascade_core.ranks.loading import build_model
from cascade_core.weights.locate import locate
from demo_world import dataset, train_vae, training
from demo_world.block_causal import BlockCausal
from demo_world.dataset import Dataset, make_dataset, script_of
from demo_world.export import save_checkpoint
from demo_world.tokenizer import make_tokenizer
from demo_world.train_transformer import DemoModel
from demo_world.world import World, describe, random_scene
from tests.support import (
    CPU,
    make_runner,
    prompt_embedding,
    relative_error,
    run_blocks,
    tiny_card,
    tiny_model,
    tiny_values,
)

NUM_BLOCKS, SEED = 4, 7


def padded_embedding(card: ModelCard, prompt: int) -> Tensor:
    embedding = prompt_embedding(card, prompt)
    rows = card.transformer.text_len - len(embedding)
    return torch.cat([embedding, torch.zeros(rows, embedding.shape[1])])


def test_the_training_forward_is_the_sequential_pipeline() -> None:
    """Sampling through the training forward, given the engine's blocks as context, gives its next block."""
    card = tiny_card(window_blocks=NUM_BLOCKS, rope="window")
    model = tiny_model(card)
    blocks = run_blocks(make_runner(card, card.sampling.num_passes, model=model), NUM_BLOCKS, seed=SEED)
    context = torch.stack([blocks[n] for n in range(NUM_BLOCKS)])[None]  # [1, K, F, C, h, w]
    forward = BlockCausal(card.transformer, compiled=False)
    forward.model = model
    embeddings = padded_embedding(card, 0).expand(1, NUM_BLOCKS, -1, -1)
    *sigmas, _ = pass_sigmas(card.sampling)

    def noise(index: int) -> Tensor:
        shape = tuple(context.shape[2:])
        return torch.stack([block_noise(SEED, n, index, shape) for n in range(NUM_BLOCKS)])[None]

    noisy = noise(0)
    for index, sigma in enumerate(sigmas):
        levels = torch.full((1, 1, NUM_BLOCKS), sigma)
        velocity = forward(context, noisy[:, None], levels, embeddings)[:, 0]
        clean = clean_estimate(noisy, velocity, sigma)
        if index + 1 < len(sigmas):
            noisy = renoise(clean, noise(index + 1), sigmas[index + 1])
    assert relative_error(clean, context) < 1e-5


def test_a_joint_forward_lets_noisy_blocks_see_the_clean_prefix_and_each_other_only() -> None:
    card = tiny_card()
    forward = BlockCausal(card.transformer, compiled=False)
    forward.model = tiny_model(card)
    generator = torch.Generator().manual_seed(0)
    context = torch.randn(1, 4, *card.latent_shape(32, 32), generator=generator)
    noisy = torch.randn(1, 2, *context.shape[1:], generator=generator)
    embeddings = torch.zeros(1, 4, card.transformer.text_len, card.transformer.text_dim)

    def velocity(context: Tensor, noisy: Tensor) -> Tensor:
        return forward(context, noisy, torch.full((1, 2, 4), 0.5), embeddings, prefix=2)

    before = velocity(context, noisy)
    changed = noisy.clone()
    changed[:, 0, 3] += 1  # the last block of the first copy
    moved = (velocity(context, changed) - before).abs().amax(dim=(0, 3, 4, 5, 6)) > 1e-6  # [copies, K]
    assert moved.tolist() == [[False, False, True, True], [False] * 4]
    changed = context.clone()
    changed[:, 2:] += 1  # clean blocks behind the prefix: nobody may look at them
    assert torch.equal(velocity(changed, noisy), before)
    changed[:, 1] += 1
    moved = (velocity(changed, noisy) - before).abs().amax(dim=(0, 3, 4, 5, 6)) > 1e-6
    assert moved.tolist() == [[False, False, True, True]] * 2


class Interrupted(Exception):
    pass


def fit(folder: Path, num_steps: int, stop_at: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))

    def loss(step: int) -> Tensor:
        if step == stop_at:
            raise Interrupted
        inputs = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(step))
        return (model(inputs) - inputs.mean(dim=(1, 2, 3))[:, None]).square().mean()

    state_file = folder / "state.pt"
    training.train(model, loss, num_steps=num_steps, muon_lr=0.01, adamw_lr=0.01, state_file=state_file)
    return model


def test_a_training_that_was_interrupted_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_STEPS", 4)
    straight = fit(tmp_path / "straight", 20)
    with pytest.raises(Interrupted):
        fit(tmp_path / "resumed", 20, stop_at=10)
    resumed = fit(tmp_path / "resumed", 20)
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_the_optimiser_trains_convolution_kernels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = nn.Conv2d(1, 4, 3).weight.clone()
    after = fit(tmp_path, 20).get_parameter("0.weight")
    assert (after - before).abs().min() > 1e-4


def test_the_vae_encoding_in_two_calls_is_the_classs_own() -> None:
    torch.manual_seed(0)
    model = AutoencoderKLWan(**{**train_vae.CONFIG, "base_dim": 8}).eval()
    video = train_vae.to_video(World(0).video(script_of(0, 0)[:2]))[None, :, :, :32, :32]
    with torch.inference_mode():
        expected = model.encode(video).latent_dist.parameters
        torch.testing.assert_close(train_vae.encode(model, video), expected, rtol=1e-4, atol=1e-5)


def test_every_prompt_of_the_world_is_in_the_vocabulary() -> None:
    tokenizer, random = make_tokenizer(), Random(0)
    for _ in range(2000):
        prompt = describe(random_scene(random), random)
        tokens = tokenizer(prompt).input_ids
        assert tokenizer.unk_token_id not in tokens, prompt
        assert len(tokens) <= tokenizer.model_max_length
        assert tokens[-1] == tokenizer.eos_token_id


def make_vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(**{**train_vae.CONFIG, "base_dim": 4}).eval()


def test_the_dataset_is_made_once_and_says_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "SHARD", 2)
    made = make_dataset(make_vae(), tmp_path, seed=3, num_clips=3)
    stamps = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    make_dataset(make_vae(), tmp_path, seed=3, num_clips=3)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == stamps
    batch = made.batch(torch.Generator().manual_seed(0), num_clips=5, num_blocks=4)
    assert batch.latents.shape == (5, 4, 3, 16, 12, 12)
    scripts = [[describe_colours(scene.colour) for scene in script_of(3, index)] for index in range(3)]
    for clip in range(5):
        colours = [words(prompt) for prompt in batch.prompts[4 * clip : 4 * clip + 4]]
        assert any(fits(colours, script) for script in scripts)


def describe_colours(colour: str) -> set[str]:
    return {"purple", "violet"} if colour == "purple" else {colour}


def words(prompt: str) -> set[str]:
    return set(prompt.replace(",", " ").split())


def fits(prompts: list[set[str]], script: list[set[str]]) -> bool:
    """Whether the prompts name the colours of some stretch of the script, in order."""
    starts = range(len(script) - len(prompts) + 1)
    return any(all(p & script[start + i] for i, p in enumerate(prompts)) for start in starts)


def test_a_stretch_that_begins_late_gives_no_loss_on_its_first_block() -> None:
    latents = torch.arange(7.0).view(1, 7, 1, 1, 1, 1).expand(4, -1, 3, 2, 2, 2)
    batch = Dataset(latents, seed=0).batch(torch.Generator().manual_seed(1), num_clips=64, num_blocks=4)
    first = batch.latents[:, 0, 0, 0, 0, 0]
    assert 0 < (first > 0).sum() < 64
    assert torch.equal(batch.has_past[:, 0], (first == 0).float())
    assert batch.has_past[:, 1:].min() == 1


def test_the_checkpoint_is_read_by_the_ordinary_loader_and_by_diffusers(tmp_path: Path) -> None:
    dims = {"dim": 48, "ffn_dim": 64, "num_heads": 2, "num_layers": 2, "text_dim": 32, "text_len": 24}
    card = make(ModelCard, {**tiny_values(), "transformer": {**dims, "freq_dim": 16}})
    torch.manual_seed(0)
    model = DemoModel(card, make_tokenizer(), compiled=False).half().float().eval()
    prompt = "a red circle moves left on a white background"
    with torch.no_grad():
        expected = model.embed([prompt, "a blue box rests over sand"])[0]
    save_checkpoint(tmp_path, model.blocks.model, model.text_encoder, make_tokenizer(), make_vae())
    written = {file.suffix for file in tmp_path.rglob("*") if file.is_file()}
    assert written == {".json", ".safetensors"}

    files = locate(card, str(tmp_path))
    encoder = load_text_encoder(card, files, CPU, torch.float32)
    embedding = encoder.encode(prompt)
    torch.testing.assert_close(embedding, expected[: len(embedding)], rtol=1e-4, atol=1e-5)
    assert expected[len(embedding) :].abs().max() == 0
    loaded = build_model(card, files, 0, CPU, torch.float32)
    for name, value in model.blocks.model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, msg=name)
    assert isinstance(card.transformer, TransformerConfig)
    twin = WanTransformer3DModel.from_pretrained(tmp_path / "transformer")
    assert twin.config.num_layers == card.transformer.num_layers
