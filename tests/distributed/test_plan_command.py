"""`cascade-engine plan` as a person uses it: in a terminal of any width, without one, and from a program."""

import json
import re

import pytest

from tests.conftest import Open
from tests.distributed.test_cli import COMMAND, ENVIRONMENT, Here, here, run

__all__ = ["here"]

PLAN = ("plan", "--model", "krea-14b", "--gpu", "h100", "--calibration")
NUMBERS = re.compile(r"(?<=\s)\d+(?:\.\d+)?(?=\s|$)")


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_it_fits_the_terminal_and_says_the_same(terminal: Open, here: Here, columns: int) -> None:
    shown = terminal(*COMMAND, *PLAN, columns=columns, environment=ENVIRONMENT)
    assert shown.finish() == 0, shown.text()
    assert not [line for line in shown.lines if len(line) > columns], "a line that the terminal had to break"
    side_by_side = [line for line in shown.lines if line.split() == ["sequential", "bidirectional", "causal"]]
    assert len(side_by_side) == (columns > 40)
    _, wide, _ = here(*PLAN)
    assert figures(shown.text()) == figures(wide)


def figures(text: str) -> set[str]:
    """Of both tables: all but the sentences below them, which break elsewhere in each width."""
    paragraphs = text.split("\n\n")
    return set(NUMBERS.findall("\n".join(each for each in paragraphs if not each.startswith("- "))))


def test_without_a_terminal_it_is_80_wide_and_needs_no_torch() -> None:
    result = run(*PLAN)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "krea-14b on 5 x H100 SXM" in result.stdout


def test_programs_read_json(here: Here) -> None:
    status, output, _ = here("plan", "--model", "krea-14b", "--gpu", "H100", "--ranks", 3, "--json")
    plan = json.loads(output, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert status == 0
    assert (plan["model"], plan["num_ranks"], plan["gpu"]["name"]) == ("krea-14b", 3, "h100")
    assert [each["name"] for each in plan["pipelines"]] == ["sequential", "bidirectional", "causal"]
    assert plan["pipelines"][1]["speed"]["hiding_gb_s"] is None, "nothing is clean that it could hide behind"
    assert len(plan["assumptions"]) > 5
    alone = json.loads(here("plan", "--calibration", "--json")[1])
    assert alone == plan["calibration"]
    assert {each["title"]: each["fps"] for each in alone}["LongLive 1.0"] == 20.7


def test_options_reach_the_plan(here: Here) -> None:
    options = ("--stagger", 2, "--fps", 24, "--size", "1280x720", "--quantize", "fp8", "--no-compile")
    options += ("--no-window-counts-behind",)
    _, output, _ = here("plan", "--model", "longlive-1.3b", "--gpu", "gb200", *options)
    title, *about = output.splitlines()[:4]
    assert title == "longlive-1.3b on 5 x GB200 in NVL72"
    assert about == [
        "1280x720 at 24 FPS, not compiled, FP8",
        "cascade of stagger 2 · estimated",
        "the window does not count the blocks behind",
    ]


BAD_INPUT = [
    (("--gpu", "a100"), "choose from 'h100', 'h200', 'b200', 'gb200', 'l40s'"),
    (("--model", "wan"), "model 'wan' is unknown; known: bench, causal-forcing-1.3b"),
    (("--ranks", "6"), "--ranks: 6 is not in 1..5"),
    (("--stagger", "9"), "--stagger: 9 is not in 1..5"),
    (("--size", "100x64"), "--size: 100 is not a multiple of 16"),
    (("--fps", "0.0.1"), "--fps: invalid float value"),
    (("--fps", "-1"), "--fps: -1 is not above 0"),
    (("--gpu", "l40s"), "--gpu: krea-14b does not fit into l40s: of 44.7 GiB rank 0 needs 26.6 GiB"),
]


@pytest.mark.parametrize(("changes", "expected"), BAD_INPUT)
def test_bad_input_is_one_sentence_and_exit_status_2(
    changes: tuple[str, ...], expected: str, here: Here
) -> None:
    status, output, errors = here(*PLAN, *changes)
    assert (status, output, len(errors.splitlines())) == (2, "", 1)
    assert expected in errors


def test_half_a_question_is_told_what_is_missing(here: Here) -> None:
    status, _, errors = here("plan", "--gpu", "h100")
    assert (status, errors) == (
        2,
        "cascade-engine: plan: give it --model and --gpu, or --calibration alone\n",
    )
