"""The processes of every installation would start: the services' own settings take their environment."""

from typing import Any

from services.common.server import STOP_MARGIN_S
from tests.chart.installation import COMPONENTS, Installation, everywhere
from tests.chart.pods import environment
from tests.chart.rendering import Workload

EVERYWHERE = {"0.0.0.0", "::"}


@everywhere
def ports_are_those_of_the_settings(its: Installation, component: str) -> None:
    workload, settings = its.workload(component), its.settings[component]
    ports = {each["name"]: each["containerPort"] for each in workload.main["ports"]}
    assert ports["grpc"] == settings.grpc.port
    assert ports["metrics"] == settings.telemetry.metrics_port
    assert {settings.grpc.host, settings.telemetry.metrics_host} <= EVERYWHERE
    for service in its.rendering.of(workload.component, "Service"):
        targets = {each["targetPort"] for each in service["spec"]["ports"]}
        assert targets <= set(ports) | set(ports.values())


@everywhere
def the_pod_outlives_the_drain(its: Installation, component: str) -> None:
    """Kubernetes kills only after preStop, notice, deadline, grace, and what stopping takes."""
    workload, settings = its.workload(component), its.settings[component]
    hook = (workload.main.get("lifecycle") or {}).get("preStop") or {}
    before_s = hook.get("sleep", {}).get("seconds", 0)
    assert not set(hook) - {"sleep"}
    drain = settings.drain
    way_out_s = before_s + drain.notice_s + drain.deadline_s + drain.grace_s + STOP_MARGIN_S
    assert workload.spec["terminationGracePeriodSeconds"] > way_out_s


@everywhere
def probes_have_the_patience_of_the_settings(its: Installation, component: str) -> None:
    workload, settings = its.workload(component), its.settings[component]
    startup, readiness = workload.main["startupProbe"], workload.main["readinessProbe"]
    assert patience_s(startup) > getattr(getattr(settings, workload.component), "start_deadline_s", 0)
    assert patience_s(readiness) <= 30, "a pod that cannot serve is to be known as such soon"
    for probe in probes(workload):
        assert probe["timeoutSeconds"] <= probe["periodSeconds"]
    rollout_s = workload.document["spec"]["progressDeadlineSeconds"]
    assert rollout_s > patience_s(startup)


@everywhere
def probes_ask_the_server_that_listens(its: Installation, component: str) -> None:
    """The kubelet's own gRPC probe speaks plain text only."""
    workload, settings = its.workload(component), its.settings[component]
    for probe in probes(workload):
        if settings.tls.certificate is None:
            assert probe["grpc"]["port"] == settings.grpc.port
        else:
            assert "grpc" not in probe
            assert probe["exec"]["command"]


@everywhere
def a_gateway_finds_its_peers(its: Installation) -> None:
    """The Services that it watches exist, select the right pods, and have the ports that those listen on."""
    rendering, settings = its.rendering, its.settings["gateway"]
    for component, name in (
        ("stage", settings.kubernetes.stage_service),
        ("decoder", settings.kubernetes.decoder_service),
    ):
        spec = rendering.one("Service", name)["spec"]
        assert spec["clusterIP"] == "None"
        assert spec["publishNotReadyAddresses"] is True, "quarantined pods tell why by WatchStatus"
        workload = rendering.workload(component)
        assert spec["selector"].items() <= workload.labels.items()


@everywhere
def gateways_and_peers_agree_on_tls(its: Installation) -> None:
    of = its.settings
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


@everywhere
def gateways_share_what_they_must(its: Installation) -> None:
    gateway, settings = its.workload("gateway"), its.settings["gateway"]
    count = gateway.document["spec"].get("replicas", 2)
    assert settings.gateway.token_key_file
    assert count == 1 or settings.gateway.redis_url
    assert "demo-pod" not in settings.gateway.advertise
    assert settings.gateway.advertise.endswith(f":{settings.grpc.port}")
    host = settings.gateway.advertise.rsplit(":", 1)[0].strip("[]")
    assert host == "10.1.2.3", "the pod's own address"


@everywhere
def stages_have_a_gpu_for_each_rank(its: Installation) -> None:
    stage, settings = its.workload("stage"), its.settings["stage"]
    asked = (stage.main["resources"].get("limits") or {}).get("nvidia.com/gpu", 0)
    templates = its.rendering.of("stage", "ResourceClaimTemplate")
    asked += sum(
        each["exactly"]["count"]
        for template in templates
        for each in template["spec"]["spec"]["devices"]["requests"]
    )
    assert settings.stage.num_ranks == max(asked, 1)
    assert settings.stage.device == ("cuda" if asked else "cpu")


@everywhere
def homes_can_be_written(its: Installation, component: str) -> None:
    """HOME and the caches of libraries lie in a volume, since the root file system is read-only."""
    main = its.workload(component).main
    writable = {each["mountPath"] for each in main["volumeMounts"] if not each.get("readOnly")}
    assert "/tmp" in writable
    home = environment(its.rendering, main)["HOME"]
    assert any(home == each or home.startswith(f"{each}/") for each in writable)


def probes(workload: Workload) -> list[dict[str, Any]]:
    main = workload.main
    return [main[name] for name in ("startupProbe", "readinessProbe", "livenessProbe") if name in main]


def patience_s(probe: dict[str, Any]) -> float:
    return probe.get("initialDelaySeconds", 0) + probe["periodSeconds"] * probe["failureThreshold"]
