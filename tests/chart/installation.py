"""One installation as tests look at it, and what is true of every one."""

import functools
import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chart.cases import Case
from tests.chart.network import Network
from tests.chart.pods import settings_of
from tests.chart.rendering import Rendering, Workload
from tests.chart.switches import Values

COMPONENTS = ("stage", "decoder", "gateway")
Property = Callable[..., None]
"""Raises where it does not hold. Takes an Installation, and `component` where it is about each of them."""
PROPERTIES: list[Property] = []


def everywhere(function: Property) -> Property:
    """Marks what is true of every installation."""
    PROPERTIES.append(function)
    return function


@dataclass(frozen=True)
class Installation:
    """What a case installs; each thing is made once. Not to be changed: properties share it."""

    case: Case
    folder: Path
    """For files of its pods."""

    @functools.cached_property
    def rendering(self) -> Rendering:
        return self.case.render()

    @functools.cached_property
    def values(self) -> Values:
        """What the templates see."""
        return self.case.all_values()

    @functools.cached_property
    def network(self) -> Network:
        return Network(self.rendering)

    @functools.cached_property
    def settings(self) -> "Started":
        return Started(self)

    def workload(self, component: str) -> Workload:
        return self.rendering.workload(component)


class Started(dict[str, Any]):
    """Component -> the settings with which its process would start; one that would not hides no other."""

    def __init__(self, its: Installation) -> None:
        super().__init__()
        self._its = its

    def __missing__(self, component: str) -> Any:
        workload, folder = self._its.workload(component), self._its.folder / component
        return self.setdefault(component, settings_of(self._its.rendering, workload, folder))


def failures(installation: Installation, properties: Iterable[Property]) -> Iterator[str]:
    """A sentence for each property that does not hold, by its name; all are tried."""
    for check in properties:
        is_each = "component" in inspect.signature(check).parameters
        for more in [{"component": each} for each in COMPONENTS] if is_each else [{}]:
            try:
                check(installation, **more)
            except (Exception, SystemExit) as error:  # a parser of a command line exits
                name = f"{check.__module__.rpartition('.')[2]}: {check.__name__}"
                line = traceback.extract_tb(error.__traceback__)[-1].lineno
                of = f" of {more['component']}" if more else ""
                yield f"{name}{of} (line {line}): {type(error).__name__}: {error}"
