"""The gRPC contracts as pages: what their comments say, from the compiled descriptors."""

from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

from proto.comments import (
    ENUM,
    FIELD,
    MESSAGE,
    METHOD,
    NESTED,
    NESTED_ENUM,
    PACKAGE,
    SERVICE,
    SYNTAX,
    VALUE,
    Path_,
    by_path,
    compiled,
)


def pages() -> Iterator[tuple[str, str]]:
    """Name and Markdown of a page for each contract, the index first."""
    files = compiled()
    homes = {name: stem(file) for file in files for name in names(file)}
    rows = [
        f"| [{stem(file)}]({stem(file)}.md) | {first_sentence(Page(file, homes).about())} |" for file in files
    ]
    head = f"# gRPC\n\nThe contracts of `{PACKAGE}`, written from their comments.\n\n| file | |\n|---|---|\n"
    yield "index", head + "\n".join(rows) + "\n"
    for file in files:
        yield stem(file), "\n\n".join(Page(file, homes).parts()) + "\n"


def stem(file: FileDescriptorProto) -> str:
    return Path(file.name).stem


def names(file: FileDescriptorProto) -> Iterator[str]:
    """The names of all messages and enums, as fields give them."""
    yield from (f".{PACKAGE}.{enum.name}" for enum in file.enum_type)
    for message in file.message_type:
        yield from nested_names(message, f".{PACKAGE}")


def nested_names(message: DescriptorProto, outer: str) -> Iterator[str]:
    name = f"{outer}.{message.name}"
    yield name
    yield from (f"{name}.{enum.name}" for enum in message.enum_type)
    for inner in message.nested_type:
        yield from nested_names(inner, name)


def first_sentence(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split()).partition(". ")[0].rstrip(".") + "."


class Page:
    """One contract."""

    def __init__(self, file: FileDescriptorProto, homes: dict[str, str]) -> None:
        self._file = file
        self._homes = homes
        self._comments = by_path(file)

    def about(self) -> str:
        return self._comment(SYNTAX)

    def parts(self) -> Iterator[str]:
        yield f"# {Path(self._file.name).name}"
        yield self.about().replace("\n# ", "\n## ")
        for number, service in enumerate(self._file.service):
            yield from self._service(service, (SERVICE, number))
        for number, message in enumerate(self._file.message_type):
            yield from self._message(message, f".{PACKAGE}", (MESSAGE, number))
        for number, enum in enumerate(self._file.enum_type):
            yield from self._enum(enum, f".{PACKAGE}", (ENUM, number))

    def _comment(self, path: Path_) -> str:
        return self._comments.get(path, "")

    def _service(self, service: ServiceDescriptorProto, path: Path_) -> Iterator[str]:
        yield f"## {service.name}"
        yield self._comment(path)
        for number, method in enumerate(service.method):
            yield f"### {method.name}"
            yield f"{self._stream(method.client_streaming, method.input_type)} → " + self._answer(method)
            yield loose(self._comment((*path, METHOD, number)))

    def _answer(self, method: MethodDescriptorProto) -> str:
        return self._stream(method.server_streaming, method.output_type)

    def _stream(self, streams: bool, name: str) -> str:
        return ("stream of " if streams else "") + self._link(name)

    def _message(self, message: DescriptorProto, outer: str, path: Path_) -> Iterator[str]:
        name = f"{outer}.{message.name}"
        yield heading(name)
        yield loose(self._comment(path))
        entries = {f"{name}.{each.name}": each for each in message.nested_type if each.options.map_entry}
        rows = [
            f"| `{field.name}` | {self._type(field, entries)} | {field.number} "
            f"| {self._field_text(message, field, (*path, FIELD, number))} |"
            for number, field in enumerate(message.field)
        ]
        if rows:
            yield "| field | type | number | |\n|---|---|---|---|\n" + "\n".join(rows)
        for number, inner in enumerate(message.nested_type):
            if not inner.options.map_entry:
                yield from self._message(inner, name, (*path, NESTED, number))
        for number, enum in enumerate(message.enum_type):
            yield from self._enum(enum, name, (*path, NESTED_ENUM, number))

    def _field_text(self, message: DescriptorProto, field: FieldDescriptorProto, path: Path_) -> str:
        chosen = field.HasField("oneof_index") and not field.proto3_optional
        return (f"One of `{message.oneof_decl[field.oneof_index].name}`. " if chosen else "") + cell(
            self._comment(path)
        )

    def _enum(self, enum: EnumDescriptorProto, outer: str, path: Path_) -> Iterator[str]:
        yield heading(f"{outer}.{enum.name}")
        yield loose(self._comment(path))
        rows = [
            f"| `{value.name}` | {value.number} | {cell(self._comment((*path, VALUE, number)))} |"
            for number, value in enumerate(enum.value)
        ]
        yield "| value | number | |\n|---|---|---|\n" + "\n".join(rows)

    def _type(self, field: FieldDescriptorProto, entries: dict[str, DescriptorProto]) -> str:
        if entry := entries.get(field.type_name):
            key, value = entry.field
            return f"map of {self._type(key, {})} to {self._type(value, {})}"
        kind = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        text = self._link(field.type_name) if field.type_name else kind
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            return f"list of {text}"
        return f"{text}, optional" if field.proto3_optional else text

    def _link(self, name: str) -> str:
        """To the message or enum of that name, if it is ours."""
        home, short = self._homes.get(name), name.removeprefix(f".{PACKAGE}.").removeprefix(".")
        return f"[{short}]({home}.md#{short.lower()})" if home else f"`{short}`"


def heading(name: str) -> str:
    short = name.removeprefix(f".{PACKAGE}.")
    return f"### {short} {{#{short.lower()}}}"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def loose(text: str) -> str:
    """Markdown wants an empty line before a list."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("- ") and lines and lines[-1] and not lines[-1].startswith(("- ", "  ")):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)
