"""The processes of every installation would start: the services' own settings take their environment."""

import copy
from pathlib import Path
from typing import Any

import pytest

from cascade_core.errors import InvalidConfig
from services.common.server import STOP_MARGIN_S
from tests.chart.cases import CASES, Case
from tests.chart.pods import environment, settings_of
from tests.chart.rendering import Rendering, Workload, render

COMPONENTS = ("stage", "decoder", "gateway")
EVERYWHERE = {"0.0.0.0", "::"}

each_component = pytest.mark.parametrize("component", COMPONENTS)
each_case = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.fixture
def started(case: Case, component: str, tmp_path: Path) -> tuple[Rendering, Workload, Any]:
    """(rendering, Deployment, settings of its process)."""
    rendering = case.render()
    workload = rendering.workload(component)
    return rendering, workload, settings_of(rendering, workload, tmp_path)


@each_component
@each_case
def test_ports_are_those_of_the_settings(started: tuple[Rendering, Workload, Any]) -> None:
    rendering, workload, settings = started
    ports = {each["name"]: each["containerPort"] for each in workload.main["ports"]}
    assert ports["grpc"] == settings.grpc.port
    assert ports["metrics"] == settings.telemetry.metrics_port
    assert {settings.grpc.host, settings.telemetry.metrics_host} <= EVERYWHERE
    for service in rendering.of(workload.component, "Service"):
        targets = {each["targetPort"] for each in service["spec"]["ports"]}
        assert targets <= set(ports) | set(ports.values())


@each_component
@each_case
def test_the_pod_outlives_the_drain(started: tuple[Rendering, Workload, Any]) -> None:
    """Kubernetes kills only after preStop, notice, deadline, grace, and what stopping takes."""
    _, workload, settings = started
    hook = (workload.main.get("lifecycle") or {}).get("preStop") or {}
    before_s = hook.get("sleep", {}).get("seconds", 0)
    assert not set(hook) - {"sleep"}
    drain = settings.drain
    way_out_s = before_s + drain.notice_s + drain.deadline_s + drain.grace_s + STOP_MARGIN_S
    assert workload.spec["terminationGracePeriodSeconds"] > way_out_s


@each_component
@each_case
def test_probes_have_the_patience_of_the_settings(started: tuple[Rendering, Workload, Any]) -> None:
    _, workload, settings = started
    startup, readiness = workload.main["startupProbe"], workload.main["readinessProbe"]
    assert patience_s(startup) > getattr(getattr(settings, workload.component), "start_deadline_s", 0)
    assert patience_s(readiness) <= 30, "a pod that cannot serve is to be known as such soon"
    for probe in probes(workload):
        assert probe["timeoutSeconds"] <= probe["periodSeconds"]
    rollout_s = workload.document["spec"]["progressDeadlineSeconds"]
    assert rollout_s > patience_s(startup)


@each_component
@each_case
def test_probes_ask_the_server_that_listens(started: tuple[Rendering, Workload, Any]) -> None:
    """The kubelet's own gRPC probe speaks plain text only."""
    _, workload, settings = started
    for probe in probes(workload):
        if settings.tls.certificate is None:
            assert probe["grpc"]["port"] == settings.grpc.port
        else:
            assert "grpc" not in probe
            assert probe["exec"]["command"]


@each_case
def test_a_gateway_finds_its_peers(case: Case, tmp_path: Path) -> None:
    """The Services that it watches exist, select the right pods, and have the ports that those listen on."""
    rendering = case.render()
    settings = settings_of(rendering, rendering.workload("gateway"), tmp_path)
    for component, name in (
        ("stage", settings.kubernetes.stage_service),
        ("decoder", settings.kubernetes.decoder_service),
    ):
        spec = rendering.one("Service", name)["spec"]
        assert spec["clusterIP"] == "None"
        assert spec["publishNotReadyAddresses"] is True, "quarantined pods tell why by WatchStatus"
        workload = rendering.workload(component)
        assert spec["selector"].items() <= workload.labels.items()


@each_case
def test_gateways_and_peers_agree_on_tls(case: Case, tmp_path: Path) -> None:
    rendering = case.render()
    of = {each: settings_of(rendering, rendering.workload(each), tmp_path) for each in COMPONENTS}
    peer = of["gateway"].peer
    is_secured = {of[each].tls.certificate is not None for each in COMPONENTS}
    assert is_secured == {peer.tls}
    if peer.tls:
        assert peer.ca, "peers' certificates are signed by the installation's own authority"
    for each in ("stage", "decoder"):
        if of[each].tls.ca is not None:
            assert peer.certificate, f"{each} asks for a client certificate"
        if "api_keys" in of[each].auth.modes:
            assert peer.api_key_file


@each_case
def test_gateways_share_what_they_must(case: Case, tmp_path: Path) -> None:
    rendering = case.render()
    gateway = rendering.workload("gateway")
    settings = settings_of(rendering, gateway, tmp_path)
    count = gateway.document["spec"].get("replicas", 2)
    assert settings.gateway.token_key_file
    assert count == 1 or settings.gateway.redis_url
    assert "demo-pod" not in settings.gateway.advertise
    assert settings.gateway.advertise.endswith(f":{settings.grpc.port}")
    host = settings.gateway.advertise.rsplit(":", 1)[0].strip("[]")
    assert host == "10.1.2.3", "the pod's own address"


@each_case
def test_stages_have_a_gpu_for_each_rank(case: Case, tmp_path: Path) -> None:
    rendering = case.render()
    stage = rendering.workload("stage")
    settings = settings_of(rendering, stage, tmp_path)
    asked = (stage.main["resources"].get("limits") or {}).get("nvidia.com/gpu", 0)
    templates = rendering.of("stage", "ResourceClaimTemplate")
    asked += sum(
        each["exactly"]["count"]
        for template in templates
        for each in template["spec"]["spec"]["devices"]["requests"]
    )
    assert settings.stage.num_ranks == max(asked, 1)
    assert settings.stage.device == ("cuda" if asked else "cpu")


def test_misspelt_variables_are_found(tmp_path: Path) -> None:
    """The oracle of this module does see a mistake."""
    rendering = copy.deepcopy(render())
    rendering.workload("stage").main["env"].append({"name": "CASCADE_STAGE_MODLE", "value": "demo"})
    with pytest.raises(InvalidConfig, match="CASCADE_STAGE_MODLE"):
        settings_of(rendering, rendering.workload("stage"), tmp_path)


@each_component
@each_case
def test_homes_can_be_written(case: Case, component: str) -> None:
    """HOME and the caches of libraries lie in a volume, since the root file system is read-only."""
    rendering = case.render()
    main = rendering.workload(component).main
    writable = {each["mountPath"] for each in main["volumeMounts"] if not each.get("readOnly")}
    assert "/tmp" in writable
    home = environment(rendering, main)["HOME"]
    assert any(home == each or home.startswith(f"{each}/") for each in writable)


def probes(workload: Workload) -> list[dict[str, Any]]:
    main = workload.main
    return [main[name] for name in ("startupProbe", "readinessProbe", "livenessProbe") if name in main]


def patience_s(probe: dict[str, Any]) -> float:
    return probe.get("initialDelaySeconds", 0) + probe["periodSeconds"] * probe["failureThreshold"]
