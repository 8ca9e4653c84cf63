"""What each values file installs, to the letter: `make golden` renews the files after a wanted change."""

import os
from pathlib import Path

import pytest

from tests.chart.cases import FILES, Case
from tests.chart.golden import by_component, difference

GOLDEN = Path(__file__).parent / "golden"
KUBE_VERSION = "1.37"
IS_UPDATE = os.environ.get("UPDATE_GOLDEN") == "1"


@pytest.mark.parametrize("case", FILES, ids=str)
def test_manifests_are_as_before(case: Case) -> None:
    folder = GOLDEN / case.name
    found = by_component(case.render(KUBE_VERSION))
    if IS_UPDATE:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.yaml"):
            path.unlink()
        for component, text in found.items():
            (folder / f"{component}.yaml").write_text(text)
    before = {path.stem: path.read_text() for path in folder.glob("*.yaml")}
    changes = {each: difference(before.get(each, ""), found.get(each, "")) for each in before | found}
    if any(changes.values()):
        told = ["the chart renders something else (make golden, if that is wanted)", *changes.values()]
        pytest.fail("\n".join(filter(None, told)), pytrace=False)


def test_no_golden_file_is_left_over() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {case.name for case in FILES}


def test_differences_are_short() -> None:
    one = "---\nkind: A\nmetadata:\n  name: x\nspec:\n  a: 1\n  b: 2\n"
    other = one.replace("b: 2", "b: 3") + "---\nkind: B\nmetadata:\n  name: y\n"
    text = difference(one, other)
    assert difference(one, one) == ""
    assert "-  b: 2\n+  b: 3" in text
    assert "+ B/y is new" in text
    assert len(text.splitlines()) < 12
