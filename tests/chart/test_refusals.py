"""Values that do not fit together fail at `helm template`, with a sentence that says what to set."""

import re
from typing import Any

import pytest

from tests.chart.rendering import CHART, RELEASE, refusal, render, template
from tests.chart.switches import MODEL, SWITCHES, Values, merge
from tests.chart.test_every_value import EVERYTHING, OTHERWISE, STATED

TLS = SWITCHES["tls"]["secrets"]
MUTUAL = merge(TLS, {"tls": {"gatewayRequiresClientCertificates": True}})
REDIS = {"redis": {"enabled": True}}
KEDA = {"autoscaling": {"keda": {"enabled": True}}}
HPA = {"autoscaling": {"hpa": {"enabled": True}}}
HPA_SCRAPED = {"autoscaling": {"hpa": {"enabled": True, "scrapedElsewhere": True}}}


BLOCK = re.compile(r'define "cascade\.\w+Problems" -\}\}\n([\s\S]*?)(?=\{\{-? ?(?:define|/\*\*?\n)|\Z)')
ACTION = re.compile(r"\s*(\{\{-|\{\{ include|\{\{/\*|$)")
"""A line of a template that says nothing itself."""
FAIL = re.compile(r'\bfail (?:\(printf )?"([^"\\]+)"')


def gateway(**values: Any) -> Values:
    return {"gateway": values}


def auth(*modes: str, **values: Any) -> Values:
    return gateway(auth={"modes": list(modes), **values})


def weights(**values: Any) -> Values:
    return {**MODEL, "weights": values}


BAD: dict[str, tuple[Values, str]] = {
    "both autoscalers": (merge(KEDA, HPA), "set one of them to false"),
    "an autoscaler of nothing": (
        merge(KEDA, {"autoscaling": {"stage": {"enabled": False}, "decoder": {"enabled": False}}}),
        "set autoscaling.stage.enabled or autoscaling.decoder.enabled",
    ),
    "more at least than at most": (
        merge(KEDA, {"autoscaling": {"stage": {"min": 9}}}),
        "autoscaling.stage.min is 9 and autoscaling.stage.max is 8: max must not be less",
    ),
    "HPA from zero": (
        merge(HPA_SCRAPED, {"autoscaling": {"decoder": {"min": 0}}}),
        "autoscaling.decoder.min is 0, and an HPA cannot start the first pod: set it to 1",
    ),
    "HPA without its metric": (HPA, "set monitoring.serviceMonitor.enabled"),
    "KEDA locked out": (
        merge(
            KEDA, {"networkPolicy": {"clients": [{"podSelector": {"matchLabels": {"a": "b"}}}], "keda": []}}
        ),
        "say in networkPolicy.keda where its operator runs",
    ),
    "KEDA without a certificate": (
        merge(MUTUAL, {**KEDA, "tests": {"enabled": False}}),
        "set autoscaling.keda.clientCertificateSecret",
    ),
    "a test without a certificate": (MUTUAL, "set tests.clientCertificateSecret"),
    "no weights": (MODEL, "set weights.source to pvc, hostPath, image or download"),
    "no claim": (weights(source="pvc"), "set weights.pvc.claimName"),
    "no path": (weights(source="hostPath"), "set weights.hostPath.path"),
    "no image": (weights(source="image"), "set weights.image.reference"),
    "nothing to download": (
        {"weights": {"source": "download"}},
        "nothing to download for the model demo: set weights.source to none",
    ),
    "a download by a card": (
        {"model": {"name": "mine", "card": 'name = "mine"'}, "weights": {"source": "download"}},
        "set weights.source to pvc",
    ),
    "another card": (
        {"model": {"name": "mine", "card": 'name = "yours"'}, "weights": {"source": "none"}},
        "set model.name to the card's name",
    ),
    "decoder weights nowhere": ({"decoder": {"weightsPath": "taew2_1.pth"}}, "set weights.source"),
    "preview without file": (
        {"decoder": {"settings": {"decoder": {"kind": "taehv"}}}},
        "set decoder.weightsPath to its file",
    ),
    "several memories": (gateway(replicas=2), "set redis.enabled or externalRedis.existingSecret"),
    "no gateway": (gateway(replicas=0), "gateway.replicas is 0"),
    "no keys": (auth("api_keys"), "set gateway.auth.apiKeys.existingSecret"),
    "no issuer": (auth("jwt"), "set gateway.auth.jwt.issuer"),
    "no key set": (
        auth("jwt", jwt={"issuer": "https://id.example", "audience": "cascade"}),
        "set either gateway.auth.jwt.jwksUrl or gateway.auth.jwt.jwksConfigMap.name",
    ),
    "mTLS without TLS": (auth("mtls"), "set tls.enabled and tls.gatewayRequiresClientCertificates"),
    "no host": (gateway(ingress={"enabled": True}), "set gateway.ingress.host"),
    "no parent": (gateway(grpcRoute={"enabled": True}), "set gateway.grpcRoute.parentRefs"),
    "no host of the page": (
        gateway(http={"ingress": {"enabled": True}}),
        "set gateway.http.ingress.host to the name",
    ),
    "no parent of the page": (
        gateway(http={"httpRoute": {"enabled": True}}),
        "set gateway.http.httpRoute.parentRefs",
    ),
    "a way to no page": (
        gateway(http={"enabled": False, "ingress": {"enabled": True, "host": "page.example"}}),
        "gateway.http.ingress.enabled is true, and gateway.http.enabled is false",
    ),
    "a route to no page": (
        gateway(http={"enabled": False, "httpRoute": {"enabled": True, "parentRefs": [{"name": "edge"}]}}),
        "gateway.http.httpRoute.enabled is true, and gateway.http.enabled is false",
    ),
    "settings of no page": (
        gateway(http={"enabled": False}, settings={"http": {"metrics": True}}),
        "gateway.settings.http is set, and gateway.http.enabled is false",
    ),
    "one port for two": (gateway(http={"port": 50051}), "set another gateway.http.port"),
    "WebRTC beside no page": (
        gateway(http={"enabled": False, "webrtc": {"enabled": True}}),
        "gateway.http.webrtc.enabled is true, and gateway.http.enabled is false",
    ),
    "WebRTC without ports": (
        gateway(http={"webrtc": {"enabled": True, "lastPort": 50000}}),
        "set it to at least 50100",
    ),
    "WebRTC at too many ports": (
        gateway(http={"webrtc": {"enabled": True, "firstPort": 2000, "lastPort": 60000}}),
        "set lastPort so that there are at most 10000",
    ),
    "WebRTC at too many ports of nodes": (
        gateway(http={"webrtc": {"enabled": True, "lastPort": 51000, "hostPorts": True}}),
        "at most 256, not 901",
    ),
    "WebRTC at nodes with IPv6": (
        {"network": {"ipFamily": "IPv6"}} | gateway(http={"webrtc": {"enabled": True, "hostPorts": True}}),
        "set gateway.http.webrtc.publicAddress",
    ),
    "two lists of ICE servers": (
        gateway(
            http={"webrtc": {"enabled": True, "iceServers": {"existingSecret": "turn"}}},
            settings={"http": {"webrtc_ice_servers": ["stun:stun.example:3478"]}},
        ),
        "are both set: set one of them",
    ),
    "no room for a session": (
        gateway(resources={"limits": {"memory": "64Mi"}}),
        "gateway.resources.limits.memory leaves",
    ),
    "a password for no Redis": (
        {"externalRedis": {"passwordKey": "password"}},
        "set externalRedis.existingSecret",
    ),
    "a certificate for Redis from nowhere": (
        {"externalRedis": {"existingSecret": "mine", "tls": {"clientCertificate": True}}},
        "set externalRedis.tls.existingSecret",
    ),
    "two Redis": (merge(REDIS, {"externalRedis": {"existingSecret": "mine"}}), "set one of them"),
    "tokens signed apart": (
        merge(REDIS, gateway(tokenKey={"generate": False})),
        "set gateway.tokenKey.existingSecret",
    ),
    "no certificate": ({"tls": {"enabled": True}}, "stage has no certificate: set tls.issuerRef.name"),
    "client certificates without TLS": (
        {"tls": {"gatewayRequiresClientCertificates": True}},
        "set tls.enabled to true",
    ),
    "a short grace": (
        {"stage": {"terminationGracePeriodSeconds": 30}},
        "stage.terminationGracePeriodSeconds is 30, less than the 320 s of stage.drain",
    ),
    "no stage": ({"stage": {"replicas": 0}}, "stage.replicas is 0, and no autoscaler"),
    "a short start": ({"stage": {"startSeconds": 60}}, "stage.startSeconds is 60"),
    "a short rollout": (
        {"decoder": {"progressDeadlineSeconds": 60}},
        "decoder.progressDeadlineSeconds is 60",
    ),
    "settings as variables": (
        {"stage": {"extraEnv": [{"name": "CASCADE_STAGE_STAGGER", "value": "1"}]}},
        "stage.extraEnv has CASCADE_STAGE_STAGGER, which the chart sets: set it by the value",
    ),
    "a hub as variable": (
        weights(source="download", download={"extraEnv": [{"name": "HF_ENDPOINT", "value": "https://hub"}]}),
        "weights.download.extraEnv has HF_ENDPOINT, which the chart sets",
    ),
    "a label of the chart": (
        {"stage": {"podLabels": {"app.kubernetes.io/component": "mine"}}},
        "stage.podLabels has app.kubernetes.io/component, which the chart sets: leave it out",
    ),
    "a label of several words": (
        {"commonLabels": {"team": "video people"}},
        "commonLabels has team: video people, which Kubernetes would refuse: take at most 63 letters",
    ),
    "a label that is long": (
        {"tests": {"podLabels": {"example.com/team": "x" * 64}}},
        "tests.podLabels has example.com/team: xxx",
    ),
    "a label's name of several words": (
        merge(REDIS, {"redis": {"labels": {"my team": "video"}}}),
        "redis.labels has my team: video, which Kubernetes would refuse",
    ),
    "a variable twice": (
        {"tests": {"extraEnv": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}},
        "tests.extraEnv has A twice: keep one",
    ),
    "a volume of the chart": (
        {"decoder": {"extraVolumes": [{"name": "tmp", "emptyDir": {}}]}},
        "decoder.extraVolumes has tmp, which is there already: give it another name",
    ),
    "a limit of nothing": (
        {"cpuLimitFactor": 2, "gateway": {"resources": {"requests": {"cpu": None}}}},
        "set gateway.resources.requests.cpu or .limits.cpu, or cpuLimitFactor to null",
    ),
    "Redis without a limit": (
        merge(REDIS, {"cpuLimitFactor": 2}),
        "the chart's Redis has no CPU limit: set redis.cpuLimitFactor, too",
    ),
    "no device plugin": (
        {"stage": {"gpu": {"count": 5, "resourceName": ""}}},
        "stage.gpu.count is 5, and stage.gpu.allocation is devicePlugin: set stage.gpu.resourceName",
    ),
    "no device class": (
        {"stage": {"gpu": {"allocation": "dra", "dra": {"deviceClassName": ""}}}},
        "set stage.gpu.dra.deviceClassName",
    ),
    "products with DRA": (
        {"stage": {"gpu": {"allocation": "dra", "products": ["NVIDIA-H100-80GB-HBM3"]}}},
        "say the same in stage.gpu.dra.selectors",
    ),
    "selectors without DRA": (
        {"stage": {"gpu": {"dra": {"selectors": ["true"]}}}},
        "stage.gpu.dra.selectors needs stage.gpu.allocation dra",
    ),
    "more GPUs than a node": (
        {"stage": {"gpu": {"perNode": 4}}},
        "stage.gpu.count is 5, and a node has 4 (stage.gpu.perNode): all GPUs of a pod are in one node",
    ),
    "a capital in names": ({"fullnameOverride": "Video"}, "fullnameOverride is Video, and Kubernetes would"),
    "products of no GPU": (
        {"decoder": {"gpu": {"count": 0, "products": ["NVIDIA-L4"]}}},
        "decoder.gpu.count is 0: set the count",
    ),
    "GPUs twice": (
        {"stage": {"resources": {"limits": {"nvidia.com/gpu": 5}}}},
        "set stage.gpu.count instead",
    ),
    "ranks without GPUs": ({"stage": {"ranks": 3}}, "set them alike, or stage.ranks to null"),
    "more shared memory than memory": (
        {"stage": {"sharedMemory": "200Gi"}},
        "counts against stage.resources.limits.memory, 96Gi: raise the limit",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_values(name: str) -> None:
    values, sentence = BAD[name]
    text = refusal(set=values)
    assert sentence in text
    assert "nil pointer" not in text


def test_dra_on_an_old_cluster() -> None:
    text = refusal(set={"stage": {"gpu": {"allocation": "dra"}}}, kube_version="1.33.0")
    assert "which Kubernetes has since 1.34, and this is v1.33.0: set it to devicePlugin" in text


def test_an_old_cluster() -> None:
    assert "chart requires kubeVersion" in refusal(kube_version="1.30.0")


def test_all_problems_are_told_at_once() -> None:
    text = refusal(set=merge(gateway(replicas=3), {"stage": {"ranks": 3}, "tls": {"enabled": True}}))
    assert text.count("\n  - ") >= 5


def test_each_sentence_of_the_templates_is_seen_here() -> None:
    """A check without a case above, or one that can never fail, is found."""
    text = "\n".join([*(refusal(set=values) for values, _ in BAD.values()), old_dra(), digits()])
    sentences = list(sentences_of_templates())
    assert len(sentences) > 40
    assert not [each for each in sentences if not re.search(pattern_of(each), text)]


def old_dra() -> str:
    values = '{"stage": {"gpu": {"allocation": "dra"}}}'
    return template((), values, "1.33.0", RELEASE, False).stderr


def digits() -> str:
    return template((), '{"redis": {"enabled": true}}', None, "4k", False).stderr


def sentences_of_templates() -> list[str]:
    """The lines of all `cascade.*Problems`, and the texts of `fail`."""
    texts = [path.read_text() for path in CHART.rglob("*") if path.suffix in (".tpl", ".yaml", ".txt")]
    blocks = [block for text in texts for block in re.findall(BLOCK, text)]
    lines = [line for block in blocks for line in block.splitlines() if not re.match(ACTION, line)]
    quoted = (re.search(r'\{\{ printf "(.*?)"', line) for line in lines)
    sentences = [found[1] if found else line for found, line in zip(quoted, lines, strict=True)]
    return [*sentences, *(each for text in texts for each in re.findall(FAIL, text))]


def pattern_of(sentence: str) -> str:
    """What stands in for a value matches anything."""
    parts = re.split(r"\{\{.*?\}\}|%[sv]", sentence.strip())
    return r"[\s\S]{0,200}?".join(map(re.escape, parts))


@pytest.mark.parametrize("name", ["HOME", "NCCL_DEBUG"])
def test_a_variable_that_would_stand_twice_is_refused(name: str) -> None:
    """helm 4 applies at the server, which takes no list of variables with a name twice."""
    text = refusal(set={"stage": {"extraEnv": [{"name": name, "value": "x"}]}})
    assert f"stage.extraEnv has {name}, which the chart sets" in text


def test_a_volume_that_would_be_there_twice_is_refused() -> None:
    """Whatever it is that the chart makes one for."""
    bases = (EVERYTHING, merge(OTHERWISE, SWITCHES["redis"]["externaltls"]), STATED)
    pods = [pod for base in bases for pod in render(set=base).workloads()]
    names = {volume["name"] for pod in pods for volume in pod.spec.get("volumes", ())}
    assert {"redis-tls", "redis-password", "jwks", "key", "shm"} <= names
    volumes = [{"name": name, "emptyDir": {}} for name in sorted(names)]
    text = refusal(set=gateway(extraVolumes=volumes))
    assert not [name for name in names if f"extraVolumes has {name}, which is there already" not in text]


def test_only_services_have_settings() -> None:
    variables = {"extraEnv": [{"name": "CASCADE_A", "value": "1"}]}
    text = refusal(set={"stage": variables, "tests": variables})
    assert "stands for it (of a setting: stage.settings)" in text
    assert "tests.settings" not in text
