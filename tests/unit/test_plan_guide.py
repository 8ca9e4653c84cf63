"""What docs/production.md shows of the planner and of memory is what they say: `make plans`."""

import runpy

from tests.paths import ROOT

GUIDE = ROOT / "docs/production.md"
plans = runpy.run_path(str(ROOT / "docs/plans.py"))


def test_commands_and_table_are_what_the_planner_says() -> None:
    text = GUIDE.read_text()
    assert text.count("```console\n$ cascade-engine plan ") == 2
    assert plans["renewed"](text) == text


def test_what_is_out_of_date_is_renewed() -> None:
    text = GUIDE.read_text()
    for shown in ("LongLive 1.3B, 480p, H100", "Self-Forcing, official code", "| longlive-1.3b | 2.6 GiB"):
        stale = text.replace(shown, "?", 1)
        assert stale != text
        assert plans["renewed"](stale) == text
