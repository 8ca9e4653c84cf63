"""KEDA's interface stands as KEDA publishes it, to the number: a slip would be silence on the wire."""

from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from externalscaler import externalscaler_pb2 as pb
from proto import generate
from tests.services.support.keda_client import Interface

STRING, INT64, DOUBLE = FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_DOUBLE
BOOL, MESSAGE = FieldDescriptor.TYPE_BOOL, FieldDescriptor.TYPE_MESSAGE
PUBLISHED = {
    "ScaledObjectRef": {
        "name": (1, STRING, False),
        "namespace": (2, STRING, False),
        "scalerMetadata": (3, MESSAGE, True),
    },
    "IsActiveResponse": {"result": (1, BOOL, False)},
    "GetMetricSpecResponse": {"metricSpecs": (1, MESSAGE, True)},
    "MetricSpec": {
        "metricName": (1, STRING, False),
        "targetSize": (2, INT64, False),
        "targetSizeFloat": (3, DOUBLE, False),
    },
    "GetMetricsRequest": {"scaledObjectRef": (1, MESSAGE, False), "metricName": (2, STRING, False)},
    "GetMetricsResponse": {"metricValues": (1, MESSAGE, True)},
    "MetricValue": {
        "metricName": (1, STRING, False),
        "metricValue": (2, INT64, False),
        "metricValueFloat": (3, DOUBLE, False),
    },
}
"""kedacore/keda, pkg/scalers/externalscaler/externalscaler.proto, as of 2.21."""
METHODS = {
    "IsActive": ("ScaledObjectRef", "IsActiveResponse", False),
    "StreamIsActive": ("ScaledObjectRef", "IsActiveResponse", True),
    "GetMetricSpec": ("ScaledObjectRef", "GetMetricSpecResponse", False),
    "GetMetrics": ("GetMetricsRequest", "GetMetricsResponse", False),
    "StreamMetricSpec": ("ScaledObjectRef", "GetMetricSpecResponse", True),
}


def test_messages_are_the_published_ones() -> None:
    messages = {
        name: {field.name: (field.number, field.type, field.is_repeated) for field in message.fields}
        for name, message in pb.DESCRIPTOR.message_types_by_name.items()
    }
    assert messages == PUBLISHED
    (key, value) = pb.ScaledObjectRef.DESCRIPTOR.fields_by_name["scalerMetadata"].message_type.fields
    assert (key.type, value.type) == (STRING, STRING)


def test_methods_are_the_published_ones() -> None:
    service = pb.DESCRIPTOR.services_by_name["ExternalScaler"]
    assert service.full_name == "externalscaler.ExternalScaler"
    methods = {
        method.name: (method.input_type.name, method.output_type.name, method.server_streaming)
        for method in service.methods
    }
    assert methods == METHODS
    assert not any(method.client_streaming for method in service.methods)


def test_bytes_as_keda_writes_them() -> None:
    """Worked out by hand from the field numbers."""
    request = bytes.fromhex("0a180a0273301a120a09636f6d706f6e656e741205737461676512016d")
    read = pb.GetMetricsRequest.FromString(request)
    assert (read.scaledObjectRef.name, read.metricName) == ("s0", "m")
    assert dict(read.scaledObjectRef.scalerMetadata) == {"component": "stage"}
    value = pb.MetricValue(metricName="m", metricValue=3, metricValueFloat=3.0)
    assert value.SerializeToString().hex() == "0a016d1003190000000000000840"


def test_a_client_can_be_generated_from_a_copy(tmp_path: Path) -> None:
    interface = Interface(tmp_path)
    assert {method.name for method in interface.service.methods} == METHODS.keys()
    assert interface.ScaledObjectRef is not pb.ScaledObjectRef


def test_what_is_committed_is_what_the_interface_generates(tmp_path: Path) -> None:
    generate.check_stubs(generate.SOURCES, tmp_path, generate.SCALER_STUBS)


def test_drift_is_seen(tmp_path: Path) -> None:
    committed = tmp_path / "externalscaler"
    committed.mkdir()
    (committed / "externalscaler_pb2.py").write_text("changed")
    with pytest.raises(generate.CheckFailed, match=r"externalscaler_pb2\.py, externalscaler_pb2\.pyi"):
        generate.check_stubs(generate.SOURCES, tmp_path, committed)
