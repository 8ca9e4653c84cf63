"""Compiled layers: when, with what, where it is kept; and that no session ever compiles anything.

What may be used again is decided before a backend is reached, so most tests compile for the backend that runs
operators as they are; one that is marked slow takes the real one.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from cascade_core.config import EngineConfig, InflightAttention, ModelCard, SwitchMode, make
from cascade_core.errors import InvalidConfig
from cascade_core.loras import Choice
from cascade_core.model.lora_bank import LoraBank
from cascade_core.model.model import CausalWanModel
from cascade_core.ranks import compiling
from cascade_core.ranks.loading import build_model
from cascade_core.ranks.runner import Runner
from cascade_core.schedule import Timeline, Work, context_blocks
from tests.paths import ROOT
from tests.support import (
    CPU,
    Drive,
    Switches,
    make_runner,
    relative_error,
    run_blocks,
    tiny_bank,
    tiny_card,
    tiny_model,
)

CUDA = torch.device("cuda", 0)
SIZES = [(32, 32), (48, 64), (16, 32), (96, 80)]
"""Height and width; the first is the card's."""
NUM_FORMS = 2 * 4
"""One block and several, of the four functions of a layer."""


def config(**values: object) -> EngineConfig:
    return make(EngineConfig, {"model": "demo"} | values)


@pytest.fixture
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()
    torch.compiler.set_stance("default")


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Those that are installed."""
    found = {"gcc", "g++", "triton"}
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name if name in found else None)
    monkeypatch.setattr(compiling, "find_spec", lambda name: name if name in found else None)
    return found


class TestWhen:
    @pytest.mark.parametrize(("device", "expected"), [(CUDA, True), (CPU, False)], ids=str)
    def test_if_nobody_says(self, device: torch.device, expected: bool, tools: set[str]) -> None:
        assert compiling.wants_compiling(config(), device) == expected
        assert compiling.wants_compiling(config(compile=True), device)
        assert not compiling.wants_compiling(config(compile=False), device)

    @pytest.mark.parametrize("lacking", ["gcc", "triton"])
    def test_not_without_its_tools(self, lacking: str, tools: set[str]) -> None:
        tools.remove(lacking)
        assert not compiling.wants_compiling(config(), CUDA)

    def test_another_compiler_does(self, tools: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
        tools -= {"gcc", "g++"}
        assert compiling.missing_tool(CUDA) == "a compiler (gcc or clang)"
        monkeypatch.setenv("CC", "/opt/cc")
        assert not compiling.missing_tool(CUDA)

    def test_who_asks_for_it_is_told_what_lacks(self, tools: set[str]) -> None:
        tools.clear()
        with pytest.raises(InvalidConfig, match=r"^compile: needs a compiler \(g\+\+ or clang\+\+\); false"):
            compiling.compile_model(tiny_model(tiny_card()), config(compile=True), tiny_card())


class TestCache:
    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
        monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def test_in_the_users_folder(self, tmp_path: Path) -> None:
        compiling.use_cache(None)
        folder = tmp_path / "cache" / "cascade-engine" / "compiled"
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
        assert folder.stat().st_mode & 0o777 == 0o700

    def test_where_torch_was_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
        compiling.use_cache(None)
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"

    def test_where_asked_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
        compiling.use_cache(str(tmp_path / "mine"))
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "mine")

    def test_a_folder_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(InvalidConfig, match=r"^compile_cache: .*/file/in: Not a directory$"):
            compiling.use_cache(str(tmp_path / "file" / "in"))

    def test_a_folder_of_somebody_else(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compiling.os, "access", lambda path, mode: False)
        with pytest.raises(InvalidConfig, match=r"^compile_cache: .*may not be written to$"):
            compiling.use_cache(str(tmp_path))
        compiling.use_cache(None)
        assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def compiled_model(
    card: ModelCard, backend: str, model: CausalWanModel | None = None, loras: LoraBank | None = None
) -> CausalWanModel:
    model = model or tiny_model(card)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", partial(torch.compile, backend=backend))
        compiling.compile_layers(model, card.tokens_per_block(card.video.height, card.video.width), loras)
    return model


def session(
    runner: Runner, height: int, width: int, start: int, switches: Switches, has_first_frame: bool = False
) -> list[torch.Tensor]:
    """The latents of a session's blocks; from block `start` on it is primed."""
    window = runner.card.window
    latents = torch.full(runner.card.latent_shape(height, width), 0.5)
    first_frame = latents[:1] if has_first_frame else None
    context = dict.fromkeys(context_blocks(window, start), latents)
    primed = tuple(Work(block, runner.shape.context_pass, 0) for block in context)
    timeline = Timeline(0, start, to_prime=primed)
    size = {"height": height, "width": width}
    drive = Drive.open(runner, **size, timeline=timeline, context=context, first_frame=first_frame)
    made = drive.finish(start + 6, switches)
    runner.close(0)
    return list(made.values())


def all_kinds(card: ModelCard, model: CausalWanModel) -> Iterator[list[torch.Tensor]]:
    """Sessions of every stagger, attention, kind of switch, size, fresh and resumed."""
    switches: Switches = {3: (1, "immediate"), 5: (2, "recache")}
    attentions: tuple[InflightAttention, ...] = ("bidirectional", "causal")
    modes: tuple[SwitchMode, ...] = ("boundary", "recache", "immediate")
    for number, (height, width) in enumerate(SIZES):
        stagger, mode = 1 + number, modes[number % 3]
        runner = make_runner(card, stagger, attentions[number % 2], model, set_back=2)
        yield session(runner, height, width, 0, switches)
        yield session(runner, height, width, 5 + number, {2: (1, mode)})
        if stagger < 3:  # each frame has a timestep of its own, while block 0 is alone and beside others
            yield session(runner, height, width, 0, {}, has_first_frame=True)


@pytest.fixture(params=["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_no_session_compiles(backend: str, fresh: None) -> None:
    """Nor does another layer: all share what was compiled with the first."""
    card = tiny_card(sink_blocks=1, window_blocks=3, rope="window", num_layers=3)
    model = compiled_model(card, backend)
    assert counters["stats"]["unique_graphs"] == NUM_FORMS
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled = list(all_kinds(card, model))
    assert counters["stats"]["unique_graphs"] == NUM_FORMS
    for made, plain in zip(compiled, all_kinds(card, tiny_model(card)), strict=True):
        assert len(made) == len(plain) == 6
        assert all(relative_error(one, other) < 1e-4 for one, other in zip(made, plain, strict=True))


CHOICES: list[Choice] = [(), ((0, 1.0),), ((1, 0.5), (2, 1.0)), ((0, 1.0), (1, -0.5), (2, 2.0))]
"""Of prompts, each with ranks of its own: none, all Linears, some of them, and everything together."""


@pytest.mark.slow
def test_no_change_of_loras_compiles(backend: str, fresh: None) -> None:
    """Nor do blocks of one tick whose LoRAs differ, nor those of another session."""
    card = tiny_card(sink_blocks=1, window_blocks=3, rope="window")
    bank = tiny_bank(card)
    model = compiled_model(card, backend, loras=bank)
    assert counters["stats"]["unique_graphs"] == 2 * NUM_FORMS
    switches: Switches = {2: (1, "immediate"), 4: (2, "boundary"), 6: (3, "recache")}

    def sessions(model: CausalWanModel) -> Iterator[Mapping[int, torch.Tensor]]:
        for stagger, choices in ((1, CHOICES), (5, CHOICES[::-1])):
            runner = make_runner(card, stagger, model=model, loras=bank)
            yield run_blocks(runner, 5, switches, num_prompts=4, choices=choices)

    with torch.compiler.set_stance("fail_on_recompile"):
        compiled = list(sessions(model))
    assert counters["stats"]["unique_graphs"] == 2 * NUM_FORMS
    for made, plain in zip(compiled, sessions(tiny_model(card)), strict=True):
        assert all(relative_error(made[block], plain[block]) < 1e-4 for block in plain)


@pytest.mark.slow
def test_nor_in_fp8(fresh: None) -> None:
    card = tiny_card()
    plain, model = (build_model(card, None, 0, CPU, torch.bfloat16, "fp8") for _ in range(2))
    compiled_model(card, "eager", model)
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled = list(all_kinds(card, model))
    assert counters["stats"]["unique_graphs"] == NUM_FORMS
    for made, expected in zip(compiled, all_kinds(card, plain), strict=True):
        assert all(relative_error(one, other) < 0.05 for one, other in zip(made, expected, strict=True))


def test_what_fits_no_form_runs_as_it_is(fresh: None) -> None:
    """As blocks of one token do."""
    card = tiny_card(block_frames=1)
    model = compiled_model(card, "eager")
    compiling.never_again()
    (made, plain) = (
        session(make_runner(card, 1, model=each), 16, 16, 0, {}) for each in (model, tiny_model(card))
    )
    assert counters["stats"]["unique_graphs"] == NUM_FORMS
    assert all(torch.equal(one, other) for one, other in zip(made, plain, strict=True))


COMPILE = """
import sys, torch
from torch._dynamo.utils import counters
from cascade_core.config import EngineConfig, make
from cascade_core.ranks.compiling import compile_model
from tests.support import tiny_card, tiny_model
card = tiny_card(num_layers=1)
config = make(EngineConfig, {"model": "demo", "compile": True, "compile_cache": sys.argv[1]})
assert compile_model(tiny_model(card), config, card)
print(counters["inductor"]["fxgraph_cache_miss"], counters["inductor"]["fxgraph_cache_hit"])
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_next_process_finds_what_was_compiled(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COMPILE, str(tmp_path)]
    told = [
        subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert told == [[str(NUM_FORMS), "0"], ["0", str(NUM_FORMS)]]
