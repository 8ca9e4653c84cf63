"""The demo model's training: computes what inference computes, resumes, writes what the loader reads."""

import os
import signal
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, get_args

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor, nn

from cascade_core.config import ModelCard, TransformerConfig, make
from cascade_core.model.sampler import block_noise, clean_estimate, pass_sigmas, renoise
from cascade_core.model.text import load_text_encoder
from cascade_core.ranks.loading import build_model
from cascade_core.weights.locate import locate
from demo_world import dataset, train_vae, training
from demo_world.block_causal import BlockCausal, View, causal_views, joint_views, sequential_views
from demo_world.dataset import Dataset, make_dataset, script_of
from demo_world.export import save_checkpoint
from demo_world.rollout import roll_out
from demo_world.steps import DemoModel, Kind, Steps
from demo_world.tokenizer import make_tokenizer
from demo_world.train import main
from demo_world.train_transformer import PHASES, load_checkpoint, phase_at, train_transformer
from demo_world.training import FORMATS, Rates, train
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
    write_card,
)

NUM_BLOCKS, SEED = 5, 7


def padded_embedding(card: ModelCard, prompt: int) -> Tensor:
    embedding = prompt_embedding(card, prompt)
    rows = card.transformer.text_len - len(embedding)
    return torch.cat([embedding, torch.zeros(rows, embedding.shape[1])])


class Pipeline:
    """What the engine makes sequentially of one prompt, in more blocks than its window holds."""

    def __init__(self) -> None:
        self.card = tiny_card(window_blocks=3, rope="window")
        self.model = tiny_model(self.card)
        runner = make_runner(self.card, self.card.sampling.num_passes, model=self.model)
        blocks = run_blocks(runner, NUM_BLOCKS, seed=SEED)
        self.clean = torch.stack([blocks[n] for n in range(NUM_BLOCKS)])[None]  # [1, K, F, C, h, w]
        self.embeddings = padded_embedding(self.card, 0).expand(1, NUM_BLOCKS, -1, -1)
        self.sigmas = pass_sigmas(self.card.sampling)

    def noise(self, index: int) -> Tensor:
        shape = tuple(self.clean.shape[2:])
        return torch.stack([block_noise(SEED, n, index, shape) for n in range(NUM_BLOCKS)])[None]


def test_the_training_forward_is_the_sequential_pipeline() -> None:
    """Sampling through the training forward, given the engine's blocks as context, gives its next block."""
    pipeline = Pipeline()
    forward = BlockCausal(pipeline.card.transformer)
    forward.model = pipeline.model
    views = sequential_views(NUM_BLOCKS, 3)
    *sigmas, _ = pipeline.sigmas
    noisy = pipeline.noise(0)
    for index, sigma in enumerate(sigmas):
        levels = torch.full((1, 1, NUM_BLOCKS), sigma)
        velocity = forward(noisy[:, None], levels, pipeline.embeddings, views, pipeline.clean)[:, 0]
        clean = clean_estimate(noisy, velocity, sigma)
        if index + 1 < len(sigmas):
            noisy = renoise(clean, pipeline.noise(index + 1), sigmas[index + 1])
    assert relative_error(clean, pipeline.clean) < 1e-5


def test_a_rollout_is_the_sequential_pipeline() -> None:
    """From the engine's first block it makes the engine's others, and knows what each pass was given."""
    pipeline = Pipeline()
    *sigmas, _ = pipeline.sigmas
    noise = torch.stack([pipeline.noise(index) for index in range(len(sigmas))], dim=1)
    first = pipeline.clean[:, 0]
    own = roll_out(pipeline.model, first, pipeline.embeddings, noise, pipeline.sigmas, window=3)
    assert relative_error(own.clean, pipeline.clean) < 1e-5
    forward = BlockCausal(pipeline.card.transformer)
    forward.model = pipeline.model
    levels = torch.tensor(sigmas)[None, :, None].expand(1, -1, NUM_BLOCKS)
    views = sequential_views(NUM_BLOCKS, 3)
    velocity = forward(own.inputs, levels, pipeline.embeddings, views, own.clean)
    last = clean_estimate(own.inputs[:, -1], velocity[:, -1], sigmas[-1])
    assert relative_error(last[:, 1:], own.clean[:, 1:]) < 1e-5


VIEWS = {
    "sequential": (sequential_views(4, 3), [[0], [1], [2], [3]], [[1, 2], [2, 3], [3], []]),
    "causal": (causal_views(4, 3), [[0, 1, 2], [1, 2, 3], [2, 3], [3]], [[], [], [], []]),
    "joint": (joint_views(4, 2), [[0, 1, 2, 3], [1, 2, 3], [2, 3], [2, 3]], [[], [], [], []]),
}
"""By pattern: the views; whom a change of each noisy block reaches; and of each clean block."""


@pytest.mark.parametrize("pattern", VIEWS)
def test_a_block_sees_what_the_pattern_says_and_nothing_else(pattern: str) -> None:
    views, by_noisy, by_context = VIEWS[pattern]
    card = tiny_card(num_layers=1)  # with more of them, a change travels on from block to block
    forward = BlockCausal(card.transformer)
    forward.model = tiny_model(card)
    generator = torch.Generator().manual_seed(0)
    context = torch.randn(1, 4, *card.latent_shape(32, 32), generator=generator)
    noisy = torch.randn(1, 2, *context.shape[1:], generator=generator)
    embeddings = torch.zeros(1, 4, card.transformer.text_len, card.transformer.text_dim)

    def velocity(noisy: Tensor, context: Tensor) -> Tensor:
        clean = context if pattern == "sequential" else None
        return forward(noisy, torch.full((1, 2, 4), 0.5), embeddings, views, clean)

    before = velocity(noisy, context)

    def reached(noisy: Tensor, context: Tensor) -> list[list[int]]:
        moved = (velocity(noisy, context) - before).abs().amax(dim=(0, 3, 4, 5, 6)) > 1e-6  # [copies, K]
        return [row.nonzero().flatten().tolist() for row in moved]

    for block in range(4):
        changed = noisy.clone()
        changed[:, 0, block] += 1
        assert reached(changed, context) == [by_noisy[block], []]
        changed = context.clone()
        changed[:, block] += 1
        assert reached(noisy, changed) == [by_context[block]] * 2


def make_card() -> ModelCard:
    dims = {"dim": 48, "ffn_dim": 64, "num_heads": 2, "num_layers": 2, "text_dim": 32, "text_len": 24}
    values = tiny_values(window_blocks=5, rope="window")
    return make(ModelCard, {**values, "transformer": {**dims, "freq_dim": 16, "in_channels": 2}})


def make_clips() -> Dataset:
    shape = (4, dataset.NUM_BLOCKS, 3, 2, 4, 4)
    return Dataset(torch.randn(shape, generator=torch.Generator().manual_seed(0)).half(), seed=0)


def make_steps() -> Steps:
    torch.manual_seed(0)
    return Steps(DemoModel(make_card(), make_tokenizer()), make_card(), make_clips())


class Seen(Exception):
    """What a step was about to show: noise levels [B, R, K] and views."""


def shown(steps: Steps, kind: Kind, count: int) -> list[tuple[Tensor, list[View]]]:
    """Of some steps, which end there."""

    def stop(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        raise Seen(arguments[1], arguments[3])

    calls = []
    hook = steps.model.blocks.register_forward_pre_hook(stop)
    for step in range(count):
        with pytest.raises(Seen) as seen, torch.no_grad():
            steps.loss(kind, 60, 5, torch.Generator().manual_seed(step))
        calls.append(seen.value.args)
    hook.remove()
    return calls


def test_a_joint_step_has_one_noise_level_behind_its_clean_blocks() -> None:
    prefixes = set()
    for sigmas, views in shown(make_steps(), "joint", 20):
        prefix = int((sigmas[0, 0] == 0).sum())
        prefixes.add(prefix)
        assert views == joint_views(5, prefix)
        assert torch.all(sigmas[:, :, :prefix] == 0)
        assert torch.equal(sigmas[:, :, prefix:], sigmas[:, :, -1:].expand(-1, -1, 5 - prefix))
    assert prefixes == {0, 1, 2}


def test_in_an_independent_step_no_level_follows_from_a_blocks_place_or_another_level() -> None:
    calls = shown(make_steps(), "independent", 150)
    assert all(views == causal_views(5, 5) for _, views in calls)
    levels = torch.cat([sigmas[:, 0, 1:] for sigmas, _ in calls]).double()  # the first may have to be clean
    means = levels.mean(dim=0)
    assert (means - means.mean()).abs().max() < 0.03
    correlations = torch.corrcoef(levels.T) - torch.eye(4)
    assert correlations.abs().max() < 0.1
    falls, rises = (levels[:, :-1] > levels[:, 1:]).sum(), (levels[:, :-1] < levels[:, 1:]).sum()
    assert 0.9 < falls / rises < 1.1
    assert 0.17 < (levels == 0).double().mean() < 0.23


def test_a_noisy_block_of_a_sequential_step_and_of_a_rollout_sees_no_other() -> None:
    steps = make_steps()
    for kind in ("sequential", "rollout"):
        assert all(views == sequential_views(5, 5) for _, views in shown(steps, kind, 3))


def test_a_rollout_step_shows_the_models_own_video_after_a_true_block() -> None:
    steps = make_steps()
    contexts: list[Tensor] = []
    steps.model.blocks.register_forward_pre_hook(lambda _, args: contexts.append(args[4]))
    steps.loss("rollout", 60, 5, torch.Generator().manual_seed(0))
    [context] = contexts
    true = make_clips()._latents.float().flatten(0, 1)
    is_true = [[bool((true == block).all(dim=(1, 2, 3, 4)).any()) for block in clip] for clip in context]
    assert is_true == [[True, False, False, False, False]] * len(context)
    assert not context.requires_grad


def test_a_rollout_teaches_until_it_is_off_the_true_course(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that knows nothing is off it with its first own block, which is the last that counts."""
    [(sigmas, _)] = shown(make_steps(), "rollout", 1)
    assert (sigmas > 0).all(dim=(0, 1)).tolist() == [False, True, False, False, False]
    assert not sigmas[:, :, 2:].any()
    monkeypatch.setattr("demo_world.steps.ON_COURSE", 1e6)
    [(sigmas, _)] = shown(make_steps(), "rollout", 1)
    assert (sigmas > 0).all(dim=(0, 1)).tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("number_format", FORMATS)
def test_a_step_moves_every_weight(kind: Kind, number_format: str) -> None:
    steps = make_steps()
    with torch.no_grad():
        for parameter in steps.model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape)  # past the start, where nothing is predicted
    with torch.autocast("cpu", torch.bfloat16, enabled=number_format == "bfloat16"):
        loss = steps.loss(kind, 60, 5, torch.Generator().manual_seed(0))
    loss.backward()
    still = [
        name
        for name, parameter in steps.model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert not still


def test_the_phases_follow_each_other_in_the_familys_order() -> None:
    kinds = [phase_at(progress / 100).kinds for progress in range(101)]
    assert kinds == sorted(kinds, key=[phase.kinds for phase in PHASES].index)
    assert set(kinds) == {phase.kinds for phase in PHASES}
    assert phase_at(0.0, PHASES[1:]) == PHASES[1]


class Interrupted(Exception):
    pass


def fit(folder: Path, num_steps: int, stop_at: int | None = None, how: int | None = None) -> nn.Module:
    """Trained for `num_steps`; at step `stop_at` an error ends it, or the signal `how` asks it to stop."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))

    def loss(step: int) -> Tensor:
        if step == stop_at and how is None:
            raise Interrupted
        if step == stop_at:
            os.kill(os.getpid(), how)
        inputs = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(step))
        return (model(inputs) - inputs.mean(dim=(1, 2, 3))[:, None]).square().mean()

    rates = Rates(muon=0.01, adamw=0.01)
    state_file = folder / "state.pt"
    train(model, loss, num_steps=num_steps, rates=rates, state_file=state_file, number_format="float32")
    return model


def assert_same_weights(model: nn.Module, expected: nn.Module) -> None:
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_a_training_that_broke_off_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_STEPS", 4)
    straight = fit(tmp_path / "straight", 20)
    with pytest.raises(Interrupted):
        fit(tmp_path / "resumed", 20, stop_at=10)
    assert torch.load(tmp_path / "resumed/state.pt")["step"] == 8
    assert_same_weights(fit(tmp_path / "resumed", 20), straight)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_training_asked_to_stop_has_lost_no_step(tmp_path: Path, how: int) -> None:
    handler = signal.getsignal(how)
    straight = fit(tmp_path / "straight", 20)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "resumed", 20, stop_at=10, how=how)
    assert torch.load(tmp_path / "resumed/state.pt")["step"] == 11
    assert signal.getsignal(how) == handler
    assert_same_weights(fit(tmp_path / "resumed", 20), straight)


def test_the_transformers_training_resumes_in_every_phase_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_STEPS", 1)

    def run(folder: Path, last: int = 9) -> DemoModel:
        loss = Steps.loss

        def stopping(self: Steps, *arguments: Any) -> Tensor:
            if (step := next(steps)) == last:
                raise Interrupted
            assert step < last
            return loss(self, *arguments)

        steps = count(torch.load(folder / "transformer.pt")["step"] if folder.exists() else 0)
        monkeypatch.setattr(Steps, "loss", stopping)
        try:
            return train_transformer(
                make_card(), make_clips(), make_tokenizer(), folder,
                compiled=False, num_steps=9, number_format="float32",
            )  # fmt: skip
        finally:
            monkeypatch.setattr(Steps, "loss", loss)

    straight = run(tmp_path / "straight")
    for last in (2, 5, 8):  # joint; independent, sequential; rollout
        with pytest.raises(Interrupted):
            run(tmp_path / "resumed", last)
    assert_same_weights(run(tmp_path / "resumed"), straight)


def test_the_number_format_is_measured_once_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nn.Linear(4, 1)

    def run(num_steps: int) -> str:
        rates = Rates(muon=0.01, adamw=0.01)
        state_file = tmp_path / "state.pt"
        train(
            model,
            lambda _: model(torch.ones(4)).sum(),
            num_steps=num_steps,
            rates=rates,
            state_file=state_file,
        )
        return str(torch.load(state_file)["number_format"])

    chosen = run(2)
    assert f"number format {chosen} (processor seconds" in capsys.readouterr().out
    monkeypatch.setattr(training, "fastest_format", None)
    model.requires_grad_(True)
    assert run(4) == chosen


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
    latents = torch.arange(9.0).view(1, 9, 1, 1, 1, 1).expand(4, -1, 3, 2, 2, 2)
    batch = Dataset(latents, seed=0).batch(torch.Generator().manual_seed(1), num_clips=64, num_blocks=4)
    first = batch.latents[:, 0, 0, 0, 0, 0]
    assert 0 < (first > 0).sum() < 64
    assert torch.equal(batch.has_past[:, 0], (first == 0).float())
    assert batch.has_past[:, 1:].min() == 1


def test_the_checkpoint_is_read_by_the_ordinary_loader_and_by_diffusers(tmp_path: Path) -> None:
    dims = {"dim": 48, "ffn_dim": 64, "num_heads": 2, "num_layers": 2, "text_dim": 32, "text_len": 24}
    card = make(ModelCard, {**tiny_values(), "transformer": {**dims, "freq_dim": 16}})
    torch.manual_seed(0)
    model = DemoModel(card, make_tokenizer()).half().float().eval()
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
    again = DemoModel(card, make_tokenizer())
    load_checkpoint(again, card, tmp_path)
    assert_same_weights(again, model.float())


def test_one_command_trains_from_nothing_and_goes_on_from_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_vae, "CONFIG", {**train_vae.CONFIG, "base_dim": 4})
    monkeypatch.setattr(train_vae, "NORMAL_CLIPS", 8)
    write_card(Path("tiny.toml"), window_blocks=5, in_channels=16, text_dim=32, text_len=24)
    options = ["--card", "tiny.toml", "--clips", "2", "--compile", "no", "--format", "float32"]
    main([*options, "--work", "a", "--out", "first", "--vae-steps", "1", "--steps", "3"])
    main([*options, "--work", "b", "--out", "second", "--from", "first", "--steps", "1", "--seed", "1"])
    parts = {"transformer", "text_encoder", "tokenizer", "vae"}
    for folder in ("first", "second"):
        assert {part.name for part in Path(folder).iterdir()} == parts
    weights = "transformer/diffusion_pytorch_model.safetensors"
    first, second = load_file(f"first/{weights}"), load_file(f"second/{weights}")
    moved = [(first[name].float() - second[name].float()).abs().max() for name in first]
    assert (
        0 < max(moved) < 0.01
    )  # one step from where the first training ended, not from other random weights


def test_a_folder_that_is_no_checkpoint_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--from", str(tmp_path)])
    assert f"argument --from: {tmp_path} is not the folder of a checkpoint" in capsys.readouterr().err
