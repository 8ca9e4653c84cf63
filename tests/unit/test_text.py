"""Prompts to embeddings, against transformers called directly the reference's way (pad, mask, zero)."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from cascade_core.config import ModelCard, find_card
from cascade_core.errors import InvalidPrompt, WeightsError
from cascade_core.model.text import TextEncoder, clean_prompt, load_text_encoder
from cascade_core.model.tokens import FileTokens, load_tokens
from cascade_core.weights.locate import ModelFiles
from tests.checkpoint import word_tokenizer

CPU, FLOAT = torch.device("cpu"), torch.float32
PROMPT = "a red circle moves left over a blue background"
ORIGINAL_NAMES = {
    "shared.": "token_embedding.",
    "encoder.final_layer_norm.": "norm.",
    "encoder.block.": "blocks.",
    "layer.0.SelfAttention.relative_attention_bias.": "pos_embedding.embedding.",
    "layer.0.SelfAttention.": "attn.",
    "layer.0.layer_norm.": "norm1.",
    "layer.1.layer_norm.": "norm2.",
    "layer.1.DenseReluDense.wi_0.": "ffn.gate.0.",
    "layer.1.DenseReluDense.wi_1.": "ffn.fc1.",
    "layer.1.DenseReluDense.wo.": "ffn.fc2.",
}


@pytest.fixture(scope="module")
def card() -> ModelCard:
    demo = find_card("demo")
    return replace(demo, transformer=replace(demo.transformer, text_dim=64, text_len=48))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, card: ModelCard) -> Path:
    """A small text encoder and tokenizer in the diffusers layout."""
    root = tmp_path_factory.mktemp("model")
    make_tokenizer().save_pretrained(root / "tokenizer")
    torch.manual_seed(0)
    config = UMT5Config(
        vocab_size=120, d_model=card.transformer.text_dim, d_kv=8, d_ff=96, num_layers=2, num_heads=4
    )
    model = UMT5EncoderModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # transformers' own leaves attention almost idle
    model.save_pretrained(root / "text_encoder")
    return root


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A Unigram tokenizer like UMT5's: pad 0, eos 1 at the end, unk 2."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=100, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([PROMPT, "a green square turns right over a yellow ground"] * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def files_in(folder: Path) -> ModelFiles:
    return ModelFiles(Path("unused"), text_encoder=folder / "text_encoder", tokenizer=folder / "tokenizer")


@pytest.fixture(scope="module")
def encoder(card: ModelCard, folder: Path) -> TextEncoder:
    return load_text_encoder(card, files_in(folder), CPU, FLOAT)


@torch.no_grad()
def reference_encode(folder: Path, text: str, text_len: int) -> tuple[Tensor, int]:
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    model = UMT5EncoderModel.from_pretrained(folder / "text_encoder").eval()
    batch = tokenizer(
        [text], padding="max_length", max_length=text_len, add_special_tokens=True, return_tensors="pt"
    )
    rows = model(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state[0]
    num_tokens = int(batch.attention_mask.sum())
    assert batch.input_ids[0, num_tokens - 1] == tokenizer.eos_token_id
    rows[num_tokens:] = 0
    return rows, num_tokens


@pytest.mark.parametrize("prompt", [PROMPT, "red", "  a\n\tred   &amp;amp; blue circle "])
def test_encode_equals_transformers(encoder: TextEncoder, card: ModelCard, folder: Path, prompt: str) -> None:
    expected, num_tokens = reference_encode(folder, clean_prompt(prompt), card.transformer.text_len)
    embedding = encoder.encode(prompt)
    assert embedding.shape == (num_tokens, 64)
    assert embedding.std() > 0.1
    padded = torch.nn.functional.pad(embedding, (0, 0, 0, card.transformer.text_len - num_tokens))
    torch.testing.assert_close(padded, expected, atol=1e-5, rtol=1e-5)


def test_original_checkpoint_gives_the_same(
    encoder: TextEncoder, card: ModelCard, folder: Path, tmp_path: Path
) -> None:
    state = UMT5EncoderModel.from_pretrained(folder / "text_encoder").state_dict()
    state.pop("encoder.embed_tokens.weight")
    torch.save({original_name(key): value for key, value in state.items()}, tmp_path / "umt5.pth")
    files = replace(files_in(folder), text_encoder=tmp_path / "umt5.pth")
    assert torch.equal(load_text_encoder(card, files, CPU, FLOAT).encode(PROMPT), encoder.encode(PROMPT))


def original_name(key: str) -> str:
    for ours, theirs in ORIGINAL_NAMES.items():
        key = key.replace(ours, theirs)
    return key


def test_computes_in_the_dtype_asked_for(card: ModelCard, folder: Path, encoder: TextEncoder) -> None:
    embedding = load_text_encoder(card, files_in(folder), CPU, torch.bfloat16).encode(PROMPT)
    assert embedding.dtype == torch.bfloat16
    torch.testing.assert_close(embedding.float(), encoder.encode(PROMPT), atol=0.2, rtol=0.1)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  a  cat\n\n sits\t", "a cat sits"),
        ("Tom &amp;amp; Jerry &lt;3", "Tom & Jerry <3"),
        ("schÃ¶n", "schön"),
        ("“quoted” it’s", '"quoted" it\'s'),
        ("a\u00a0b", "a b"),
        ("\x00 &nbsp; ", ""),
    ],
)
def test_clean_prompt(text: str, cleaned: str) -> None:
    assert clean_prompt(text) == cleaned


@pytest.fixture(params=["umt5", "random"])
def any_encoder(request: pytest.FixtureRequest, card: ModelCard, encoder: TextEncoder) -> TextEncoder:
    return encoder if request.param == "umt5" else load_text_encoder(card, None, CPU, FLOAT)


@pytest.mark.parametrize("prompt", ["", " \n\t ", "&nbsp;"])
def test_empty_prompts_are_refused(any_encoder: TextEncoder, prompt: str) -> None:
    with pytest.raises(InvalidPrompt, match="empty"):
        any_encoder.encode(prompt)


def test_long_prompts_are_refused_with_both_numbers(any_encoder: TextEncoder) -> None:
    with pytest.raises(InvalidPrompt, match=r"has \d\d+ (tokens|words); the model takes at most 48"):
        any_encoder.encode("red " * 49)


def test_a_prompt_that_just_fits_is_taken(card: ModelCard, folder: Path) -> None:
    _, num_tokens = reference_encode(folder, PROMPT, 64)

    def encode(text_len: int) -> Tensor:
        sized = replace(card, transformer=replace(card.transformer, text_len=text_len))
        return load_text_encoder(sized, files_in(folder), CPU, FLOAT).encode(PROMPT)

    assert encode(num_tokens).shape == (num_tokens, 64)
    with pytest.raises(InvalidPrompt, match=f"has {num_tokens} tokens; .* {num_tokens - 1}$"):
        encode(num_tokens - 1)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a red circle moves left", ()),
        ("A RED circle", ()),
        ("a red Dragon moves left", ("Dragon",)),
        (
            "dragon meets dragon over a   schÃ¶n &amp; red café",
            ("dragon", "meets", "over", "schön", "&", "café"),
        ),
        ("a red <unk>", ("<unk>",)),
    ],
)
def test_unknown_words_are_named_as_written(prompt: str, words: tuple[str, ...]) -> None:
    tokens = FileTokens(word_tokenizer().backend_tokenizer, "<unk>")
    assert tokens.unknown(clean_prompt(prompt)) == words


def test_words_that_pieces_make_up_are_known(encoder: TextEncoder, card: ModelCard) -> None:
    assert encoder.unknown_words("a dear bird") == ()
    assert encoder.unknown_words("a red 龍 circle") == ("龍",)
    assert load_text_encoder(card, None, CPU, FLOAT).unknown_words("a red 龍 circle") == ()


def test_random_embeddings_follow_the_cleaned_prompt(card: ModelCard) -> None:
    encoder = load_text_encoder(card, None, CPU, FLOAT)
    embedding = encoder.encode("red  circle ")
    assert embedding.shape == (2, 64)
    assert torch.equal(embedding, encoder.encode("red circle"))
    assert not torch.equal(embedding, encoder.encode("blue circle"))
    assert embedding.std() > 0.5
    # A fixed number: every rank, machine and release has to draw the same.
    assert embedding[0, 0].item() == pytest.approx(-0.9081596, abs=1e-6)


def test_wrong_files_are_refused(card: ModelCard, folder: Path, tmp_path: Path) -> None:
    def refused(files: ModelFiles, match: str, card: ModelCard = card) -> None:
        with pytest.raises(WeightsError, match=match):
            load_text_encoder(card, files, CPU, FLOAT)

    files = files_in(folder)
    refused(replace(files, tokenizer=None), "absent")
    refused(replace(files, tokenizer=tmp_path), "tokenizer")
    refused(replace(files, text_encoder=tmp_path), str(tmp_path))
    wide = replace(card, transformer=replace(card.transformer, text_dim=128))
    refused(files, "width 64, demo needs 128", wide)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda state: state.pop("blocks.1.attn.q.weight"), "missing|misshapen|surplus"),
        (lambda state: state.pop("blocks.0.attn.q.weight"), "is missing"),
        (lambda state: state.update({"token_embedding.weight": torch.ones(3)}), "ValueError"),
        (
            lambda state: state.update({"blocks.0.pos_embedding.embedding.weight": torch.ones(32, 0)}),
            "ZeroDivision",
        ),
        (lambda state: state.update({"norm.weight": torch.ones(64, device="meta")}), r"norm\.weight \(meta"),
        (lambda state: state.update({"blocks.0.norm1.weight": torch.ones(3)}), "1 misshapen"),
        (lambda state: state.update({"head.weight": torch.ones(3)}), r"surplus: head\.weight"),
    ],
)
def test_damaged_original_checkpoints_are_refused(
    card: ModelCard,
    folder: Path,
    tmp_path: Path,
    damage: Callable[[dict[str, Tensor]], object],
    complaint: str,
) -> None:
    model = UMT5EncoderModel.from_pretrained(folder / "text_encoder")
    state = {original_name(k): v for k, v in model.state_dict().items() if "embed_tokens" not in k}
    damage(state)
    torch.save(state, tmp_path / "umt5.pth")
    with pytest.raises(WeightsError, match=rf"umt5\.pth(:| failed:) .*({complaint})"):
        load_text_encoder(card, replace(files_in(folder), text_encoder=tmp_path / "umt5.pth"), CPU, FLOAT)


@pytest.mark.parametrize(
    "config",
    ["[]", "cut", "null", '{"d_model": "x"}', '{"num_layers": "x"}', '{"feed_forward_proj": "a-b-c"}'],
)
def test_a_damaged_config_is_refused_by_name(
    card: ModelCard, folder: Path, tmp_path: Path, config: str
) -> None:
    shutil.copytree(folder / "text_encoder", tmp_path / "text_encoder")
    (tmp_path / "text_encoder/config.json").write_text(config)
    files = replace(files_in(folder), text_encoder=tmp_path / "text_encoder")
    with pytest.raises(WeightsError, match=r"^reading .*text_encoder/config\.json failed: [^\n]+$"):
        load_text_encoder(card, files, CPU, FLOAT)


def test_a_tokenizer_with_rules_of_its_own_is_transformers_business(folder: Path, tmp_path: Path) -> None:
    """As those of the published models are: their class adds to the file."""
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    settings = tmp_path / "tokenizer/tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"tokenizer_class": "T5Tokenizer"}))
    tokens = load_tokens(tmp_path / "tokenizer")
    expected = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert type(expected).__name__ == "T5Tokenizer"
    assert tokens.ids(PROMPT) == expected(PROMPT).input_ids
    assert tokens.unknown("a red 龍 circle") == ("龍",)


@pytest.mark.parametrize("content", ["{}", "[]", "cut", '{"model": 5}', '{"version": "1.0", "model": {}}'])
def test_a_damaged_tokenizer_is_refused_by_name(
    card: ModelCard, folder: Path, tmp_path: Path, content: str
) -> None:
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    (tmp_path / "tokenizer/tokenizer.json").write_text(content)
    with pytest.raises(WeightsError, match=r"^reading .*/tokenizer failed: [^\n]+$"):
        load_text_encoder(card, replace(files_in(folder), tokenizer=tmp_path / "tokenizer"), CPU, FLOAT)


def test_a_folder_that_is_not_there_is_no_hub_id(card: ModelCard, folder: Path) -> None:
    files = replace(files_in(folder), tokenizer=Path("google/umt5-xxl"))
    with pytest.raises(WeightsError, match=r"^reading google/umt5-xxl failed: "):
        load_text_encoder(card, files, CPU, FLOAT)
