"""The demo model's words: a closed vocabulary, one token per word."""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from demo_world.world import BACKGROUNDS, COLOURS, MOTIONS, PHRASES, SHAPES, TEMPLATES, WORDS

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def vocabulary() -> list[str]:
    """Every word that `world.describe` can say, the comma and the full stop; sorted."""
    phrases = [text.replace("{", " ").replace("}", " ") for text in TEMPLATES]
    phrases += [*COLOURS, *BACKGROUNDS, *SHAPES, *MOTIONS, ",", "."]
    phrases += [word for words in WORDS.values() for word in words]
    phrases += [phrase for options in PHRASES.values() for phrase in options]
    words = {word for phrase in phrases for word in phrase.replace(",", " , ").split()}
    return sorted(words - {"colour", "shape", "motion"})


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer in the form that transformers loads; unknown words become one token."""
    tokens = [PAD, END, UNKNOWN, *vocabulary()]
    words = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, words[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, model_max_length=32
    )
