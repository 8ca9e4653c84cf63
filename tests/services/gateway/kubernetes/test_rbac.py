"""What the gateway asks of the API server and what the chart's Role allows it are the same, to the verb.

One side is the real chart through the real helm; the other a real gateway with the settings of the rendered
Deployment, against a Kubernetes server that we did not write, which says what each request means.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import kmock
import pytest

from cascade.v1 import common_pb2
from services.common.environment import load_settings
from services.gateway.app.assembly import running
from services.gateway.base.settings import KubernetesSettings, Settings
from services.gateway.kubernetes.deletion_cost import ANNOTATION, SPREAD_S
from tests.chart.rendering import NAMESPACE, Rendering, render
from tests.services.support.fake_api_server import endpoint_object, pod_object, slice_object
from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_machine import Machine
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import Tenant, gateway_settings, open_channel, until

Right = tuple[str, str, str, str]
"""Verb, API group, resource, namespace."""
SLICES = kmock.resource("discovery.k8s.io", "v1", "endpointslices")
PODS = kmock.resource("", "v1", "pods")
EVENTS = kmock.resource("events.k8s.io", "v1", "events")
PREFIX = "CASCADE_KUBERNETES_"
VALUES = "values-demo-cpu.yaml"
VERBS = {"fetch": "get", "update": "patch"}


def switches(deletion_cost: bool, events: bool) -> Rendering:
    kubernetes = {"deletionCost": deletion_cost, "events": events}
    return render(VALUES, set={"gateway": {"kubernetes": kubernetes}})


def grants(rendering: Rendering, account: str) -> Iterator[Right]:
    """All rights of a service account of the release, wherever they come from."""
    wanted = {"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}
    for binding in rendering.all("RoleBinding", "ClusterRoleBinding"):
        if wanted not in binding["subjects"]:
            continue
        role = rendering.one(binding["roleRef"]["kind"], binding["roleRef"]["name"])
        is_local = binding["kind"] == "RoleBinding"
        namespace = binding["metadata"].get("namespace", NAMESPACE) if is_local else "*"
        for rule in role["rules"]:
            assert rule.keys() == {"apiGroups", "resources", "verbs"}
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    yield from ((verb, group, resource, namespace) for verb in rule["verbs"])


def account_of(rendering: Rendering, component: str) -> str:
    return str(rendering.workload(component).spec["serviceAccountName"])


def settings_of(rendering: Rendering, url: str, mounts: Path) -> KubernetesSettings:
    """As the gateway's pod gets them, but for where the server is; the account as the pod mounts it."""
    gateway = rendering.workload("gateway")
    variables = {
        each["name"]: each["value"] for each in gateway.main["env"] if each["name"].startswith(PREFIX)
    }
    found = load_settings(Settings, variables).kubernetes
    (mount,) = (each for each in gateway.main["volumeMounts"] if each["mountPath"] == str(found.account_dir))
    (volume,) = (each for each in gateway.spec["volumes"] if each["name"] == mount["name"])
    contents = {"token": "secret", "namespace": NAMESPACE, "ca.crt": None}
    for path in paths_of(volume["projected"]["sources"]):
        if text := contents[path]:
            (mounts / path).write_text(text)
    return replace(found, api_url=url, account_dir=mounts, idle_after_s=0.0)


def paths_of(sources: list[dict[str, Any]]) -> Iterator[str]:
    """Files of a projected volume."""
    for source in sources:
        for kind, each in source.items():
            items = [each] if kind == "serviceAccountToken" else each["items"]
            yield from (item["path"] for item in items)


def publish(server: kmock.KubernetesEmulator, machine: Machine, service: str, pod: str) -> None:
    host, _, port = machine.address.partition(":")
    item = slice_object(pod, endpoint_object(host, pod), service=service, port=int(port))
    item["metadata"] |= {"namespace": NAMESPACE, "resourceVersion": "1"}
    server.objects[SLICES, NAMESPACE, pod] = item
    server.objects[PODS, NAMESPACE, pod] = pod_object(pod)


def right_of(request: kmock.Request) -> Right:
    assert request.action is not None
    assert request.resource is not None
    assert request.subresource is None
    action = request.action.value.lower()
    verb = VERBS.get(action, action)
    assert verb != "patch" or request.method == kmock.method.PATCH
    assert request.headers["Authorization"] == "Bearer secret"
    return verb, str(request.resource.group), str(request.resource.plural), request.namespace or "*"


async def used(rendering: Rendering, mounts: Path) -> set[Right]:
    """What a gateway asks for, when sessions come and go and a GPU breaks."""
    server = kmock.KubernetesEmulator()
    server.resources[EVENTS] = {}
    async with server, kmock.Server(server) as door, FakeStage() as stage, FakeDecoder() as decoder:
        kubernetes = settings_of(rendering, str(door.url).rstrip("/"), mounts)
        publish(server, stage, str(kubernetes.stage_service), "stage-a")
        publish(server, decoder, str(kubernetes.decoder_service), "decoder-a")
        settings = replace(gateway_settings([], []), kubernetes=kubernetes)

        def rights() -> set[Right]:
            return {right_of(request) for request in server}

        def cost() -> Any:
            pod = server.objects[PODS, NAMESPACE, "stage-a"].raw["metadata"]
            return pod.get("annotations", {}).get(ANNOTATION)

        async with running(settings) as (gateway, _), open_channel(gateway.port) as channel:
            await until(lambda: stage.num_watchers and decoder.num_watchers)
            anybody = Tenant(channel, None)
            name = await anybody.name()
            async with anybody.attached(name) as stream:
                await stream.until_segments(2)
                await until(lambda: cost() == "1000" or not kubernetes.deletion_cost)
            await anybody.delete(name)
            await until(lambda: cost() is None)
            stage.set_state(common_pb2.SERVING_STATE_QUARANTINED)
            if kubernetes.events:
                await until(lambda: any(verb == "create" for verb, *_ in rights()))
            await until(lambda: any(verb == "watch" for verb, *_ in rights()))
            if not (kubernetes.deletion_cost and kubernetes.events):
                await asyncio.sleep(SPREAD_S + 0.5)  # for calls that must not come
        return rights()


@pytest.mark.parametrize("events", [True, False])
@pytest.mark.parametrize("deletion_cost", [True, False])
async def test_the_gateway_may_do_what_it_does_and_nothing_else(
    tmp_path: Path, deletion_cost: bool, events: bool
) -> None:
    rendering = switches(deletion_cost, events)
    granted = set(grants(rendering, account_of(rendering, "gateway")))
    assert await used(rendering, tmp_path) == granted


def test_nobody_else_has_any_right_or_a_token() -> None:
    rendering = switches(True, True)
    for component in ("stage", "decoder"):
        account = account_of(rendering, component)
        assert account != account_of(rendering, "gateway")
        assert not list(grants(rendering, account))
        spec = rendering.workload(component).spec
        assert spec["automountServiceAccountToken"] is False
        assert not [each for each in spec.get("volumes", ()) if "serviceAccountToken" in str(each)]


def test_rights_end_at_the_namespace() -> None:
    rendering = switches(True, True)
    assert not rendering.all("ClusterRole", "ClusterRoleBinding")
    for right in grants(rendering, account_of(rendering, "gateway")):
        assert "*" not in right
        assert right[3] == NAMESPACE
