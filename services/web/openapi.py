"""The OpenAPI 3.1 document, from the contract's descriptors, comments, and the ranges beside its fields; the
paths that are not of the contract come from `video_paths.py`. A server answers with the file.

python -m services.web.openapi           write openapi.json
python -m services.web.openapi --check   fail where it is not what the contract says
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from cascade.v1 import common_pb2
from proto.comments import by_name
from services.web.body import JSON
from services.web.gateways import SERVICE
from services.web.mirror import METHODS, RESOURCE, Method, is_map, method_of
from services.web.problems import MEDIA_TYPE
from services.web.rules import Rules, rules_of
from services.web.video_paths import SESSION, VIDEO_PATHS

Schema = dict[str, Any]
PATH = Path(__file__).with_name("openapi.json")
SCHEMAS = "#/components/schemas/"
FAILURES = (400, 401, 403, 404, 408, 409, 413, 415, 429, 431, 500, 503, 504)
INT64 = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64)
PLAIN: dict[int, Schema] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"},
    FieldDescriptor.TYPE_UINT64: {"type": "string", "format": "uint64", "pattern": "^[0-9]{1,20}$"},
}
WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": "^[0-9]{1,12}([.][0-9]{1,9})?s$"},
    "google.protobuf.Any": {"type": "object", "properties": {"@type": {"type": "string"}}},
}
TEXT: Schema = {"type": "string"}
PROBLEM: Schema = {
    "description": "RFC 9457: what `application/problem+json` holds.",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": TEXT,
        "status": {"type": "integer"},
        "detail": TEXT,
        "reason": {"$ref": SCHEMAS + "ErrorReason"},
        "requestId": TEXT,
        "metadata": {"type": "object", "additionalProperties": TEXT},
        "fieldViolations": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "description"],
                "properties": {"field": TEXT, "description": TEXT},
            },
        },
        "retryAfterSeconds": {"type": "number", "minimum": 0},
    },
}
ABOUT = """\
Endless, steerable videos: the JSON mirror of the gRPC contract `cascade.v1`, and the video itself. The texts
are the contract's own, and hold for both ways in: what they call `max_unacked_segments` is
`maxUnackedSegments` in JSON, and a status such as INVALID_ARGUMENT comes as the HTTP status that stands for
it, with a Problem.

"""
KEY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The `requestId`, where the body does not bring it: a repeat has no further effect.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Za-z0-9._-]+$"},
}


def document() -> Schema:
    """All methods of the contract that have one answer, and what streams video."""
    paths: dict[str, Schema] = {}
    for method in METHODS:
        paths.setdefault(method.path, {})[method.verb.lower()] = operation(method)
    for video in VIDEO_PATHS:
        paths[video.path] = {"get": video.operation(failures())}
    connect = SERVICE.methods_by_name["Connect"]
    socket = paths[f"{RESOURCE}/connect"]["get"]
    socket["tags"] = [SERVICE.name]
    socket["description"] += "\n\n" + by_name()[connect.full_name]
    schemas = {"Problem": PROBLEM, "ErrorReason": TEXT | described(reasons())}
    for method in (*METHODS, method_of(connect)):
        schemas |= message_schemas(method.response)
        schemas |= message_schemas(method.request)
    problem = {"content": {MEDIA_TYPE: {"schema": {"$ref": SCHEMAS + "Problem"}}}}
    problem["description"] = "An error"  # type: ignore[assignment]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Cascade",
            "version": SERVICE.file.package.rpartition(".")[2],
            "description": ABOUT + by_name()[SERVICE.file.name],
        },
        "paths": paths,
        "security": [{"bearer": []}],
        "components": {
            "schemas": schemas,
            "responses": {"Problem": problem},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key or a JWT."}
            },
        },
    }


def reasons() -> str:
    """What a problem's `reason` can be."""
    enum = common_pb2.DESCRIPTOR.enum_types_by_name["ErrorReason"]
    return "\n\n".join((by_name()[enum.full_name], "\n".join(bullets(enum, "ERROR_REASON_"))))


def operation(method: Method) -> Schema:
    content = {JSON: {"schema": {"$ref": SCHEMAS + name_of(method.response)}}}
    found: Schema = {
        "operationId": method.name[0].lower() + method.name[1:],
        "tags": [method.service],
        "description": by_name()[f"{SERVICE.file.package}.{method.service}.{method.name}"],
        "responses": {
            str(method.status.value): {"description": HTTPStatus(method.status).phrase, "content": content},
            **failures(),
        },
    }
    if parameters := list(parameters_of(method)):
        found["parameters"] = parameters
    if method.has_body:
        schema = message_schema(method.request, method.fields)
        is_needed = bool(schema.get("required"))
        found["requestBody"] = {"required": is_needed, "content": {JSON: {"schema": schema}}}
    return found


def failures() -> dict[str, Schema]:
    """Answers by status."""
    return {str(status): {"$ref": "#/components/responses/Problem"} for status in FAILURES}


def parameters_of(method: Method) -> Iterable[Schema]:
    if method.names_session:
        yield SESSION
    if method.is_idempotent:
        yield KEY
    for field in () if method.has_body else method.fields:
        style = {"style": "deepObject", "explode": True} if is_map(field) else {}
        place = {"name": field.json_name, "in": "query", **described(text_of(field))}
        yield place | {"schema": bare_schema(field), **style}


def message_schemas(message: Descriptor) -> dict[str, Schema]:
    """Of this message and of all inside it, by name."""
    found: dict[str, Schema] = {}
    waiting = [message]
    while waiting:
        each = waiting.pop()
        if each.full_name in WELL_KNOWN or name_of(each) in found:
            continue
        if not each.GetOptions().map_entry:
            found[name_of(each)] = message_schema(each, each.fields)
        waiting += [item.message_type for item in each.fields if item.message_type]
    return found


def message_schema(message: Descriptor, fields: Sequence[FieldDescriptor]) -> Schema:
    required = [item.json_name for item in fields if rules_of(item).is_required]
    schema: Schema = {
        "type": "object",
        "properties": {item.json_name: field_schema(item) for item in fields},
        "additionalProperties": False,
    }
    schema |= described(by_name().get(message.full_name, ""))
    return schema | ({"required": required} if required else {})


def field_schema(field: FieldDescriptor) -> Schema:
    return bare_schema(field) | described(text_of(field))


def described(text: str) -> Schema:
    return {"description": text} if text else {}


def text_of(field: FieldDescriptor) -> str:
    """Its comment, and the values of an enum."""
    values = "\n".join(bullets(field.enum_type)) if field.enum_type else ""
    return "\n\n".join(filter(None, (by_name().get(field.full_name), values)))


def bullets(enum: EnumDescriptor, prefix: str = "") -> Iterable[str]:
    """Its values that are ever sent."""
    for value in enum.values:
        text = " ".join(by_name()[f"{enum.full_name}.{value.name}"].split())
        if text != "Never sent.":
            yield f"- `{value.name.removeprefix(prefix)}`: {text}"


def bare_schema(field: FieldDescriptor) -> Schema:
    rules = rules_of(field)
    if is_map(field) and field.message_type:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        names = {"pattern": "^[0-9]{1,20}$"}
        if key.type not in INT64:
            names = ranges(key, rules.inside("map", "keys"))
        bounds = rules.named("map", min_pairs="minProperties", max_pairs="maxProperties")
        values = one(value, rules.inside("map", "values"))
        return {"type": "object", "additionalProperties": values, "propertyNames": names} | bounds
    if field.is_repeated:
        bounds = rules.named("repeated", min_items="minItems", max_items="maxItems", unique="uniqueItems")
        return {"type": "array", "items": one(field, rules.inside("repeated", "items"))} | bounds
    return one(field, rules)


def one(field: FieldDescriptor, rules: Rules) -> Schema:
    """A single value."""
    if field.enum_type:
        return enum_schema(field.enum_type)
    if field.message_type:
        known = WELL_KNOWN.get(field.message_type.full_name)
        return dict(known) if known else {"$ref": SCHEMAS + name_of(field.message_type)}
    return PLAIN[field.type] | ranges(field, rules)


def ranges(field: FieldDescriptor, rules: Rules) -> Schema:
    """What JSON Schema can say of the rules: numbers as text have none, and where zero means unset only an
    upper bound is left."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return rules.named("string", min_len="minLength", max_len="maxLength", pattern="pattern")
    if field.type in INT64 or field.message_type:
        return {}
    kind = {FieldDescriptor.TYPE_DOUBLE: "double", FieldDescriptor.TYPE_UINT32: "uint32"}.get(field.type, "")
    found = rules.named(kind, gte="minimum", lte="maximum")
    return found if not rules.ignores_zero else {name: found[name] for name in found if name != "minimum"}


def enum_schema(enum: EnumDescriptor) -> Schema:
    return {"type": "string", "enum": [value.name for value in enum.values]}


def name_of(message: Descriptor) -> str:
    return str(message.full_name).removeprefix(f"{SERVICE.file.package}.")


def text() -> str:
    """The file."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the file is old")
    if not parser.parse_args().check:
        PATH.write_text(text())
    elif not PATH.exists() or PATH.read_text() != text():
        sys.exit(f"{PATH.name} is not what the contract says; run `make openapi`")


if __name__ == "__main__":
    main()
