"""`python helm/reference.py` writes what the chart says about its values, from what is true elsewhere.

In `values.schema.json`: what `stage.settings`, `decoder.settings` and `gateway.settings` may hold, from the
services' settings; what is needed, from the defaults of `values.yaml`. In the schema of the chart's own
Redis: the part of the former that is about it. In `README.md`: the table of all values, from the schema's
descriptions and the defaults.
`--check` writes nothing and ends with 1 where a file is not as it would be written.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import TypeAdapter

from services.common.reference import cell, meanings_of
from services.decoder.settings import Settings as DecoderSettings
from services.gateway.base.settings import Settings as GatewaySettings
from services.stage.settings import Settings as StageSettings

CHART = Path(__file__).parent / "cascade"
SCHEMA, VALUES, REFERENCE = CHART / "values.schema.json", CHART / "values.yaml", CHART / "README.md"
REDIS = CHART / "charts" / "redis"
START, END = "<!-- values: written by `make values` -->\n", "<!-- end of values -->\n"
KINDS = {"stage": StageSettings, "decoder": DecoderSettings, "gateway": GatewaySettings}
OWNED_SECTIONS = frozenset({"tls", "auth", "drain", "telemetry"})
"""Whole sections that other values of the chart set."""
OWNED_FIELDS = frozenset(
    {
        *((section, name) for section in ("grpc", "http") for name in ("host", "port")),
        *(
            ("http", f"webrtc{name}")
            for name in ("", "_public_address", "_first_port", "_last_port", "_max_players")
        ),
        *(("stage", name) for name in ("model", "weights", "num_ranks", "device", "compile_cache")),
        *(("decoder", name) for name in ("model", "weights", "device")),
        *(
            ("gateway", name)
            for name in (
                "stages", "decoders", "default_model", "advertise",
                "redis_url", "redis_prefix", "redis_password_file", "redis_ca", "redis_certificate",
                "redis_key", "token_key_file", "quotas_file",
            )
        ),
        *(
            ("kubernetes", name)
            for name in (
                "stage_service", "decoder_service", "port_name", "namespace",
                "deletion_cost", "events", "api_url", "account_dir",
            )
        ),
        ("scaler", "hpa_tolerance"),
        *(("peer", name) for name in ("api_key_file", "tls", "certificate", "key", "ca", "server_name")),
    }
)  # fmt: skip
"""(section, field) that other values of the chart set, so that nothing is said twice."""


def settings_schema(kind: type) -> dict[str, Any]:
    """JSON schema of section -> field -> value, without what the chart owns."""
    sections = {
        name: section_schema(name, section)
        for name, section in get_type_hints(kind).items()
        if name not in OWNED_SECTIONS
    }
    return closed(sections, "Settings of the service by section and field, as docs/settings.md has them.")


def section_schema(name: str, kind: type) -> dict[str, Any]:
    """One section."""
    whole = TypeAdapter(kind).json_schema()
    meanings = meanings_of(kind)
    properties = {
        field.name: {"description": meanings[field.name], **plain(whole["properties"][field.name], whole)}
        for field in fields(kind)
        if (name, field.name) not in OWNED_FIELDS
    }
    return closed(properties, f"The section [{name}].")


def plain(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
    """Without titles, and without null: a setting that has no value is left out. What a list holds stands in
    its place."""
    if "$ref" in schema:
        table = whole["$defs"][schema["$ref"].rpartition("/")[2]]
        columns = {name: plain(column, whole) for name, column in table["properties"].items()}
        return {**plain({**table, "properties": {}}, whole), "properties": columns}
    branches = [branch for branch in schema.get("anyOf", ()) if branch != {"type": "null"}]
    assert len(branches) <= 1, "a setting has one type"
    kept = {key: value for key, value in schema.items() if key not in {"anyOf", "title", "prefixItems"}}
    found = {**(branches[0] if branches else {}), **kept}
    if found.get("default", 0) is None:
        del found["default"]
    if "items" in found:
        found["items"] = plain(found["items"], whole)
    return {key: value for key, value in found.items() if key != "title"}


def closed(properties: Mapping[str, Any], description: str) -> dict[str, Any]:
    """An object that has no other keys."""
    return {
        "description": description,
        "type": "object",
        "additionalProperties": False,
        "properties": dict(properties),
    }


def schema_text() -> str:
    """values.schema.json with the services' settings as they are now, and with what is needed."""
    schema = json.loads(SCHEMA.read_text())
    for name, kind in KINDS.items():
        schema["$defs"][f"{name}Settings"] = settings_schema(kind)
    require(schema, schema, yaml.safe_load(VALUES.read_text()))
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def require(schema: Mapping[str, Any], entry: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Writes `required`: helm takes values that are null away before it looks at the schema, and a template
    would find nothing. What is empty by default may go, and so may lists and maps that may be empty."""
    part: Any = resolve(schema, entry)
    properties = part["properties"]
    part["required"] = [name for name in properties if is_needed(schema, properties[name], values.get(name))]
    if not part["required"]:
        del part["required"]
    for name in properties:
        if "properties" in resolve(schema, properties[name]) and values.get(name):
            require(schema, properties[name], values[name])


def is_needed(schema: Mapping[str, Any], entry: Mapping[str, Any], default: Any) -> bool:
    if isinstance(default, dict):
        return bool(default) and "properties" in resolve(schema, entry)
    if isinstance(default, list):
        return "minItems" in resolve(schema, entry)
    return default not in (None, "")


def redis_schema_text() -> str:
    """What cascade's schema says about `redis`, as a schema of its own."""
    whole = json.loads(SCHEMA.read_text())
    part = whole["properties"]["redis"]
    require(whole, part, yaml.safe_load((REDIS / VALUES.name).read_text()))
    used = {name: whole["$defs"][name] for name in sorted(definitions(whole, part))}
    schema = {"$schema": whole["$schema"], "title": "Values of the chart redis", **part, "$defs": used}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def definitions(whole: Mapping[str, Any], part: Any) -> set[str]:
    """Names of all definitions that a schema uses, directly or not."""
    if isinstance(part, list):
        return set().union(*(definitions(whole, each) for each in part))
    if not isinstance(part, dict):
        return set()
    found = set().union(*(definitions(whole, each) for each in part.values()))
    if "$ref" in part:
        name = part["$ref"].removeprefix("#/$defs/")
        found |= {name} | definitions(whole, whole["$defs"][name])
    return found


def defaults() -> dict[str, Any]:
    """As the templates see them: the Redis chart's own, with cascade's over them."""
    values: dict[str, Any] = yaml.safe_load(VALUES.read_text())
    return {**values, "redis": {**yaml.safe_load((REDIS / "values.yaml").read_text()), **values["redis"]}}


def reference_text() -> str:
    """README.md with the table of values."""
    schema, values = json.loads(schema_text()), defaults()
    text = REFERENCE.read_text()
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return before + START + "\n" + "\n".join(tables(schema, values)) + "\n" + END + after


def tables(schema: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[str]:
    """A table of the values that are no group of others, then one for each group."""
    parts = {name: part for name, part in schema["properties"].items() if name != "global"}
    single = {name: part for name, part in parts.items() if not resolve(schema, part).get("properties")}
    yield from table(schema, "general", "For all objects.", single, values)
    for name, part in parts.items():
        if name not in single:
            yield from table(schema, name, part["description"], {name: part}, values)


def table(
    schema: Mapping[str, Any], title: str, about: str, parts: Mapping[str, Any], values: Mapping[str, Any]
) -> Iterator[str]:
    yield f"### {title}\n"
    yield f"{about}\n"
    yield "| value | default | meaning |"
    yield "| --- | --- | --- |"
    for name, part in parts.items():
        for path, entry, default in leaves(schema, name, part, values.get(name)):
            if path != title:
                yield f"| `{path}` | {cell(shown(default))} | {cell(meaning(schema, entry))} |"
    yield ""


def leaves(
    schema: Mapping[str, Any], path: str, entry: Mapping[str, Any], default: Any
) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """(path, its schema, its default) of all values; of a group before its members, without a default."""
    whole = resolve(schema, entry)
    groups = whole.get("properties")
    if not groups or default in ({}, None):
        yield path, entry, default
        return
    yield path, entry, None
    for name, part in groups.items():
        if name == "global":
            continue
        yield from leaves(schema, f"{path}.{name}", part, default.get(name))


def resolve(schema: Mapping[str, Any], entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a `$ref` stands for."""
    pointer = entry.get("$ref")
    return schema["$defs"][pointer.removeprefix("#/$defs/")] if pointer else entry


def meaning(schema: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """Its description, and what it may be."""
    whole = resolve(schema, entry)
    choices = [f"`{choice}`" for choice in whole.get("enum", ()) if choice != ""]
    text: str = entry.get("description") or whole["description"]
    return f"{text} One of {', '.join(choices)}." if choices else text


def shown(default: Any) -> str:
    """As YAML on one line."""
    return "" if default is None else f"`{json.dumps(default, ensure_ascii=False)}`"


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where something would change")
    options = parser.parse_args()
    stale = []
    texts = (
        (SCHEMA, schema_text),
        (REDIS / SCHEMA.name, redis_schema_text),
        (REFERENCE, reference_text),
    )
    for path, text in texts:
        new = text()
        if not path.exists() or new != path.read_text():
            stale.append(str(path.relative_to(CHART)))
            if not options.check:
                path.write_text(new)
    if options.check and stale:
        print(f"{', '.join(stale)}: not as `make values` would write; run it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
