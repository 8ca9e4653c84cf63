"""The picture of a package's rooms, from their imports: `make graph`."""

import runpy
from graphlib import CycleError

import pytest

from tests.paths import ROOT

graph = runpy.run_path(str(ROOT / "docs/package_graph.py"))


def test_what_follows_from_other_arrows_is_left_out() -> None:
    imports = {"a.top": {"a.middle", "a.bottom"}, "a.middle": {"a.bottom"}, "a.bottom": set[str]()}
    drawn = "```mermaid\nflowchart TB\n    top --> middle\n    middle --> bottom\n```\n"
    assert graph["mermaid"](imports) == drawn


def test_a_circle_is_refused() -> None:
    with pytest.raises(CycleError):
        graph["mermaid"]({"a.one": {"a.two"}, "a.two": {"a.one"}})


def test_imports_of_all_depths_count() -> None:
    imports = graph["imports_of"]("services")
    assert imports["services.web"] == {"services.common"}
    assert "services.web" in imports["services.gateway"]
