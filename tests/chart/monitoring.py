"""The chart's monitoring, all switched on."""

from typing import Any

from tests.chart.rendering import render

ON = {
    "autoscaling": {"keda": {"enabled": True}},
    "monitoring": {
        "rules": {"enabled": True, "runbookUrl": "https://example.com/kubernetes"},
        "serviceMonitor": {"enabled": True},
        "dashboard": {"enabled": True},
    },
}


def rules() -> list[dict[str, Any]]:
    (rule,) = render(set=ON).all("PrometheusRule")
    return [each for group in rule["spec"]["groups"] for each in group["rules"]]
