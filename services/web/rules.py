"""The ranges beside the contract's fields (`buf.validate`), as far as a document can repeat them.

Read with a private module of protovalidate, since neither it nor any other package has FieldRules for public
use; `openapi.py` alone does so, when the document is made.
"""

import json
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.unknown_fields import UnknownFieldSet
from protovalidate._gen.buf.validate.validate_pb import FieldRules

EXTENSION = 1159
"""Number of `buf.validate.field`; the stubs do not import its file, so it stays unread in the options."""
IGNORE_ZERO = "IGNORE_IF_ZERO_VALUE"


@dataclass(frozen=True)
class Rules:
    """Of one field, or of what is inside it."""

    content: dict[str, Any]
    """In the JSON mapping of FieldRules."""

    @property
    def is_required(self) -> bool:
        return bool(self.content.get("required"))

    @property
    def ignores_zero(self) -> bool:
        return self.content.get("ignore") == IGNORE_ZERO

    def inside(self, kind: str, part: str) -> "Rules":
        """Of the `keys` of a `map`, for example."""
        return Rules(self.content.get(kind, {}).get(part, {}))

    def named(self, kind: str, **names: str) -> dict[str, Any]:
        """Those of this kind that there are, under other names."""
        found = self.content.get(kind, {})
        values = {name: found.get(camel(rule)) for rule, name in names.items()}
        return {name: number(value) for name, value in values.items() if value is not None}


def rules_of(field: FieldDescriptor) -> Rules:
    options: Any = UnknownFieldSet(field.GetOptions())
    for option in options:
        if option.field_number == EXTENSION:
            return Rules(json.loads(FieldRules.from_binary(option.data).to_json()))
    return Rules({})


def camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


def number(value: Any) -> Any:
    """64-bit numbers are text in JSON; patterns are not numbers."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value
