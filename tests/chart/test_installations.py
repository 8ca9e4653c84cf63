"""Every installation has all properties: one test each, which renders once and names what does not hold."""

from pathlib import Path

import pytest

from tests.chart.cases import CASES, Case
from tests.chart.installation import PROPERTIES, Installation, failures
from tests.chart.properties import health, page, policies, references, security, start, validity, wiring

MODULES = (health, page, policies, references, security, start, validity, wiring)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_properties_hold(case: Case, tmp_path: Path) -> None:
    broken = list(failures(Installation(case, tmp_path), PROPERTIES))
    if broken:
        pytest.fail("\n".join([f"{len(broken)} do not hold:", *broken]), pytrace=False)


def test_each_module_has_some() -> None:
    assert {each.__module__ for each in PROPERTIES} == {each.__name__ for each in MODULES}


def test_each_failure_is_told(tmp_path: Path) -> None:
    """One does not hide another, and an error is one too."""

    def is_false(its: Installation) -> None:
        assert its.case.name == "none", "the name"

    def is_broken(its: Installation, component: str) -> None:
        if component != "decoder":
            raise SystemExit(component)

    def is_true(its: Installation) -> None:
        pass

    told = list(failures(Installation(CASES[0], tmp_path), [is_false, is_broken, is_true]))
    assert ["is_false" in told[0], "is_broken of stage" in told[1], "is_broken of gateway" in told[2]] == [
        True
    ] * 3
    assert "the name" in told[0]
    assert len(told) == 3
