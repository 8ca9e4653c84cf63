"""`cascade-engine generate --lora`: files under names of their own, or what a list names."""

import argparse
from pathlib import Path

import pytest

from cascade_core.commands.loras import add_loras, listed_and_chosen
from cascade_core.config import ListedLora
from cascade_core.errors import InvalidConfig
from cascade_core.loras import Choices, LoraChoice

LIST = '[[loras]]\nname = "ink"\npath = "/weights/ink.safetensors"\nlicence = "MIT"\nalpha = 8\n'


def chosen(*words: str) -> tuple[tuple[ListedLora, ...], Choices]:
    parser = argparse.ArgumentParser()
    add_loras(parser)
    return listed_and_chosen(parser.parse_args(words))


def test_files_and_names_of_a_list(tmp_path: Path) -> None:
    file, listed = tmp_path / "My Style (v2).safetensors", tmp_path / "list.toml"
    file.touch()
    listed.write_text(LIST)
    loras, choices = chosen("--lora-list", str(listed), "--lora", "ink", "--lora", f"{file}=-0.5")
    assert loras == (
        ListedLora(name="ink", path="/weights/ink.safetensors", licence="MIT", alpha=8.0),
        ListedLora(name="my-style-v2", path=str(file)),
    )
    assert choices == (LoraChoice("ink", 1.0), LoraChoice("my-style-v2", -0.5))
    assert chosen() == ((), ())


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--lora", "wool"], r"--lora: wool is no file or folder, nor one of ink"),
        (["--lora", "ink=nan"], "--lora: the scale of ink is not a number"),
    ],
)
def test_what_is_neither(words: list[str], complaint: str, tmp_path: Path) -> None:
    (tmp_path / "list.toml").write_text(LIST)
    with pytest.raises(InvalidConfig, match=f"^{complaint}$"):
        chosen("--lora-list", str(tmp_path / "list.toml"), *words)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("loras = 3", "loras: "), ("[", "list.toml: "), ('[[loras]]\nname = "x"', "loras.0.path: ")],
)
def test_a_list_that_is_none(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "list.toml").write_text(text)
    with pytest.raises(InvalidConfig, match=f"^--lora-list .*{complaint}"):
        chosen("--lora-list", str(tmp_path / "list.toml"))
