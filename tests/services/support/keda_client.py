"""KEDA as the gateways meet it: a client generated, when the test runs, from a copy of the interface.

In its own descriptor pool, so nothing of the committed stubs is in it. As a process of its own, with protoc's
stubs: `python -m tests.services.support.keda_client STUBS ADDRESS COMPONENT`, which prints JSON.
"""

import json
import shutil
import sys
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc

from tests.paths import ROOT

SOURCE = ROOT / "proto/externalscaler/externalscaler.proto"
WAIT_S = 30.0


def copy_interface(folder: Path) -> Path:
    """As KEDA has it: a file without a folder."""
    return Path(shutil.copy(SOURCE, folder / "externalscaler.proto"))


def generate(folder: Path, *outputs: str) -> None:
    """Run protoc on the copy in the folder."""
    include = files("grpc_tools") / "_proto"
    assert protoc.main(["protoc", f"-I{folder}", f"-I{include}", *outputs, "externalscaler.proto"]) == 0


class Interface:
    """Messages and methods of the copy."""

    def __init__(self, folder: Path) -> None:
        copy_interface(folder)
        generate(folder, f"-o{folder / 'set.binpb'}")
        self.pool = DescriptorPool()
        for file in FileDescriptorSet.FromString((folder / "set.binpb").read_bytes()).file:
            self.pool.Add(file)
        self.service = self.pool.FindServiceByName("externalscaler.ExternalScaler")
        self.ScaledObjectRef = self.message("ScaledObjectRef")
        self.GetMetricsRequest = self.message("GetMetricsRequest")

    def message(self, name: str) -> Any:
        return GetMessageClass(self.pool.FindMessageTypeByName(f"externalscaler.{name}"))


class KedaClient:
    """The calls that KEDA makes for one ScaledObject."""

    def __init__(self, interface: Interface, channel: grpc.aio.Channel, component: str = "stage") -> None:
        self._interface = interface
        self._channel = channel
        metadata = {"component": component, "scalerAddress": "cascade-gateway:50051"}
        self.reference = interface.ScaledObjectRef(
            name=f"cascade-{component}", namespace="video", scalerMetadata=metadata
        )

    def method(self, name: str) -> Any:
        """A multicallable of the generated interface."""
        method = self._interface.service.methods_by_name[name]
        answer = GetMessageClass(method.output_type)
        make = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        return make(
            f"/{method.containing_service.full_name}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )

    async def is_active(self) -> bool:
        return bool((await self.method("IsActive")(self.reference, timeout=WAIT_S)).result)

    async def spec(self) -> Any:
        """The one metric."""
        (spec,) = (await self.method("GetMetricSpec")(self.reference, timeout=WAIT_S)).metricSpecs
        return spec

    async def value(self, metric: str = "") -> float:
        """Of that metric, as KEDA reads it."""
        request = self._interface.GetMetricsRequest(
            scaledObjectRef=self.reference, metricName=metric or (await self.spec()).metricName
        )
        (value,) = (await self.method("GetMetrics")(request, timeout=WAIT_S)).metricValues
        return float(value.metricValueFloat if value.metricValueFloat > 0 else value.metricValue)

    async def replicas(self) -> int:
        """What an HPA makes of it, but for its bounds and its tolerance."""
        return round(await self.value() / (await self.spec()).targetSizeFloat)

    def watch_active(self) -> Any:
        return self.method("StreamIsActive")(self.reference)

    def watch_spec(self) -> Any:
        return self.method("StreamMetricSpec")(self.reference)


def main() -> None:
    """All five methods once."""
    stubs, address, component = sys.argv[1:]
    sys.path.insert(0, stubs)
    pb: Any = import_module("externalscaler_pb2")
    pb_grpc: Any = import_module("externalscaler_pb2_grpc")
    reference = pb.ScaledObjectRef(name="so", namespace="ns", scalerMetadata={"component": component})
    with grpc.insecure_channel(address) as channel:
        stub = pb_grpc.ExternalScalerStub(channel)
        spec = stub.GetMetricSpec(reference, timeout=WAIT_S).metricSpecs[0]
        request = pb.GetMetricsRequest(scaledObjectRef=reference, metricName=spec.metricName)
        value = stub.GetMetrics(request, timeout=WAIT_S).metricValues[0]
        active, specs = stub.StreamIsActive(reference), stub.StreamMetricSpec(reference)
        told = {
            "metric": spec.metricName,
            "target": [spec.targetSize, spec.targetSizeFloat],
            "value": [value.metricName, value.metricValue, value.metricValueFloat],
            "is_active": stub.IsActive(reference, timeout=WAIT_S).result,
            "first_active": next(active).result,
            "first_spec": next(specs).metricSpecs[0] == spec,
        }
        active.cancel()
        specs.cancel()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
