"""KEDA or HPA: what is rendered asks the gateways for what they say, and wrong switches are told.

The kinds of KEDA have no schema here: their fields are checked as KEDA's reference documents them.
"""

from pathlib import Path
from typing import Any

import pytest

from services.gateway.base.settings import ScalerSettings
from tests.chart.pods import settings_of
from tests.chart.rendering import NAMESPACE, Rendering, refusal, render
from tests.chart.switches import merge

KEDA = {"autoscaling": {"keda": {"enabled": True}}}
HPA = {"autoscaling": {"hpa": {"enabled": True}}, "monitoring": {"serviceMonitor": {"enabled": True}}}
MANAGED = {"tls": {"enabled": True, "issuerRef": {"name": "ca"}}}
OWN = {
    "tls": {
        "enabled": True,
        "existingSecrets": {"stage": "s", "decoder": "d", "gateway": "gateway-secret"},
        "gatewayRequiresClientCertificates": True,
    },
    "tests": {"clientCertificateSecret": "mine"},
}
COMPONENTS = ("stage", "decoder")


def scaled_object(rendering: Rendering, component: str) -> dict[str, Any]:
    return rendering.one("ScaledObject", f"demo-{component}")["spec"]


@pytest.mark.parametrize("component", COMPONENTS)
def test_keda_asks_the_gateways_service(component: str) -> None:
    rendering = render(set=KEDA)
    spec = scaled_object(rendering, component)
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "external"
    assert all(isinstance(value, str) for value in trigger["metadata"].values()), "KEDA takes strings alone"
    name, _, port = trigger["metadata"]["scalerAddress"].rpartition(":")
    service = rendering.one("Service", name.removesuffix(f".{NAMESPACE}.svc"))
    (grpc,) = (each for each in service["spec"]["ports"] if each["name"] == "grpc")
    assert grpc["port"] == int(port)
    assert trigger["metadata"]["component"] == component
    target = spec["scaleTargetRef"]
    assert rendering.one(target["kind"], target["name"])["apiVersion"] == target["apiVersion"]
    assert spec["fallback"] == {"failureThreshold": 3, "replicas": 1, "behavior": "currentReplicasIfHigher"}
    assert spec["advanced"]["restoreToOriginalReplicaCount"] is False, "uninstalling KEDA kills no session"


@pytest.mark.parametrize(("values", "client"), [(MANAGED, None), (OWN, "mine")])
def test_keda_trusts_the_gateways_certificate(values: dict[str, Any], client: str | None) -> None:
    keda = {"autoscaling": {"keda": {"enabled": True, "clientCertificateSecret": client or ""}}}
    rendering = render(set=merge(values, keda))
    (trigger,) = scaled_object(rendering, "stage")["triggers"]
    assert trigger["metadata"]["enableTLS"] == "true"
    authentication = rendering.one("TriggerAuthentication", trigger["authenticationRef"]["name"])
    told = {
        each["parameter"]: (each["name"], each["key"]) for each in authentication["spec"]["secretTargetRef"]
    }
    secret = next(each for each in rendering.workload("gateway").spec["volumes"] if each["name"] == "tls")[
        "secret"
    ]
    assert told.pop("caCert") == (secret["secretName"], "ca.crt")
    assert told == (
        {"tlsClientCert": (client, "tls.crt"), "tlsClientKey": (client, "tls.key")} if client else {}
    )
    host = trigger["metadata"]["scalerAddress"].rpartition(":")[0]
    for certificate in rendering.all("Certificate"):
        if certificate["spec"]["secretName"] == secret["secretName"]:
            assert host in certificate["spec"]["dnsNames"]


def test_clients_get_a_certificate_of_their_own() -> None:
    values = merge(MANAGED, {"tls": {"gatewayRequiresClientCertificates": True}})
    rendering = render(set=merge(values, KEDA))
    certificate = rendering.one("Certificate", "demo-client")["spec"]
    assert "client auth" in certificate["usages"]
    assert "server auth" not in certificate["usages"], "it must not pass for a stage"
    authentication = rendering.one("TriggerAuthentication", "demo-keda")["spec"]["secretTargetRef"]
    assert {each["name"] for each in authentication} == {"demo-gateway-tls", certificate["secretName"]}


@pytest.mark.parametrize("component", COMPONENTS)
def test_an_hpa_reads_what_the_gateways_export(component: str) -> None:
    rendering = render(set=HPA)
    spec = rendering.one("HorizontalPodAutoscaler", f"demo-{component}")["spec"]
    (metric,) = spec["metrics"]
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "1"}, "a number of pods"
    wanted = metric["external"]["metric"]["selector"]["matchLabels"]
    monitor = rendering.one("ServiceMonitor", "demo-gateway")["spec"]["endpoints"][0]["relabelings"][0]
    assert wanted == {"component": component, monitor["targetLabel"]: monitor["replacement"]}


@pytest.mark.parametrize(
    ("values", "version", "tolerance"),
    [
        (HPA, "1.34.0", None),
        (HPA, "1.35.0", 0),
        (KEDA, "1.36.0", None),
        (merge(KEDA, {"autoscaling": {"tolerance": 0}}), "1.36.0", 0),
        (merge(HPA, {"autoscaling": {"tolerance": 0.05}}), "1.34.0", 0.05),
    ],
)
def test_hpa_and_gateways_agree_on_the_tolerance(
    values: dict[str, Any], version: str, tolerance: float | None, tmp_path: Path
) -> None:
    rendering = render(set=values, kube_version=version)
    settings = settings_of(rendering, rendering.workload("gateway"), tmp_path)
    assert settings.scaler.hpa_tolerance == (
        ScalerSettings().hpa_tolerance if tolerance is None else tolerance
    )
    for behavior in behaviors(rendering):
        for direction in ("scaleUp", "scaleDown"):
            assert behavior[direction].get("tolerance") == tolerance


@pytest.mark.parametrize(
    ("values", "given", "seconds"), [(KEDA, None, 0), (HPA, None, 60), (KEDA, 30, 30), (HPA, 0, 0)]
)
def test_hysteresis_is_the_gateways(values: dict[str, Any], given: int | None, seconds: int) -> None:
    """Theirs and the HPA's add up; a number that Prometheus scraped may be older than a session."""
    own = {"scaleDown": {"stabilizationSeconds": given}}
    found = behaviors(render(set=merge(values, {"autoscaling": dict.fromkeys(COMPONENTS, own)})))
    assert found
    for behavior in found:
        assert behavior["scaleDown"]["stabilizationWindowSeconds"] == seconds
        assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0


def behaviors(rendering: Rendering) -> list[dict[str, Any]]:
    hpas = [each["spec"]["behavior"] for each in rendering.all("HorizontalPodAutoscaler")]
    advanced = [each["spec"]["advanced"] for each in rendering.all("ScaledObject")]
    found = hpas + [each["horizontalPodAutoscalerConfig"]["behavior"] for each in advanced]
    assert len(found) == len(COMPONENTS)
    return found


@pytest.mark.parametrize("values", [KEDA, HPA])
def test_replicas_are_counted_by_one_alone(values: dict[str, Any]) -> None:
    off = merge(values, {"autoscaling": {"decoder": {"enabled": False}}, "decoder": {"replicas": 3}})
    rendering = render(set=off)
    assert "replicas" not in rendering.workload("stage").document["spec"]
    assert rendering.workload("decoder").document["spec"]["replicas"] == 3
    assert rendering.workload("gateway").document["spec"]["replicas"] == 1
    scaled = {each["metadata"]["name"] for each in rendering.all("ScaledObject", "HorizontalPodAutoscaler")}
    assert scaled == {"demo-stage"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (merge(KEDA, HPA), "autoscaling.keda.enabled and autoscaling.hpa.enabled are both true"),
        (merge(KEDA, {"autoscaling": {"stage": {"min": 3, "max": 2}}}), "autoscaling.stage.min is 3"),
        (merge(HPA, {"autoscaling": {"decoder": {"min": 0}}}), "autoscaling.decoder.min is 0"),
        ({"autoscaling": {"hpa": {"enabled": True}}}, "monitoring.serviceMonitor.enabled"),
        (
            merge(KEDA, {"autoscaling": {"stage": {"enabled": False}, "decoder": {"enabled": False}}}),
            "autoscaling.stage.enabled",
        ),
        (
            merge(KEDA, {"networkPolicy": {"clients": [{"podSelector": {}}], "keda": []}}),
            "networkPolicy.keda",
        ),
        (merge(OWN, KEDA), "autoscaling.keda.clientCertificateSecret"),
        (merge(OWN, {"tests": {"clientCertificateSecret": ""}}), "tests.clientCertificateSecret"),
    ],
)
def test_mistakes_are_told(values: dict[str, Any], told: str) -> None:
    assert told in refusal(set=values)
