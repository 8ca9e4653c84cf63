"""Renderings that are kept: made once, and never taken for those of another chart, helm or command."""

import subprocess
import threading
from pathlib import Path

import pytest

from tests.chart.kept import Printed, identity, kept


class Chart:
    """A chart of one file, and a program that prints it; counts how often it ran."""

    def __init__(self, folder: Path) -> None:
        self.chart, self.program, self.kept = folder / "chart", folder / "helm", folder / "kept"
        self.file = self.chart / "templates" / "a.yaml"
        self.file.parent.mkdir(parents=True)
        self.file.write_text("one")
        self.program.write_text("v1")
        self.runs = 0
        self.status = 0

    def render(self, *arguments: str) -> str:
        return kept(self.run, self.chart, self.program, arguments, self.kept).stdout

    def run(self) -> subprocess.CompletedProcess[str]:
        self.runs += 1
        return subprocess.CompletedProcess([], self.status, f"{self.file.read_text()} {self.runs}", "")


@pytest.fixture
def chart(tmp_path: Path) -> Chart:
    return Chart(tmp_path)


def test_a_rendering_is_made_once(chart: Chart) -> None:
    assert [chart.render("a"), chart.render("a"), chart.render("b")] == ["one 1", "one 1", "one 2"]


def test_processes_at_the_same_time_make_one(chart: Chart) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(chart.render("a"))) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert found == ["one 1"] * 8


def test_another_chart_is_another_rendering(chart: Chart) -> None:
    chart.render("a")
    chart.file.write_text("two")
    assert chart.render("a") == "two 2"
    chart.file.rename(chart.file.with_name("b.yaml"))
    chart.file = chart.file.with_name("b.yaml")
    assert chart.render("a") == "two 3"
    assert len(list(chart.kept.iterdir())) == 1, "old ones are removed"


def test_another_helm_is_another_rendering(chart: Chart) -> None:
    chart.render("a")
    chart.program.write_text("v1.1")
    identity.cache_clear()
    assert chart.render("a") == "one 2"


def test_refusals_are_kept_and_a_killed_helm_is_not(chart: Chart) -> None:
    chart.status = 1
    assert kept(chart.run, chart.chart, chart.program, ["a"], chart.kept) == Printed(1, "one 1", "")
    assert chart.render("a") == "one 1"
    chart.status = -9
    assert [chart.render("b"), chart.render("b")] == ["one 2", "one 3"]


def test_a_chart_that_is_edited_meanwhile_is_not_kept(chart: Chart) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        done = chart.run()
        chart.file.write_text("two")
        return done

    assert kept(run, chart.chart, chart.program, ["a"], chart.kept).stdout == "one 1"
    chart.file.write_text("one")
    assert chart.render("a") == "one 2"
