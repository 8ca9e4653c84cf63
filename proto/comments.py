"""What the contracts say of themselves: the comments above their parts, which the stubs' descriptors lack."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

from proto import generate

PACKAGE = "cascade.v1"
SYNTAX = (12,)
MESSAGE, ENUM, SERVICE = 4, 5, 6
"""Numbers of fields of FileDescriptorProto, of which the paths of comments consist."""
FIELD, NESTED, NESTED_ENUM = 2, 3, 4
METHOD = VALUE = 2
Path_ = tuple[int, ...]


@cache
def compiled() -> tuple[FileDescriptorProto, ...]:
    """Our own contracts, with their comments."""
    with TemporaryDirectory() as folder:
        image = generate.compile_sources(generate.SOURCES, Path(folder)).read_bytes()
    return tuple(file for file in FileDescriptorSet.FromString(image).file if file.package == PACKAGE)


def by_path(file: FileDescriptorProto) -> dict[Path_, str]:
    return {tuple(at.path): unindented(at.leading_comments) for at in file.source_code_info.location}


def unindented(comment: str) -> str:
    return "\n".join(line.removeprefix(" ") for line in comment.splitlines()).strip("\n")


@cache
def by_name() -> dict[str, str]:
    """By full name, such as `cascade.v1.SessionSpec.seed`; a file's own by its path."""
    found = {}
    for file in compiled():
        comments = by_path(file)
        places = [*services(file.service), *messages(file.message_type, PACKAGE, (MESSAGE,))]
        places += [(file.name, SYNTAX), *enums(file.enum_type, PACKAGE, (ENUM,))]
        found |= {name: comments.get(path, "") for name, path in places}
    return found


def services(found: Iterable[ServiceDescriptorProto]) -> Iterator[tuple[str, Path_]]:
    for number, service in enumerate(found):
        name, path = f"{PACKAGE}.{service.name}", (SERVICE, number)
        yield name, path
        yield from ((f"{name}.{each.name}", (*path, METHOD, i)) for i, each in enumerate(service.method))


def messages(found: Iterable[DescriptorProto], outer: str, above: Path_) -> Iterator[tuple[str, Path_]]:
    for number, message in enumerate(found):
        name, path = f"{outer}.{message.name}", (*above, number)
        yield name, path
        yield from ((f"{name}.{each.name}", (*path, FIELD, i)) for i, each in enumerate(message.field))
        yield from messages(message.nested_type, name, (*path, NESTED))
        yield from enums(message.enum_type, name, (*path, NESTED_ENUM))


def enums(found: Iterable[EnumDescriptorProto], outer: str, above: Path_) -> Iterator[tuple[str, Path_]]:
    for number, enum in enumerate(found):
        name, path = f"{outer}.{enum.name}", (*above, number)
        yield name, path
        yield from ((f"{name}.{each.name}", (*path, VALUE, i)) for i, each in enumerate(enum.value))
