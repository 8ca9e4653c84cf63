"""The contracts keep their own promises, and the checks on them can fail."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from protovalidate import ViolationPb

from cascade.v1 import common_pb2, decoder_pb2, operator_pb2, session_pb2, stage_pb2
from proto import generate

FILES = [module.DESCRIPTOR for module in (common_pb2, stage_pb2, decoder_pb2, session_pb2, operator_pb2)]
SERVICES = [service for file in FILES for service in file.services_by_name.values()]
METHODS = [method for service in SERVICES for method in service.methods]
READS = {"GetSession", "ListSessions", "ListModels", "GetOverview", "WatchStatus", "IssueResumeToken"} | {
    "Encode"
}
"""Calls that leave nothing behind."""
REQUEST_PARTS = {"SessionSpec", "PromptSwitch", "MediaProfile", "Tensor"}
STREAM_MUTATIONS = [
    session_pb2.ConnectRequest.Switch,
    session_pb2.ConnectRequest.SetPaused,
    session_pb2.ConnectRequest.End,
    stage_pb2.GenerateRequest.SwitchPrompt,
]
"""The others of the streams are absolute (ack, credit), fenced by the epoch (open), or end the stream."""


def with_nested(message: Descriptor) -> Iterator[Descriptor]:
    yield message
    for nested in message.nested_types:
        yield from with_nested(nested)


OUTERMOST = [message for file in FILES for message in file.message_types_by_name.values()]
MESSAGES = [message for outer in OUTERMOST for message in with_nested(outer)]
FIELDS = [field for message in MESSAGES if not message.GetOptions().map_entry for field in message.fields]


@pytest.fixture(scope="module")
def pool() -> DescriptorPool:
    """A pool of our own that knows the rules as an extension of options."""
    pool = DescriptorPool()
    for module in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(ViolationPb.desc().file.proto.to_binary())
    return pool


def rules_of(pool: DescriptorPool, field: FieldDescriptor) -> Any:
    """The `buf.validate.FieldRules` of a field."""
    options = GetMessageClass(pool.FindMessageTypeByName("google.protobuf.FieldOptions"))
    read: Any = options.FromString(field.GetOptions().SerializeToString())
    return read.Extensions[pool.FindExtensionByName("buf.validate.field")]


def unbounded(kind: FieldDescriptor, rules: Any) -> bool:
    """A string or bytes of any length."""
    names = {FieldDescriptor.TYPE_STRING: "string", FieldDescriptor.TYPE_BYTES: "bytes"}
    return kind.type in names and not getattr(rules, names[kind.type]).max_len


def has_bound(field: FieldDescriptor, rules: Any) -> bool:
    """Whether nothing in the field can be of any length."""
    if field.message_type and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        items_bounded = not unbounded(key, rules.map.keys) and not unbounded(value, rules.map.values)
        return bool(rules.map.max_pairs) and items_bounded
    if field.is_repeated:
        return bool(rules.repeated.max_items) and not unbounded(field, rules.repeated.items)
    return not unbounded(field, rules)


def test_every_length_has_a_bound(pool: DescriptorPool) -> None:
    assert [field.full_name for field in FIELDS if not has_bound(field, rules_of(pool, field))] == []


def test_a_length_without_bound_is_found(pool: DescriptorPool) -> None:
    prompts = session_pb2.SessionSpec.DESCRIPTOR.fields_by_name["prompts"]
    rules = rules_of(pool, prompts)
    rules.map.values.string.ClearField("max_len")
    assert not has_bound(prompts, rules)


def is_sent_by_clients(field: FieldDescriptor) -> bool:
    outer = field.containing_type
    while outer.containing_type:
        outer = outer.containing_type
    return outer.name.endswith("Request") or outer.name in REQUEST_PARTS


def test_requests_take_known_enum_values_only(pool: DescriptorPool) -> None:
    enums = [field for field in FIELDS if field.enum_type and is_sent_by_clients(field)]
    rules = {field.full_name: rules_of(pool, field) for field in enums}
    known_only = {
        name: rule.enum.defined_only or rule.repeated.items.enum.defined_only for name, rule in rules.items()
    }
    assert [name for name, is_known_only in known_only.items() if not is_known_only] == []
    assert len(enums) >= 8


def test_every_mutation_has_a_request_id() -> None:
    unary = [method for method in METHODS if not method.client_streaming and method.name not in READS]
    inputs = [method.input_type for method in unary] + [kind.DESCRIPTOR for kind in STREAM_MUTATIONS]
    assert [kind.full_name for kind in inputs if "request_id" not in kind.fields_by_name] == []
    assert {method.name for method in unary} >= {"CreateSession", "SwitchPrompt", "Drain"}


def test_clients_need_no_validator() -> None:
    imported = {dependency.name for file in FILES for dependency in file.dependencies}
    assert generate.RULES not in imported


def test_what_is_committed_is_what_the_contracts_generate(tmp_path: Path) -> None:
    generate.check_stubs(generate.SOURCES, tmp_path, generate.STUBS)


@pytest.mark.parametrize("change", ["edited", "missing", "left over"])
def test_drift_is_named(tmp_path: Path, change: str) -> None:
    stubs = tmp_path / "committed"
    shutil.copytree(generate.STUBS, stubs)
    name = "v1/stage_pb2.pyi" if change != "left over" else "v1/old_pb2.py"
    if change == "missing":
        (stubs / name).unlink()
    else:
        (stubs / name).write_text("changed")
    assert generate.find_drift(generate.STUBS, stubs) == [name]


@pytest.fixture
def contracts(tmp_path: Path) -> Path:
    """A copy of the contracts, to be changed."""
    sources = tmp_path / "proto"
    shutil.copytree(generate.SOURCES / "cascade", sources / "cascade")
    return sources


def change(sources: Path, file: str, old: str, new: str) -> None:
    path = sources / "cascade/v1" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_new_contract_is_generated_and_seen_as_drift(contracts: Path, tmp_path: Path) -> None:
    change(contracts, "stage.proto", "uint64 end_block = 1", "uint64 until_block = 1")
    with pytest.raises(generate.CheckFailed, match=r"run `make proto`: v1/stage_pb2\.py, v1/stage_pb2\.pyi"):
        generate.check_stubs(contracts, tmp_path, generate.STUBS)


def test_a_released_promise_cannot_be_broken(contracts: Path, tmp_path: Path) -> None:
    change(contracts, "common.proto", "int32 temperature_celsius = 6", "double temperature_celsius = 6")
    with pytest.raises(generate.CheckFailed, match=r'"temperature_celsius".* changed type'):
        generate.check_contracts(contracts, tmp_path, generate.RELEASED)


def test_an_addition_breaks_nothing(contracts: Path, tmp_path: Path) -> None:
    change(
        contracts,
        "session.proto",
        "  bool has_controller = 12;",
        "  bool has_controller = 12;\n  // New.\n  bool is_new = 99;",
    )
    generate.check_contracts(contracts, tmp_path, generate.RELEASED)


def test_lint_is_applied(contracts: Path, tmp_path: Path) -> None:
    change(contracts, "common.proto", "DATA_TYPE_FLOAT32 = 1", "FLOAT32 = 1")
    with pytest.raises(generate.CheckFailed, match='should be prefixed with "DATA_TYPE_"'):
        generate.check_contracts(contracts, tmp_path, generate.RELEASED)


def test_what_is_told_is_told_somewhere() -> None:
    """Values that no service sends, or takes, are deprecated. Reasons of errors: `test_errors.py`."""
    sources = "".join(path.read_text() for path in (generate.ROOT / "services").rglob("*.py"))
    outer = [enum for file in FILES for enum in file.enum_types_by_name.values()]
    enums = [*outer, *(enum for message in MESSAGES for enum in message.enum_types)]
    silent = [
        value.name
        for enum in enums
        for value in enum.values
        if value.number and not value.GetOptions().deprecated and value.name not in sources
    ]
    assert [name for name in silent if not name.startswith("ERROR_REASON_")] == [
        "PRIORITY_LOW"
    ]  # a number, to us
