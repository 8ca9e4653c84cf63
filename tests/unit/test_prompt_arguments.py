"""The prompts of `cascade-engine generate`: what is taken, and what is refused in one sentence."""

import argparse

import pytest

from cascade_core.commands.prompts import add_prompts, switches, transition
from cascade_core.config import find_card
from cascade_core.errors import InvalidConfig
from cascade_core.prompts import Transition, WeightedPrompt

DEMO = find_card("demo")


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_prompts(parser)
    return parser.parse_args(["--prompt", "a red circle", *words])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], None),
        (["--over", "4"], Transition(4)),
        (["--over", "3s"], Transition(4)),  # blocks of 0.75 s
        (["--over", ".1s"], Transition(1)),
        (["--over", "48s", "--interpolation", "slerp"], Transition(64, "slerp")),
    ],
)
def test_how_long_a_prompt_takes_over(words: list[str], expected: Transition | None) -> None:
    assert transition(parse("--at", "8=a blue square", *words), DEMO) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--over", "4"], r"--over: needs a later prompt, given by --at"),
        (["--at", "8=b", "--over", "65"], r"--over: 65 is longer than 64 blocks, 48 s"),
        (["--at", "8=b", "--over", "49s"], r"--over: 49s is longer than 64 blocks, 48 s"),
        (["--at", "8=b", "--interpolation", "slerp"], r"--interpolation: needs --over"),
    ],
)
def test_what_does_not_fit_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(InvalidConfig, match=f"^{message}$"):
        transition(parse(*words), DEMO)


@pytest.mark.parametrize("text", ["0", "0s", "-1", "3.5", "soon", ""])
def test_no_length(text: str) -> None:
    with pytest.raises(argparse.ArgumentError, match=r"neither blocks, such as 4, nor seconds, such as 3s"):
        parse("--at", "8=b", f"--over={text}")


def test_a_mix_is_an_object_of_weights() -> None:
    mix = '{"a red circle": 0.7, "a blue square": 2}'
    parts = (WeightedPrompt("a red circle", 0.7), WeightedPrompt("a blue square", 2.0))
    assert switches(parse("--at", f"8={mix}").switch) == {8: parts}
    assert parse("--prompt", mix).prompt == parts
    assert parse("--prompt", "{a brace}").prompt == "{a brace}"
    with pytest.raises(argparse.ArgumentError, match="no mix of prompts"):
        parse("--prompt", '{"a red circle": "much"}')
