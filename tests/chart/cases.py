"""The installations that behaviour is tested on: every values file, and rows of switches."""

from dataclasses import dataclass, field

from tests.chart.pairs import pairwise
from tests.chart.rendering import Rendering, chart_values, render, value_files
from tests.chart.schemas import VERSIONS
from tests.chart.switches import SWITCHES, Values, combine, merge


@dataclass(frozen=True)
class Case:
    """One installation, by name."""

    name: str
    files: tuple[str, ...] = ()
    values: Values = field(default_factory=dict)

    def render(self, kube_version: str = VERSIONS[-1]) -> Rendering:
        return render(*self.files, set=self.values, kube_version=kube_version)

    def all_values(self) -> Values:
        """What the templates see."""
        values = chart_values()
        for over in (*map(chart_values, self.files), self.values):
            values = merge(values, over)
        return values

    @property
    def weights(self) -> str:
        """Source of the weights."""
        return self.all_values()["weights"]["source"]

    def __str__(self) -> str:
        return self.name


FILES = [Case(file.removesuffix(".yaml"), (file,)) for file in ("values.yaml", *value_files())]
TOGETHER = [
    Case(f"{file.removesuffix('.yaml')}-ha", (file, "values-ha.yaml"))
    for file in value_files()
    if file != "values-ha.yaml"
]
"""As values-ha.yaml is meant: over another."""
ROWS = [
    Case("-".join(row[name] for name in SWITCHES), (), combine(row))
    for row in pairwise({name: list(positions) for name, positions in SWITCHES.items()})
]
"""Every two positions of different switches meet in some row."""
CASES = [*FILES, *TOGETHER, *ROWS]
