"""Messages against the rules that stand beside their fields: `buf.validate` in proto/cascade/v1."""

import math

from google.protobuf.message import Message
from protovalidate import FieldPathPb, Validator, Violation

from cascade.v1 import common_pb2
from cascade_core.errors import UserError

MAX_VIOLATIONS = 10
MAX_CHARACTERS = 200
"""Of a field's path and of a description: ten violations take 4 KB, half of what gRPC takes as metadata by
default."""

BYTES_PER_VALUE = {common_pb2.DATA_TYPE_FLOAT32: 4, common_pb2.DATA_TYPE_BFLOAT16: 2}

_validator = Validator()


class InvalidField(UserError):
    """Fields of a message are outside their range."""

    def __init__(self, violations: list[tuple[str, str]], num_more: int = 0) -> None:
        """`num_more` violations are not in the list."""
        self.violations = violations
        """(path of the field, allowed range), as in google.rpc.BadRequest."""
        self.num_more = num_more
        lines = [f"{field}: {description}" for field, description in violations]
        super().__init__("; ".join(lines) + (f"; and {num_more} more" if num_more else ""))

    def concerns(self, field: str) -> bool:
        return any(path == field for path, _ in self.violations)


def validate(message: Message) -> None:
    """Raise InvalidField where a field, at any depth, is outside its range."""
    found = _validator.collect_violations(message)
    if found:
        listed = [_describe(violation) for violation in found[:MAX_VIOLATIONS]]
        raise InvalidField(listed, len(found) - len(listed))


def check_tensor(field: str, tensor: common_pb2.Tensor) -> None:
    """Raise InvalidField unless the data has as many bytes as shape and dtype say; for whoever reads it.

    Not a rule in the contract: such a rule (CEL) copies the data, 20 ms for 1 MB.
    """
    num_bytes = math.prod(tensor.shape) * BYTES_PER_VALUE[tensor.dtype]
    if len(tensor.data) != num_bytes:
        wrong = f"must be {num_bytes} bytes (shape {list(tensor.shape)}), not {len(tensor.data)}"
        raise InvalidField([(f"{field}.data", wrong)])


def _describe(violation: Violation) -> tuple[str, str]:
    proto = violation.proto
    field = field_path(proto.field) if proto.field else "message"
    key = "key " if proto.for_key else ""
    return _cut(field), _cut(key + (proto.message or proto.rule_id))


def field_path(path: FieldPathPb) -> str:
    """`spec.prompts[3].text`, `spec.labels["a"]`."""
    parts = []
    for element in path.elements:
        subscript = element.subscript
        if subscript is None:
            parts.append(element.field_name)
        elif isinstance(subscript.value, str):
            parts.append(f'{element.field_name}["{subscript.value}"]')
        else:
            parts.append(f"{element.field_name}[{subscript.value}]")
    return ".".join(parts)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"
