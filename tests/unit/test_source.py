"""The environment in which a child finds our source."""

import os
from pathlib import Path

import pytest

from cascade_core.ranks.source import finding
from tests.paths import ROOT

MODULE = "cascade_core.ranks.fork_server"


def test_a_checkout_comes_before_what_else_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/a:/b")
    assert finding(MODULE)["PYTHONPATH"] == f"{ROOT}:/a:/b"
    monkeypatch.delenv("PYTHONPATH")
    assert finding(MODULE)["PYTHONPATH"] == str(ROOT)


@pytest.mark.parametrize("kind", ["getsitepackages", "getusersitepackages"])
def test_installed_packages_never_hide_the_standard_library(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"site.{kind}", lambda: str(ROOT) if "user" in kind else [str(ROOT)])
    assert finding(MODULE) == os.environ


def test_a_namespace_package_is_found_too() -> None:
    assert finding("tests.services.support.echo_process")["PYTHONPATH"].startswith(str(Path(ROOT)))
