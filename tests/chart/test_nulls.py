"""A value that is null, as a chart above this one may say it: helm takes it away before anything looks at it.
Where the default is empty, or a list or a map, that is none; anything else is asked for by its name.
"""

import functools
import json
from collections.abc import Iterator

import pytest

from tests.chart.properties.validity import faults
from tests.chart.rendering import CHART, at, chart_values, leaves, refusal, render
from tests.chart.schema_paths import schema_at
from tests.chart.schemas import VERSIONS
from tests.chart.switches import Values, merge
from tests.chart.test_every_value import EVERYTHING, OTHERWISE, STATED

Path = tuple[str, ...]
BASES = {"defaults": {}, "everything": EVERYTHING, "otherwise": OTHERWISE, "stated": STATED}


def groups(values: Values, path: Path = ()) -> Iterator[Path]:
    """Objects with named fields."""
    for name, value in values.items():
        if isinstance(value, dict) and schema_at((*path, name)).get("properties"):
            yield (*path, name)
            yield from groups(value, (*path, name))


def needed() -> list[Path]:
    """Values that helm asks for."""
    paths = [*groups(chart_values()), *leaves(chart_values())]
    found = [path for path in paths if path[-1] in schema_at(path[:-1]).get("required", ())]
    assert len(found) > 150
    return [*found, *(("redis", *path) for path in needed_by_redis())]


def needed_by_redis() -> list[Path]:
    """The chart inside has a schema of its own, without what the one above says of `enabled`."""
    schema = json.loads((CHART / "charts/redis/values.schema.json").read_text())
    inner = {name: part.get("required", ()) for name, part in schema["properties"].items()}
    return [(name,) for name in schema["required"]] + [(name, each) for name in inner for each in inner[name]]


def cut(path: Path) -> Path:
    """What Kubernetes needs inside one of its own fields is not ours to know."""
    end = next(
        (place for place, name in enumerate(path) if name.lower().endswith("securitycontext")), len(path)
    )
    return path[: end + 2]


def all_null(paths: list[Path]) -> Values:
    return functools.reduce(merge, (at(path, None) for path in paths), {})


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_what_is_needed_is_asked_for_by_its_name(depth: int) -> None:
    """All of a depth at once: helm names each."""
    paths = [path for path in needed() if len(path) == depth]
    text = refusal(set=merge({"redis": {"enabled": True}}, all_null(paths)))
    assert "nil pointer" not in text
    assert not [path for path in paths if f"'{path[-1]}'" not in text and f"/{path[-1]}'" not in text]
    assert len(text.splitlines()) <= len(paths) + 6, "a line for each"


@pytest.mark.parametrize("name", BASES)
def test_what_may_be_empty_may_be_null(name: str) -> None:
    base = BASES[name]
    set_here = set(leaves(base))
    paths = sorted({cut(path) for path in leaves(chart_values())} - set(needed()) - set_here)
    paths = [path for path in paths if not any(path[: len(each)] == each for each in set_here)]
    assert len(paths) > 100
    if "redis" not in base:
        paths = [path for path in paths if path[0] != "redis"]  # there is no chart inside to take it from
    without = render(set=merge(all_null(paths), base))
    assert len(without.deployments()) == 3
    assert not list(faults(without, VERSIONS[-1]))


def test_no_redis_is_no_redis() -> None:
    """Without a condition helm would take the chart inside in."""
    assert "at '/redis': missing property 'enabled'" in refusal(set={"redis": None})
    assert "at '': missing property 'image'" in refusal(set={"redis": {"enabled": True, "image": None}})
