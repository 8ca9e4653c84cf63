"""LoRAs beside the weights give what the same LoRAs merged into the weights give, block by block."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cascade_core.config import EngineConfig, ListedLora, ModelCard, SwitchMode, check_engine, find_card, make
from cascade_core.errors import InvalidConfig, InvalidRequest, WeightsError
from cascade_core.loras import Choice, LoraChoice, check_choices
from cascade_core.model.lora_bank import LoraBank
from cascade_core.model.low_rank import TARGETS, beside
from cascade_core.model.model import CausalWanModel, Conditioning
from cascade_core.ranks.loading import build_bank, build_model
from cascade_core.ranks.runner import Runner
from cascade_core.weights.listed import read_listed
from cascade_core.weights.locate import locate_listed
from tests.support import (
    CPU,
    Drive,
    make_runner,
    relative_error,
    run_blocks,
    tiny_bank,
    tiny_card,
    tiny_model,
)
from tests.unit.test_lora import (
    ADAPTER,
    FFN,
    FORMS,
    LAYER_LINEARS,
    RANK,
    STATE,
    Q,
    in_folder,
    lora,
    pair,
    with_pairs,
    written,
)
from tests.unit.tiny_wan import meta_model

CHOICES: list[Choice] = [((0, 1.0),), (), ((0, 0.5), (2, -1.0)), ((1, 1.0), (0, 0.7), (2, 0.3))]
"""Of four prompts, for `tiny_bank`."""


class Merged:
    """The oracle: each block runs through a model of its own, in whose weights its choice is merged."""

    def __init__(self, model: CausalWanModel, bank: LoraBank) -> None:
        self._model, self._bank = model, bank
        self._models: dict[Choice, CausalWanModel] = {}
        self.config, self.device, self.dtype = model.config, model.device, model.dtype
        self.embed_time = model.embed_time

    def of(self, choice: Choice) -> CausalWanModel:
        if choice not in self._models:
            model = deepcopy(self._model)
            for place, scale in choice:
                for target, each in self._bank._loras[place].items():
                    for index, layer in enumerate(model.layers):
                        weight = layer.get_submodule(target).get_parameter("weight")
                        weight += scale * (each.b[index].t() @ each.a[index])
            self._models[choice] = model
        return self._models[choice]

    def embed_text(self, rows: Tensor, choices: Any) -> Any:
        return self.of(choices[0]).embed_text(rows)

    def __call__(self, latents: Tensor, cond: Conditioning, attend: Any, send: Any = None) -> Tensor:
        choices: Any = cond.low
        models = [self.of(choice) for choice in choices]
        xs = [
            model.patch_embedding(one[None].transpose(1, 2)).flatten(2).transpose(1, 2)
            for model, one in zip(models, latents, strict=True)
        ]
        for index in range(self.config.num_layers):
            layers = [list(model.layers)[index] for model in models]
            parts = [
                layer.qkv(x, cond.modulation[index][:, n : n + 1], cond.turns[n : n + 1])
                for n, (layer, x) in enumerate(zip(layers, xs, strict=True))
            ]
            query, key, value = (torch.cat(part) for part in zip(*parts, strict=True))
            if send:
                send(key, value)
            attended = attend(index, query, key, value)
            xs = [
                layer.update(
                    x,
                    attended[n : n + 1],
                    cond.modulation[index][:, n : n + 1],
                    [cond.text[n][index]],
                )
                for n, (layer, x) in enumerate(zip(layers, xs, strict=True))
            ]
        made = [
            model._unpatchify(model.head(x, cond.time[n : n + 1]), latents[n : n + 1].shape)
            for n, (model, x) in enumerate(zip(models, xs, strict=True))
        ]
        return torch.cat(made)


class Told:
    """In place of a bank: hands the choices through to the oracle."""

    def low_ranks(self, choices: Sequence[Choice]) -> Any:
        return tuple(choices)


@pytest.mark.parametrize("stagger", [1, 2, 5])
def test_each_block_is_as_if_its_own_choice_were_merged(stagger: int) -> None:
    card = tiny_card(window_blocks=3, sink_blocks=1, rope="window")
    bank, model = tiny_bank(card), tiny_model(card)
    switches: Mapping[int, tuple[int, SwitchMode]] = {
        3: (1, "immediate"),
        11: (2, "recache"),
        19: (3, "boundary"),
    }
    opening: dict[str, Any] = {"num_prompts": 4, "choices": CHOICES}
    oracle: Any = Merged(model, bank)
    told: Any = Told()
    expected = run_blocks(make_runner(card, stagger, model=oracle, loras=told), 7, switches, **opening)
    made = run_blocks(make_runner(card, stagger, model=model, loras=bank), 7, switches, **opening)
    plain = run_blocks(make_runner(card, stagger, model=model), 7, switches, num_prompts=4)
    assert relative_error(plain[6], expected[6]) > 0.03, "the LoRAs change nothing: the test shows nothing"
    for block, latents in expected.items():
        assert relative_error(made[block], latents) < 1e-4, block


def test_who_uses_none_gets_what_an_engine_without_gives() -> None:
    card = tiny_card()
    with_bank = run_blocks(make_runner(card, 1, loras=tiny_bank(card)), 4)
    for block, latents in run_blocks(make_runner(card, 1), 4).items():
        assert torch.equal(with_bank[block], latents)


def test_a_scale_of_0_is_none() -> None:
    assert tiny_bank(tiny_card()).low_ranks([((0, 0.0),), ()]) is None


def test_sessions_take_turns_with_choices_of_their_own() -> None:
    card = tiny_card()
    runner = make_runner(card, 1, loras=tiny_bank(card))
    alone = {choice: run_blocks(runner, 3, choices=[choice]) for choice in CHOICES}
    again = {choice: run_blocks(runner, 3, choices=[choice]) for choice in reversed(CHOICES)}
    for choice, made in alone.items():
        for block, latents in made.items():
            assert torch.equal(again[choice][block], latents)


def test_what_is_put_together_is_no_more_than_it_says() -> None:
    """A session of all LoRAs; of one alone nothing is copied."""
    bank = tiny_bank(tiny_card())
    low = bank.low_ranks([tuple((place, 1.0) for place in range(3))])
    assert low
    copied = sum(
        each.untyped_storage().nbytes()
        for layer in low.layers[:1]
        for a, b, _ in layer.values()
        for each in (a, b)
    )
    assert 0 < copied <= bank.copied_bytes == bank.num_bytes
    one = bank.low_ranks([((0, 1.0),)])
    assert one
    assert one.layers[0]["ffn.0"][0].data_ptr() == bank._loras[0]["ffn.0"].a.data_ptr()
    assert tiny_bank(tiny_card(), (3,)).copied_bytes == 0


# Files.


def read(folder: Path, tensors: Mapping[str, Tensor], name: str = "style.safetensors", **listed: Any) -> Any:
    path = written(dict(tensors), folder / name)
    ((lora, found),) = locate_listed((ListedLora(name="style", path=str(path), **listed),))
    return read_listed(lora, found, STATE, TARGETS)


def deltas(pairs: Any) -> dict[str, Tensor]:
    return {
        f"blocks.{layer}.{target}.weight": b @ a
        for target, layers in pairs.items()
        for layer, (a, b) in layers.items()
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("alpha", "scale"), [(6.0, 2.0), (None, 1.0)])
def test_every_form_is_read_with_its_own_scale(
    form: str, alpha: float | None, scale: float, tmp_path: Path
) -> None:
    read_as = deltas(read(tmp_path, lora(form, LAYER_LINEARS, alpha)))
    expected = with_pairs(LAYER_LINEARS, scale)
    assert sorted(read_as) == sorted(f"{layer}.weight" for layer in LAYER_LINEARS)
    for name, delta in read_as.items():
        torch.testing.assert_close(STATE[name] + delta, expected[name])


def test_alpha_of_the_list_and_of_peft(tmp_path: Path) -> None:
    a, b = pair(Q)
    torch.testing.assert_close(
        deltas(read(tmp_path, lora("peft", [Q]), alpha=6.0, rank=RANK))[f"{Q}.weight"], 2 * b @ a
    )
    (tmp_path / "adapter").mkdir()
    in_folder(lora("peft", [Q]), ADAPTER | {"use_rslora": True}, tmp_path / "adapter")
    written(lora("peft", [Q]), tmp_path / "adapter" / "adapter_model.safetensors")
    listed = ListedLora(name="style", path=str(tmp_path / "adapter" / "adapter_model.safetensors"))
    ((_, path),) = locate_listed((listed,))
    found = deltas(read_listed(listed, path, STATE, TARGETS))[f"{Q}.weight"]
    torch.testing.assert_close(found, 6 / RANK**0.5 * b @ a)


@torch.inference_mode()
def forward(model: CausalWanModel, bank: LoraBank | None = None, choice: Choice = ()) -> Tensor:
    """Of two blocks."""
    low, of_text = (bank.low_ranks([choice] * number) if bank else None for number in (2, 1))
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(2, 1, 4, 4, 4, generator=generator)
    text = model.embed_text(torch.randn(3, 8, generator=generator), of_text)
    turns = torch.zeros(2, 4, 1, 6, 2)
    turns[..., 0] = 1
    cond = Conditioning(*model.embed_time([800, 400]), turns, (text, text), low)

    def attend(_: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads = (each.transpose(1, 2) for each in (query, key, value))
        return torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2)

    return model(latents, cond, attend)


def bank_of(tensors: dict[str, Tensor], model: CausalWanModel, path: Path) -> LoraBank:
    located = locate_listed((ListedLora(name="style", path=str(written(tensors, path))),))
    bank = build_bank(located, model, CPU, model.dtype)
    assert bank
    return bank


def test_a_file_beside_the_weights_of_a_model_is_as_if_merged(tmp_path: Path) -> None:
    """Some layers only, each with a rank of its own."""
    tensors: dict[str, Tensor] = {}
    state = dict(STATE)
    for at, layer in enumerate(LAYER_LINEARS[:13]):
        a, b = pair(layer, 1 + at % 4)
        tensors |= {f"{layer}.lora_A.weight": 0.1 * a, f"{layer}.lora_B.weight": b}
        state[f"{layer}.weight"] = STATE[f"{layer}.weight"] + 0.8 * (b @ (0.1 * a))
    model, merged = meta_model(), meta_model()
    model.load_state_dict(STATE, assign=True)
    merged.load_state_dict(state, assign=True)
    bank = bank_of(tensors, model, tmp_path / "style.safetensors")
    made, expected = forward(model, bank, ((0, 0.8),)), forward(merged)
    assert relative_error(made, expected) < 1e-4 < relative_error(forward(model), expected)


def test_beside_weights_in_fp8_the_product_keeps_its_type(tmp_path: Path) -> None:
    card = tiny_card()
    model = build_model(card, None, 0, CPU, torch.bfloat16, "fp8")
    a, b = torch.randn(3, 48), torch.randn(48, 3)
    tensors = {f"blocks.0.self_attn.q.lora_{half}.weight": each for half, each in (("A", a), ("B", b))}
    low = bank_of(tensors, model, tmp_path / "style.safetensors").low_ranks([((0, 0.5),)])
    assert low
    linear, x = next(iter(model.layers)).self_attn.q, torch.randn(1, 5, 48).bfloat16()
    with torch.inference_mode():
        added = beside(linear, x, low.layers[0]["self_attn.q"]) - linear(x)
    expected = 0.5 * x.float() @ (b @ a).t()
    assert added.dtype == torch.bfloat16
    assert relative_error(added, expected) < 0.01, "FP8 is off by 3 %"


REFUSED: dict[str, tuple[Callable[[], dict[str, Tensor]], str]] = {
    "a difference": (
        lambda: {"blocks.0.norm3.diff": torch.ones(24)},
        r"blocks\.0\.norm3\.weight: a whole difference, which cannot be kept beside the weights; list",
    ),
    "a bias": (lambda: {f"{Q}.diff_b": torch.ones(24)}, "a whole difference"),
    "outside": (
        lambda: lora("peft", ["head.head"]),
        r"head\.head\.weight: a pair outside the layers' Linears",
    ),
    "of another model": (lambda: {"x.lora_A.weight": torch.ones(2, 2)}, "the LoRA is for another one"),
    "rank": (
        lambda: {f"{Q}.lora_A.weight": torch.ones(513, 24), f"{Q}.lora_B.weight": torch.ones(24, 513)},
        r"blocks\.0\.self_attn\.q\.weight: rank 513 is not in 1\.\.512",
    ),
    "numbers": (
        lambda: lora("peft", [Q]) | {f"{FFN}.lora_A.weight": torch.full((2, 24), torch.nan)},
        "holds NaN",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_kept_beside_the_weights_names_file_and_key(what: str, tmp_path: Path) -> None:
    make_tensors, complaint = REFUSED[what]
    with pytest.raises(WeightsError, match=complaint) as error:
        read(tmp_path, make_tensors())
    assert "style.safetensors" in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"^loras: ink: /nowhere/ink\.pt: no such file or folder$"):
        locate_listed((ListedLora(name="ink", path="/nowhere/ink.pt"),))


# What is listed, and what may be asked.


def test_the_list_is_checked() -> None:
    def config(*loras: Any) -> EngineConfig:
        return make(EngineConfig, {"model": "demo", "loras": loras})

    card: ModelCard = find_card("demo")
    one = {"name": "ink", "path": "a.safetensors"}
    with pytest.raises(InvalidConfig, match=r"^loras: ink is listed twice$"):
        check_engine(config(one, one), card)
    with pytest.raises(InvalidConfig, match=r"loras: .* at most 16 items"):
        config(*({"name": f"n{number}", "path": "a"} for number in range(17)))
    for wrong, complaint in (
        ({"name": "Ink"}, r"loras\.0\.name: .*pattern"),
        ({"path": ""}, r"loras\.0\.path: .*at least 1"),
        ({"alpha": -1}, r"loras\.0\.alpha: .*greater than 0"),
        ({"strength": 1}, r"loras\.0\.strength: "),
    ):
        with pytest.raises(InvalidConfig, match=complaint):
            config(one | wrong)


LISTED = tuple(ListedLora(name=name, path=name) for name in ("ink", "clay", "neon", "wool"))


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ([("inc", 1)], "loras: 'inc' is not one of ink, clay, neon, wool"),
        ([("ink", 1), ("ink", 2)], "loras: 'ink' comes twice"),
        ([("ink", 4.1)], r"loras: the scale 4\.1 of ink is not in -4\.\.4"),
        ([("ink", float("nan"))], r"loras: the scale nan of ink is not in -4\.\.4"),
        ([("ink", 1), ("clay", 1), ("neon", 1), ("wool", 1)], "loras: 4 are more than 3"),
    ],
)
def test_what_cannot_be_used(choices: list[tuple[str, float]], complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{complaint}$"):
        check_choices("loras", [LoraChoice(*choice) for choice in choices], LISTED)


def test_nothing_is_listed() -> None:
    with pytest.raises(InvalidRequest, match=r"^loras: 'ink' is not here: no LoRA is listed$"):
        check_choices("loras", [LoraChoice("ink")], ())


def test_a_runner_forgets_the_choices_of_prompts_that_are_over() -> None:
    card = tiny_card()
    runner: Runner = make_runner(card, 1, loras=tiny_bank(card))
    drive = Drive.open(runner, num_prompts=4, choices=CHOICES)
    drive.finish(9, {3: (1, "immediate"), 6: (2, "boundary"), 9: (3, "boundary")})
    assert set(runner.sessions[0].choices) == set(runner.sessions[0].prompts) <= {2, 3}
