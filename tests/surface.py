"""What users of a release rely on by name: values of the chart, variables, metrics, ports, contracts.

`make surface` adds what is new to `surface.json`. What is gone or changed breaks an installation, so that
is written with `--breaking` alone, and told in CHANGELOG.md.
"""

import argparse
import importlib
import json
import logging
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import structlog
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from pydantic import TypeAdapter

import cascade.v1
from externalscaler import externalscaler_pb2
from services.web.settings import Settings as WebSettings
from tests.chart.exported import exported
from tests.chart.pods import SETTINGS
from tests.chart.rendering import chart_values, leaves, render

PATH = Path(__file__).with_name("surface.json")
TYPES = {
    value: name.removeprefix("TYPE_").lower()
    for name, value in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}
Surface = dict[str, dict[str, Any]]
"""Part -> name -> what is promised of it."""


def surface() -> Surface:
    """As it is now."""
    parts = {
        "values of the chart": chart(),
        "environment variables": variables(),
        "metrics": metrics(),
        "ports": ports(),
        "contracts": contracts(),
    }
    return json.loads(json.dumps({part: dict(sorted(names)) for part, names in parts.items()}))


def chart() -> Iterator[tuple[str, Any]]:
    """Path -> default."""
    for path in leaves(chart_values()):
        value: Any = chart_values()
        for name in path:
            value = value[name]
        yield ".".join(path), value


def variables() -> Iterator[tuple[str, Any]]:
    """Service and variable -> JSON schema of its value, with default and bounds."""
    for service, kind in (SETTINGS | {"web": WebSettings}).items():
        for section, settings in get_type_hints(kind).items():
            schema = TypeAdapter(settings).json_schema()
            for name, value in schema["properties"].items():
                yield f"{service}: {f'CASCADE_{section}_{name}'.upper()}", untitled(value, schema)


def untitled(schema: Any, whole: Mapping[str, Any]) -> Any:
    """Types that it refers to stand in their place."""
    if isinstance(schema, list):
        return [untitled(each, whole) for each in schema]
    if isinstance(schema, Mapping) and "$ref" in schema:
        return untitled(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    if isinstance(schema, Mapping):
        return {key: untitled(value, whole) for key, value in schema.items() if key != "title"}
    return schema


def metrics() -> Iterator[tuple[str, Any]]:
    """Series -> labels and, of a histogram, bounds."""
    for name, series in exported().items():
        yield name, {"labels": sorted(series.labels), "bounds": sorted(series.bounds, key=float)}


def ports() -> Iterator[tuple[str, Any]]:
    """Object of an installation with everything that listens -> its ports by name."""
    rendering = render(set={"redis": {"enabled": True}})
    for document in rendering.all("Service"):
        listed = {each["name"]: [each["port"], each["targetPort"]] for each in document["spec"]["ports"]}
        yield f"Service {document['metadata']['name']}", listed
    for workload in rendering.workloads():
        for container in workload.containers:
            listed = {each["name"]: each["containerPort"] for each in container.get("ports") or ()}
            yield f"container {container['name']} of {workload.name}", listed


def contracts() -> Iterator[tuple[str, Any]]:
    """Full name of a method, field or enum value -> what it is."""
    modules = [
        importlib.import_module(f"cascade.v1.{each.name}")
        for each in pkgutil.iter_modules(cascade.v1.__path__)
        if each.name.endswith("_pb2")
    ]
    for module in (*modules, externalscaler_pb2):
        yield from of_file(module.DESCRIPTOR)


def of_file(file: FileDescriptor) -> Iterator[tuple[str, Any]]:
    for service in file.services_by_name.values():
        for method in service.methods:
            ways = [method.client_streaming, method.server_streaming]
            types = [method.input_type, method.output_type]
            shown = [("stream " if s else "") + t.full_name for s, t in zip(ways, types, strict=True)]
            yield method.full_name, " -> ".join(shown)
    for message in file.message_types_by_name.values():
        yield from of_message(message)
    for enum in file.enum_types_by_name.values():
        yield from of_enum(enum)


def of_message(message: Descriptor) -> Iterator[tuple[str, Any]]:
    yield message.full_name, "message"
    for field in message.fields:
        of = field.message_type or field.enum_type
        kind = of.full_name if of else TYPES[field.type]
        group = f" in {field.containing_oneof.name}" if field.containing_oneof else ""
        yield field.full_name, f"{'repeated ' if field.is_repeated else ''}{kind} = {field.number}{group}"
    for nested in message.nested_types:
        yield from of_message(nested)
    for enum in message.enum_types:
        yield from of_enum(enum)


def of_enum(enum: EnumDescriptor) -> Iterator[tuple[str, Any]]:
    for value in enum.values:
        yield f"{enum.full_name}.{value.name}", value.number


def text(whole: Surface) -> str:
    """JSON with one line for each name."""
    parts = []
    for part, names in whole.items():
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in names.items())
        parts.append(f" {json.dumps(part)}: {{\n{lines}\n }}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def differences(before: Surface, now: Surface) -> tuple[list[str], list[str]]:
    """(what is gone or changed, what is new), as sentences."""
    broken, new = [], []
    for part in before | now:
        old, young = before.get(part, {}), now.get(part, {})
        broken += [f"{part}: {name} is gone" for name in old.keys() - young.keys()]
        broken += [
            f"{part}: {name} was {json.dumps(old[name])} and is {json.dumps(young[name])}"
            for name in old.keys() & young.keys()
            if old[name] != young[name]
        ]
        new += [f"{part}: {name} is new: {json.dumps(young[name])}" for name in young.keys() - old.keys()]
    return sorted(broken), sorted(new)


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description="Writes tests/surface.json.")
    parser.add_argument("--breaking", action="store_true", help="also what is gone or changed")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    now = surface()
    before = json.loads(PATH.read_text()) if PATH.exists() else {}
    broken, new = differences(before, now)
    print("\n".join([*broken, *new]))
    if broken and not options.breaking:
        print("nothing is written: the first of these break installations (--breaking)", file=sys.stderr)
        return 1
    PATH.write_text(text(now))
    return 0


if __name__ == "__main__":
    sys.exit(main())
