"""Every wrong setting is named with what is allowed, once, when the object is made."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cascade_core.config import (
    EngineConfig,
    ModelCard,
    allowed_attentions,
    allowed_staggers,
    check_engine,
    find_card,
    load_card_file,
    load_cards,
    make,
    uses_random_weights,
)
from cascade_core.errors import InvalidConfig, UnknownModel, UserError

CARD = """
name = "tiny"
title = "A test model"
licence = "Apache-2.0"
commercial_use = true
source = "this repository"

[transformer]
dim = 48
ffn_dim = 64
num_heads = 2
num_layers = 2

[sampling]
steps = [1000, 750, 500, 250]

[window]
block_frames = 3
window_frames = 21

[video]
width = 832
height = 480
"""


PART = {"repo": "owner/name", "path": "part"}
FILES = dict.fromkeys(("transformer", "vae", "text_encoder", "tokenizer"), PART)


def engine_config(**settings: Any) -> EngineConfig:
    return make(EngineConfig, {"model": "demo"} | settings)


def card_with(**changes: Any) -> ModelCard:
    """The card with values put in; `window__sink_frames=2` means the key in the table."""
    values = tomllib.loads(CARD)
    for name, value in changes.items():
        *table, key = name.split("__")
        (values[table[0]] if table else values)[key] = value
    return make(ModelCard, values)


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


class TestEngineConfig:
    @pytest.mark.parametrize(
        ("field", "value", "allowed"),
        [
            ("num_ranks", 0, "greater than or equal to 1"),
            ("num_ranks", 17, "less than or equal to 16"),
            ("num_ranks", "two", "integer"),
            ("num_ranks", 1.5, "integer"),
            ("stagger", 0, "greater than or equal to 1"),
            ("stagger", 18, "less than or equal to 17"),
            ("inflight_attention", "both", "'bidirectional' or 'causal'"),
            ("rope", "relative", "'absolute' or 'window'"),
            ("device", "tpu", "'auto', 'cpu' or 'cuda'"),
            ("dtype", "float16", "'auto', 'float32' or 'bfloat16'"),
            ("quantize", "int8", "'none' or 'fp8'"),
            ("max_sessions", 0, "greater than or equal to 1"),
            ("tick_deadline_s", 0, "greater than 0"),
            ("tick_deadline_s", float("nan"), "finite number"),
            ("start_deadline_s", float("inf"), "finite number"),
            ("request_deadline_s", -1, "greater than 0"),
            ("start_deadline_s", 0, "greater than 0"),
            ("threads_per_rank", 0, "greater than or equal to 1"),
            ("text_cache_entries", 0, "greater than or equal to 1"),
            ("seed", -1, "greater than or equal to 0"),
            ("seed", 2**63, "less than"),
        ],
    )
    def test_out_of_range(self, field: str, value: object, allowed: str) -> None:
        with pytest.raises(InvalidConfig, match=f"^{field}: .*{allowed}"):
            engine_config(**{field: value})

    def test_unknown_key(self) -> None:
        with pytest.raises(InvalidConfig, match=r"^num_gpus: "):
            engine_config(num_gpus=5)

    def test_missing_key(self) -> None:
        with pytest.raises(InvalidConfig, match=r"^model: "):
            make(EngineConfig, {})

    def test_every_wrong_field_is_named(self) -> None:
        with pytest.raises(InvalidConfig) as error:
            engine_config(num_ranks=0, stagger=0, device="tpu", wrong=1)
        for field in ("num_ranks", "stagger", "device", "wrong"):
            assert f"{field}: " in str(error.value)
        assert isinstance(error.value, UserError)
        assert not error.value.retryable

    def test_frozen(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            engine_config().num_ranks = 2  # type: ignore[misc]

    @pytest.mark.parametrize("field", ["stagger", "num_ranks"])
    def test_more_than_the_passes_of_a_block(self, field: str) -> None:
        card = card_with()
        check_engine(engine_config(**{field: 5}), card)
        with pytest.raises(InvalidConfig, match=rf"^{field}: 6 is not in 1\.\.5 \(passes per block\)"):
            check_engine(engine_config(**{field: 6}), card)

    def test_fp8_needs_widths_that_its_products_take(self) -> None:
        check_engine(engine_config(quantize="fp8"), card_with())
        odd = card_with(transformer__ffn_dim=72)
        check_engine(engine_config(), odd)
        with pytest.raises(
            InvalidConfig, match=r"^quantize: .* multiples of 16, tiny has dim 48, ffn_dim 72"
        ):
            check_engine(engine_config(quantize="fp8"), odd)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"allowed_staggers": (6,), "stagger": 1}, r"allowed_staggers: 6 is not in 1\.\.5 \(passes"),
            (
                {"allowed_staggers": (4, 2), "stagger": 1},
                r"stagger: 1, the default, is not one of allowed_staggers: 2, 4",
            ),
            (
                {"allowed_inflight_attentions": ("causal",)},
                r"inflight_attention: bidirectional, the default, is not one of "
                r"allowed_inflight_attentions: causal",
            ),
        ],
    )
    def test_what_sessions_may_ask_for_fits_the_model_and_the_default(
        self, values: dict[str, object], message: str
    ) -> None:
        with pytest.raises(InvalidConfig, match=f"^{message}"):
            check_engine(engine_config(**values), card_with())

    def test_sessions_may_ask_for_all_unless_some_are_named(self) -> None:
        card, attentions = card_with(), ("bidirectional", "causal")
        assert allowed_staggers(engine_config(), card) == (1, 2, 3, 4, 5)
        assert allowed_attentions(engine_config()) == attentions
        some = engine_config(allowed_staggers=(5, 1, 5), allowed_inflight_attentions=attentions[::-1])
        assert (allowed_staggers(some, card), allowed_attentions(some)) == ((1, 5), attentions)


class TestModelCard:
    def test_valid(self) -> None:
        card = card_with()
        assert card.sampling.num_passes == 5
        assert card.window.window_blocks == 7
        assert card.window.max_blocks == 341
        assert card.latent_shape(480, 832) == (3, 16, 60, 104)
        assert card.tokens_per_block(480, 832) == 4680
        assert [card.num_frames(block) for block in range(3)] == [9, 12, 12]

    def test_wan_2_2(self) -> None:
        """1280x704 in blocks of 8 latent frames, as LongLive 2.0 has them."""
        card = card_with(
            transformer__in_channels=48,
            window__block_frames=8,
            window__window_frames=24,
            window__sink_frames=8,
            video__width=1280,
            video__height=704,
            video__vae_factor=16,
        )
        assert card.latent_shape(704, 1280) == (8, 48, 44, 80)
        assert card.tokens_per_block(704, 1280) == 7040
        assert [card.num_frames(block) for block in range(2)] == [29, 32]

    def test_session_bytes(self) -> None:
        """A session holds, on each rank, at least the keys and values of its window."""
        card = card_with()
        window = 6 * 4680 * 2 * 2 * 48 * 2  # blocks, tokens, layers, key and value, dim, bytes
        assert window < card.session_bytes(480, 832) < 2 * window
        assert card.session_bytes(480, 832, bytes_per_value=4) == 2 * card.session_bytes(480, 832)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"sampling__steps": [250, 500]}, r"sampling: .*steps \[250, 500\] must descend"),
            ({"sampling__steps": [1000, 500, 500]}, "sampling: .*must descend without repeats"),
            ({"sampling__steps": []}, "sampling.steps: .*at least 1"),
            ({"sampling__steps": list(range(17, 0, -1))}, "sampling.steps: .*at most 16"),
            ({"sampling__steps": [1001]}, r"sampling.steps\.0: .*less than or equal to 1000"),
            ({"sampling__steps": [0]}, r"sampling.steps\.0: .*greater than or equal to 1"),
            ({"sampling__shift": 0}, "sampling.shift: .*greater than 0"),
            ({"sampling__context_noise": 1000}, "sampling.context_noise: .*less than 1000"),
            (
                {"window__window_frames": 20},
                "window: .*window_frames 20 must be a multiple",
            ),
            ({"window__sink_frames": 2}, "window: .*sink_frames 2 must be a multiple of block_frames 3"),
            ({"window__context_window_frames": 4}, "window: .*context_window_frames 4 must be a multiple"),
            ({"window__context_window_frames": 24}, "window: .*context_window_frames must not exceed"),
            ({"window__block_frames": 0}, "window.block_frames: .*greater than or equal to 1"),
            ({"window__rope": "relative"}, "window.rope: .*'absolute' or 'window'"),
            ({"window__sink": 3}, "window.sink: "),
            ({"transformer__dim": 50}, "transformer: .*dim 50 must be num_heads 2 times an even number"),
            ({"transformer__num_layers": 0}, "transformer.num_layers: .*greater than or equal to 1"),
            ({"transformer__freq_dim": 3}, "transformer.freq_dim: .*multiple of 2"),
            ({"video__width": 830}, "video: .*width 830 is not a multiple of 16 in 16..4096"),
            ({"video__height": 720, "video__vae_factor": 16}, "video: .*height 720 is not a multiple of 32"),
            ({"video__vae_factor": 4}, "video.vae_factor: .*8 or 16"),
            ({"video__height": 8192}, "video.height: .*less than or equal to 4096"),
            ({"video__fps": 0}, "video.fps: .*greater than 0"),
            ({"video__bitrate": 1}, "video.bitrate: "),
            ({"commercial_use": "perhaps"}, "commercial_use: .*boolean"),
            ({"license": "MIT"}, "license: "),
            ({"bundled": "demo_world"}, "bundled: .*match pattern"),
            ({"bundled": "/tmp/checkpoint"}, "bundled: .*match pattern"),
            ({"bundled": "demo_world/../etc"}, "bundled: .*match pattern"),
            ({"bundled": "a/b", "files": FILES}, "files and bundled exclude each other"),
            ({"files": {"transformer": {"repo": "a/b"}}}, r"files.transformer.path: .*files.vae: "),
        ],
    )
    def test_out_of_range(self, changes: dict[str, object], message: str) -> None:
        with pytest.raises(InvalidConfig, match=message):
            card_with(**changes)

    @pytest.mark.parametrize("place", [{}, {"files": FILES}, {"bundled": "package/folder"}])
    def test_random_weights_are_asked_for_or_all_there_is(self, place: dict[str, object]) -> None:
        card = card_with(**place)
        assert uses_random_weights(engine_config(weights="random"), card)
        assert uses_random_weights(engine_config(), card) is not bool(place)
        assert not uses_random_weights(engine_config(weights="some/folder"), card)


class TestFindCard:
    def test_shipped_cards(self) -> None:
        assert {"demo", "self-forcing-1.3b", "longlive-1.3b", "krea-14b"} <= load_cards().keys()
        assert all(name == card.name for name, card in load_cards().items())
        assert find_card("demo") is load_cards()["demo"]

    def test_unknown_model_lists_the_known(self) -> None:
        with pytest.raises(UnknownModel, match="'wan' is unknown") as error:
            find_card("wan")
        assert all(name in str(error.value) for name in load_cards())

    def test_path(self, tmp_path: Path) -> None:
        assert find_card(str(write(tmp_path, CARD))) == card_with()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("name = ", r"mine\.toml: Invalid value \(at"),
            (CARD.replace("ffn_dim = 64", "ffn_dim = 0"), r"mine\.toml: transformer\.ffn_dim: .*equal to 1"),
            (CARD.replace("[video]", "[vide]"), r"mine\.toml: .*video: .*vide: "),
        ],
    )
    def test_bad_file_is_named(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(InvalidConfig, match=message):
            load_card_file(write(tmp_path, text))

    def test_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidConfig, match=r"gone\.toml.*No such file"):
            find_card(str(tmp_path / "gone.toml"))
