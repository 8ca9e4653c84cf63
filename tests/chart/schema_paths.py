"""Finds the schema of a value."""

import re
from typing import Any

from tests.chart.rendering import chart_schema

Schema = dict[str, Any]


def types(schema: Schema) -> list[str]:
    kind = schema.get("type", "object" if "properties" in schema else [])
    return [kind] if isinstance(kind, str) else kind


def follow(schema: Schema) -> Schema:
    while "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/").removeprefix("#/definitions/")
        whole = chart_schema()
        found = (whole.get("$defs") or whole.get("definitions"))[name]
        schema = {**found, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


def schema_at(path: tuple[str, ...]) -> Schema:
    schema = follow(chart_schema())
    for name in path:
        known = schema.get("properties") or {}
        patterns = schema.get("patternProperties") or {}
        more = next((inner for pattern, inner in patterns.items() if re.search(pattern, name)), None)
        more = more or schema.get("additionalProperties")
        schema = follow(known[name] if name in known or not isinstance(more, dict) else more)
    return schema
