"""The JSON mapping of protobuf, strict: an unknown field is refused by its name."""

import json
import re
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from services.common.errors import Malformed
from services.common.validation import InvalidField

M = TypeVar("M", bound=Message)
MAX_DEPTH = 32
MAX_CHARS = 200
UNKNOWN = re.compile(r'has no field named "(?P<name>.*?)" at "\w+\.?(?P<path>.*?)"', re.DOTALL)
PLACE = re.compile(r" at \w+Request[\w.\[\]]*")
WORDS = (
    (
        re.compile(r"invalid literal for int\(\) with base 10: '(.*)'", re.DOTALL),
        "must be a whole number, not {}",
    ),
    (re.compile(r'Couldn.t parse non-integer string: "(.*)"', re.DOTALL), "must be a whole number, not {}"),
    (re.compile(r"Couldn.t parse integer: (.*)", re.DOTALL), "must be a whole number, not {}"),
    (re.compile(r"Couldn.t parse float:? \"?(.*?)\"?(?:, use .*)?", re.DOTALL), "must be a number, not {}"),
    (re.compile(r"Value out of range: (.*)", re.DOTALL), "{} is outside of its range"),
    (re.compile(r"Invalid enum value (.*) for enum type .*", re.DOTALL), "has no value {}"),
    (
        re.compile(r'Message type "[\w.]+" should not have multiple "(\w+)" oneof fields(?: at ".*")?'),
        "can have only one {}",
    ),
    (re.compile(r"expected string or bytes-like object, got .*", re.DOTALL), "must be text"),
)
"""What the parser says of a value, in plain words."""
NESTED = re.compile(r"Failed to parse (\w+) field: ")


def parse_json(content: bytes | str) -> dict[str, Any]:
    """One object. Raises Malformed."""
    try:
        found = json.loads(content, parse_constant=refuse_constant, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"this is no JSON: {cut(str(error))}") from None
    if not isinstance(found, dict):
        raise Malformed("this JSON is no object")
    return found


def to_message(values: dict[str, Any], message: M) -> M:
    """Fill the message. Raises InvalidField, which names the field."""
    try:
        json_format.ParseDict(values, message, max_recursion_depth=MAX_DEPTH)
    except (json_format.ParseError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise InvalidField([violation_of(str(error))]) from None
    return message


def json_of(message: Message) -> dict[str, Any]:
    """Names in lowerCamelCase, 64-bit integers as text; fields that were not set are there as well."""
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True)


def violation_of(text: str) -> tuple[str, str]:
    """(field, what is wrong), from what the parser says."""
    if found := UNKNOWN.search(text):
        return cut(".".join(filter(None, found.group("path", "name")))), "is not known"
    path = ".".join(NESTED.findall(text))
    return path or "message", cut(readable(PLACE.sub("", NESTED.sub("", text)).rstrip(".")))


def readable(text: str) -> str:
    """Left as it is where we know no better words."""
    for pattern, words in WORDS:
        if found := pattern.fullmatch(text):
            return words.format(*found.groups())
    return text


def refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object. Raises ValueError where a name comes twice, or is half a surrogate pair, which nothing can
    look up."""
    found = dict(pairs)
    "".join(found).encode()
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in an object")
    return found


def cut(text: str) -> str:
    """What can be sent back: half a surrogate pair cannot."""
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…"
