"""Reads settings from environment variables over a TOML file; every complaint names its source.

A variable is `CASCADE_<SECTION>_<FIELD>`; lists are comma-separated, those of tables JSON; an empty variable
counts as absent, so that a chart can leave one blank. Unknown variables and keys are fatal, with two
exceptions: sections of other services (one environment can serve all of them), and what Kubernetes injects
for Services in the namespace (`CASCADE_STAGE_SERVICE_HOST`, `CASCADE_STAGE_PORT=tcp://...`).
"""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from cascade_core.errors import InvalidConfig

PREFIX = "CASCADE_"
FILE_VARIABLE = "CASCADE_CONFIG_FILE"
SERVICE_SECTIONS = frozenset(
    {"stage", "decoder", "gateway", "peer", "client", "kubernetes", "scaler", "http", "web"}
)
KUBERNETES_LINK = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
JSON_TABLES = re.compile(r"\s*\[\s*[{\]]")
LINK_VALUE = re.compile(r"^(tcp|udp|sctp)://")

S = TypeVar("S")


def load_settings(kind: type[S], environment: Mapping[str, str] = os.environ) -> S:
    """The settings of this process, or InvalidConfig with every wrong value and where it stands."""
    sections = get_type_hints(kind)
    assert all(is_dataclass(section) for section in sections.values())
    values, sources = read_file(environment.get(FILE_VARIABLE), sections)
    for variable, value in sorted(environment.items()):
        if variable.startswith(PREFIX) and variable != FILE_VARIABLE and not is_link(variable, value):
            place(variable, value, sections, values, sources)
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise InvalidConfig("; ".join(complaint(item, sources) for item in error.errors())) from None


def read_file(
    path: str | None, sections: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """The file's tables without other services', and the source of each key for complaints."""
    if not path:
        return {}, {}
    try:
        tables = tomllib.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidConfig(f"{FILE_VARIABLE}: {path}: {error}") from None
    ours = {name: table for name, table in tables.items() if name in sections or name not in SERVICE_SECTIONS}
    sources: dict[tuple[str, ...], str] = {}
    for section, table in ours.items():
        sources[(section,)] = f"{path}: {section}"
        for key in table if isinstance(table, dict) else ():
            sources[(section, key)] = f"{path}: {section}.{key}"
    return ours, sources


def is_link(variable: str, value: str) -> bool:
    """Whether Kubernetes put it there for a Service (`enableServiceLinks`)."""
    ends_like_link = KUBERNETES_LINK.search(variable) is not None
    return ends_like_link or (variable.endswith("_PORT") and LINK_VALUE.match(value) is not None)


def place(
    variable: str,
    value: str,
    sections: Mapping[str, Any],
    values: dict[str, Any],
    sources: dict[tuple[str, ...], str],
) -> None:
    """Put one variable where it belongs."""
    section, _, key = variable.removeprefix(PREFIX).lower().partition("_")
    if section not in sections:
        if section in SERVICE_SECTIONS:
            return
        known = ", ".join(f"{PREFIX}{name.upper()}_*" for name in sections)
        raise InvalidConfig(f"{variable}: no such setting; known: {known}, {FILE_VARIABLE}")
    keys = [known.name for known in fields(sections[section])]
    if key not in keys:
        names = ", ".join(f"{PREFIX}{section}_{known}".upper() for known in keys)
        raise InvalidConfig(f"{variable}: no such setting; known: {names}")
    if not value:
        return
    table = values.setdefault(section, {})
    if not isinstance(table, dict):
        return  # the file's section is no table: told when it is checked
    is_list = get_origin(get_type_hints(sections[section])[key]) is tuple
    table[key] = listed(variable, value) if is_list else value
    sources[(section, key)] = variable


def listed(variable: str, value: str) -> list[Any]:
    """The parts of a list; one of tables is JSON. An IPv6 address begins with `[`, too."""
    if not JSON_TABLES.match(value):
        return [part.strip() for part in value.split(",") if part.strip()]
    try:
        parts: list[Any] = json.loads(value)
    except ValueError as error:
        raise InvalidConfig(f"{variable}: not a JSON list: {error}") from None
    return parts


def complaint(item: Any, sources: Mapping[tuple[str, ...], str]) -> str:
    """`source: what is wrong`, without the value, which may be secret."""
    path = tuple(str(part) for part in item["loc"])
    if len(path) == 1:  # a rule over several fields: name all that were given
        given = [source for key, source in sources.items() if key[0] == path[0] and len(key) == 2]
        return f"{', '.join(given) or path[0]}: {item['msg']}"
    known = (sources[path[:n]] for n in range(len(path), 0, -1) if path[:n] in sources)
    return f"{next(known, '.'.join(path))}: {item['msg']}"
