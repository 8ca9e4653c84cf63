"""Alerts and dashboard ask for what exists: series, labels and label values of real registries."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from cascade.v1 import common_pb2, decoder_pb2, session_pb2, stage_pb2
from externalscaler import externalscaler_pb2
from tests.chart.exported import exported, words
from tests.chart.monitoring import ON, rules
from tests.chart.promql import grouped_labels, matched_labels, parse, selectors
from tests.chart.rendering import CHART, NAMESPACE, RELEASE, ROOT, render

TARGET_LABELS = {"namespace", "pod", "container", "job", "service", "instance", "endpoint", "cascade_release"}
"""What the Prometheus Operator and our relabelling add to each series."""
ADDED = {"up"}
"""Series that Prometheus makes itself."""
MODULES = (session_pb2, stage_pb2, decoder_pb2, externalscaler_pb2)
SERVICES = {s.full_name: s for module in MODULES for s in module.DESCRIPTOR.services_by_name.values()}
CAUSES = words(session_pb2.RecoveryCause.keys(), "RECOVERY_CAUSE_")
VALUES = {
    ("cascade_sessions", "state"): words(session_pb2.SessionState.keys(), "SESSION_STATE_"),
    ("cascade_sessions_ended_total", "reason"): words(session_pb2.EndReason.keys(), "END_REASON_"),
    ("cascade_recovery_gap_seconds_bucket", "cause"): CAUSES,
    ("cascade_recovery_gap_seconds_count", "cause"): CAUSES,
    ("cascade_stage_state", "state"): words(common_pb2.ServingState.keys(), "SERVING_STATE_"),
    ("cascade_decoder_state", "state"): words(common_pb2.ServingState.keys(), "SERVING_STATE_"),
    ("cascade_peers", "state"): {"gone", *words(common_pb2.ServingState.keys(), "SERVING_STATE_")},
    ("cascade_peers", "kind"): {"stage", "decoder"},
    ("cascade_desired_pods", "component"): {"stage", "decoder"},
}
"""What a label may be, for those that are matched by a value."""


def dashboard() -> dict[str, Any]:
    (config,) = (each for each in render(set=ON).all("ConfigMap") if "cascade.json" in each["data"])
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    return json.loads(config["data"]["cascade.json"])


def expressions() -> Iterator[tuple[str, str]]:
    """(where it stands, PromQL)."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")


ALL = [pytest.param(text, id=f"{place}: {text[:40]}") for place, text in expressions()]


@pytest.mark.parametrize("text", ALL)
def test_asks_for_series_and_labels_that_exist(text: str) -> None:
    tree = parse(text)
    known: set[str] = set()
    for selector in selectors(tree):
        labels = set(TARGET_LABELS)
        if selector.name not in ADDED:
            assert selector.name in exported(), f"no service exports {selector.name}"
            series = exported()[selector.name]
            labels |= series.labels | (
                {"le"} if series.bounds or selector.name.endswith("_bucket") else set()
            )
        matched = matched_labels(selector)
        assert matched.keys() <= labels, f"{selector.name} has no {matched.keys() - labels}"
        check_values(selector.name, matched)
        known |= labels
    assert set(grouped_labels(tree)) <= known


def check_values(name: str, matched: dict[str, str]) -> None:
    """What is matched by `=` can be."""
    for label, value in matched.items():
        if not value or label in ("namespace", "cascade_release", "grpc_code"):
            continue
        if label == "le":
            assert value in exported()[name].bounds
        elif label == "container":
            assert value in {each.main["name"] for each in render(set=ON).deployments()}
        elif label == "grpc_service":
            assert value in SERVICES
        elif label == "grpc_method":
            assert value in SERVICES[matched["grpc_service"]].methods_by_name
        else:
            assert value in VALUES[name, label]


@pytest.mark.parametrize("text", ALL)
def test_keeps_to_its_own_installation(text: str) -> None:
    """Several may share a cluster and its Prometheus."""
    own = [{"namespace": NAMESPACE, "cascade_release": RELEASE}]
    own.append({"namespace": "$namespace", "cascade_release": "$release"})
    for selector in selectors(parse(text)):
        matched = matched_labels(selector)
        assert {key: matched.get(key) for key in ("namespace", "cascade_release")} in own


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_and_where_to_read_on(rule: dict[str, Any]) -> None:
    notes = rule["annotations"]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert notes["summary"][0].isupper()
    section = rule["alert"].lower()
    assert notes["runbook"] == f"docs/kubernetes.md#{section}"
    assert notes["runbook_url"] == f"https://example.com/kubernetes#{section}"
    tree = parse(rule["expr"])
    given = set(grouped_labels(tree)) or TARGET_LABELS
    assert set(re.findall(r"\$labels\.(\w+)", notes["description"])) <= given


def test_each_alert_has_its_runbook_and_no_runbook_is_left_over() -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    assert sorted(set(re.findall(r"^#+ (Cascade\w+)$", page, re.MULTILINE))) == sorted(
        {rule["alert"] for rule in rules()}
    )


def test_panels_are_complete_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            assert panel["targets"], panel["title"]


def test_the_dashboard_file_is_what_is_installed() -> None:
    assert json.loads((CHART / "dashboards" / "cascade.json").read_text()) == dashboard()


def test_service_monitors_scrape_what_the_services_serve() -> None:
    rendering = render(set=ON)
    monitors = rendering.all("ServiceMonitor")
    assert len(monitors) == 3
    for monitor in monitors:
        wanted = monitor["spec"]["selector"]["matchLabels"]
        (endpoint,) = monitor["spec"]["endpoints"]
        ports = [
            port
            for service in rendering.all("Service")
            if wanted.items() <= service["metadata"]["labels"].items()
            for port in service["spec"]["ports"]
            if port["name"] == endpoint["port"]
        ]
        assert len(ports) == 1, "scraped once"
        (relabelling,) = endpoint["relabelings"]
        assert (relabelling["targetLabel"], relabelling["replacement"]) == ("cascade_release", RELEASE)
