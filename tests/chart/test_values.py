"""The schema says what values there are: all of them, with a description each, and nothing else."""

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, validators

from tests.chart.cases import FILES, ROWS
from tests.chart.pods import SETTINGS
from tests.chart.rendering import (
    CHART,
    at,
    chart_schema,
    chart_values,
    helm,
    leaves,
    refusal,
    render,
    value_files,
)
from tests.chart.schema_paths import follow, schema_at, types
from tests.chart.switches import merge

Schema = dict[str, Any]
KUBERNETES = {
    "affinity",
    "extraEnv",
    "extraEnvFrom",
    "extraVolumes",
    "extraVolumeMounts",
    "tolerations",
    "topologySpreadConstraints",
}
"""Values that are Kubernetes' own types, whose fields this chart does not list a second time."""


OPEN = {"global", "redis.global"}
"""Helm hands the global values of a chart above this one to all below, whatever they are."""
ELSEWHERE = {
    "gateway.stages": "found through the Kubernetes API",
    "gateway.decoders": "found through the Kubernetes API",
    "kubernetes.namespace": "the pod's own",
    "kubernetes.port_name": "the templates' own",
    "kubernetes.api_url": "the cluster's",
    "kubernetes.account_dir": "Kubernetes' own",
    "drain.hurry_s": "after a second signal, which Kubernetes does not send",
    "auth.jwks_max_age_s": "the default is for everybody",
}
"""Settings that an installation by this chart does not need."""


def objects(schema: Schema, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Schema]]:
    """Every schema of an object, those of list items and of map values included."""
    if path and path[-1] in KUBERNETES:
        return
    schema = follow(schema)
    if "object" in types(schema):
        yield path, schema
    for name, inner in (schema.get("properties") or {}).items():
        yield from objects(inner, (*path, name))
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from objects(schema[keyword], (*path, keyword))


def properties(schema: Schema, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Schema]]:
    for name, inner in (follow(schema).get("properties") or {}).items():
        yield (*path, name), follow(inner)
        yield from properties(inner, (*path, name))


def defaults() -> list[tuple[str, ...]]:
    """Paths of all values of values.yaml."""
    return list(leaves(chart_values()))


def is_fixed(path: tuple[str, ...]) -> bool:
    """Whether it lies in an object with named fields, where a typo can be told."""
    return path[-1] in (schema_at(path[:-1]).get("properties") or {})


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(chart_schema())
    assert validators.validator_for(chart_schema()) is not None


def test_every_object_is_closed() -> None:
    open_ones = []
    for path, schema in objects(chart_schema()):
        if ".".join(path) in OPEN:
            continue
        more = schema.get("additionalProperties", True)
        if more is not False and not (isinstance(more, dict) and more):
            open_ones.append(".".join(path) or "(the whole)")
    assert not open_ones, f"without additionalProperties: {open_ones}"


def test_every_value_has_a_description() -> None:
    bare = [".".join(path) for path, schema in properties(chart_schema()) if not schema.get("description")]
    assert not bare


def test_every_value_is_in_the_schema_and_the_other_way_round() -> None:
    values = chart_values()
    unknown, absent = [], []
    for path in defaults():
        try:
            schema_at(path)
        except KeyError:
            unknown.append(".".join(path))
    for path, _ in properties(chart_schema()):
        inner: Any = values
        for name in path:
            if not isinstance(inner, dict) or (name not in inner and inner == {}):
                break  # an empty map: its fields are the user's choice
            if name not in inner:
                absent.append(".".join(path))
                break
            inner = inner[name]
    assert not unknown, "in values.yaml, not in the schema"
    assert not set(absent) - OPEN, "in the schema, not in values.yaml"


@pytest.mark.parametrize("file", ["values.yaml", *value_files()])
def test_the_values_files_fit(file: str) -> None:
    values = merge(chart_values(), chart_values(file))
    found = [error.message for error in Draft202012Validator(chart_schema()).iter_errors(values)]
    assert not found


def test_every_misspelt_value_is_refused() -> None:
    """All at once: helm names each."""
    typos = {(*path[:-1], path[-1] + "Typo") for path in defaults() if is_fixed(path)}
    assert len(typos) > 100
    values: Schema = {}
    for path in sorted(typos):
        inner = values
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = "x"
    text = refusal(set=values)
    assert not [".".join(path) for path in typos if f"'{path[-1]}'" not in text]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_misspelt_value_is_refused(data: st.DataObject) -> None:
    """One letter more, less or different, in whatever place, by the schema that helm reads too."""
    path = data.draw(st.sampled_from([each for each in defaults() if is_fixed(each)]))
    name = path[-1]
    place = data.draw(st.integers(0, len(name)))
    letter = data.draw(st.sampled_from(["", "x", "Z", "_"]))
    skipped = data.draw(st.integers(0, 1))
    typo = name[:place] + letter + name[place + skipped :]
    known = schema_at(path[:-1])["properties"]
    if not typo or typo in known:
        return
    found = Draft202012Validator(chart_schema()).iter_errors(at((*path[:-1], typo), "x"))
    assert any(f"'{typo}'" in error.message for error in found)


def test_a_value_of_another_type_is_refused() -> None:
    """A mapping with a field nobody knows fits nowhere but where names are free."""
    validator = Draft202012Validator(chart_schema())
    assert validator.is_valid(chart_values())
    taken = []
    for path in defaults():
        if path[-1] in KUBERNETES or not is_fixed(path):
            continue
        if validator.is_valid(merge(chart_values(), at(path, {"no such field": ["x"]}))):
            taken.append(".".join(path))
    assert not taken


@pytest.mark.parametrize("component", ["stage", "decoder", "gateway"])
def test_settings_of_the_services_are_checked_by_name_and_bound(component: str) -> None:
    keepalive = (component, "settings", "grpc")
    assert "'keepalive_time'" in refusal(set=at((*keepalive, "keepalive_time"), 5))
    assert "keepalive_time_s" in refusal(set=at((*keepalive, "keepalive_time_s"), "often"))
    variable = {"name": "CASCADE_GRPC_KEEPALIVE_TIME_S", "value": "25"}
    assert variable in render(set=at((*keepalive, "keepalive_time_s"), 25)).workload(component).main["env"]


@pytest.mark.parametrize("component", ["stage", "decoder", "gateway"])
def test_settings_that_the_chart_owns_have_one_place(component: str) -> None:
    """What a template writes cannot be in `settings` too, or gives way to it."""
    free = offered_settings(component)
    assert len(free) > 20
    rows = [case.render().workload(component).main["env"] for case in ROWS]
    written = {each["name"] for row in rows for each in row}
    for section, name in free:
        variable = variable_of(f"{section}.{name}")
        if variable in written:
            value = schema_at((component, "settings", section, name)).get("maximum", 2**30)
            found = render(set=at((component, "settings", section, name), value)).workload(component)
            assert [each["value"] for each in found.main["env"] if each["name"] == variable] == [str(value)]


@pytest.mark.parametrize("component", ["stage", "decoder", "gateway"])
def test_every_setting_has_a_place(component: str) -> None:
    """A setting of the service is in `settings`, or written by the chart, or listed here with the reason."""
    offered = offered_settings(component)
    rows = [case.render().workload(component).main["env"] for case in (*FILES, *ROWS)]
    written = {each["name"] for row in rows for each in row}
    kinds = get_type_hints(SETTINGS[component])
    known = {(section, each.name) for section, kind in kinds.items() for each in fields(kind)}
    assert offered <= known
    absent = {f"{section}.{name}" for section, name in known - offered if section != "http"}  # no port yet
    if component != "gateway":
        absent = {each for each in absent if not each.startswith("auth.")}  # gateways call, by key or mTLS
    assert not {each for each in absent - set(ELSEWHERE) if variable_of(each) not in written}


def offered_settings(component: str) -> set[tuple[str, str]]:
    """(section, field) of the values' `settings`."""
    sections = schema_at((component, "settings"))["properties"]
    return {(section, name) for section, inner in sections.items() for name in follow(inner)["properties"]}


def variable_of(setting: str) -> str:
    return f"CASCADE_{setting.replace('.', '_')}".upper()


def test_helm_lint_says_the_same(tmp_path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(json.dumps({"stage": {"replica": 2}}))
    done = helm("lint", "--strict", str(CHART), "--values", str(path))
    assert done.returncode != 0
    assert "replica" in done.stdout + done.stderr
