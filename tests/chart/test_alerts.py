"""Alerts as Prometheus itself evaluates them, by `promtool test rules`: each fires where it should, in time,
and not where it should not. Needs promtool (Debian: apt install prometheus).
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.chart.monitoring import rules
from tests.chart.rendering import NAMESPACE, RELEASE

PROMTOOL = shutil.which("promtool")
MINUTES = 120
"""How long series go on; each is one sample a minute."""
OWN = f'namespace="{NAMESPACE}",cascade_release="{RELEASE}"'
STRANGER = 'namespace="other",cascade_release="other"'
WANTED = 'cascade_desired_pods{OWN,component="stage",pod="g1"}'
THERE = 'up{OWN,container="stage",pod="s1"}'


@dataclass(frozen=True)
class Trial:
    """Series as promtool writes them (`OWN`: labels of this installation), and when the alert must fire."""

    fires: dict[str, str]
    quiet: dict[str, str]
    at: str = "60m"


def steady(value: float) -> str:
    return f"{value:g}+0x{MINUTES}"


def rising(step: float) -> str:
    return f"0+{step:g}x{MINUTES}"


def slow(name: str, bound: str) -> dict[str, str]:
    """A histogram whose observations all lie above `bound`."""
    counts = {bound: steady(0), "120": rising(1), "+Inf": rising(1)}
    return {f'{name}_bucket{{OWN,le="{le}"}}': values for le, values in counts.items()}


def fast(name: str, bound: str) -> dict[str, str]:
    return {series: rising(1) for series in slow(name, bound)}


def peers(kind: str, ready: int, waiting: int) -> dict[str, str]:
    return {
        f'cascade_peers{{OWN,kind="{kind}",state="ready",pod="g1"}}': steady(ready),
        'cascade_queue_length{OWN,pod="g1"}': steady(waiting),
        'cascade_queue_length{OWN,pod="g2"}': steady(0),
    }


def one(series: str, bad: str, good: str) -> Trial:
    return Trial({series: bad}, {series: good})


ASKED = 'grpc_server_handled_total{OWN,grpc_service="externalscaler.ExternalScaler",grpc_method="GetMetrics",'
LATE = "cascade_segment_lateness_seconds"
GAPS = 'cascade_recovery_gap_seconds_count{OWN,cause="stage_lost"}'
TRIALS = {
    "CascadeNoGateway": one('up{OWN,container="gateway",pod="g1"}', steady(0), steady(1)),
    "CascadeNoReadyStage": Trial(peers("stage", 0, 2), peers("stage", 0, 0)),
    "CascadeNoReadyDecoder": Trial(peers("decoder", 0, 2), peers("decoder", 1, 2)),
    "CascadeSessionsQueued": one("cascade_queue_length{OWN}", steady(1), f"1 0 1 0x{MINUTES}"),
    "CascadeFirstSegmentSlow": Trial(
        slow("cascade_first_segment_seconds", "60"), fast("cascade_first_segment_seconds", "30")
    ),
    "CascadeSegmentsLate": Trial(
        {f'{LATE}_bucket{{OWN,le="0.5"}}': rising(80), f"{LATE}_count{{OWN}}": rising(100)},
        {f'{LATE}_bucket{{OWN,le="0.5"}}': rising(99), f"{LATE}_count{{OWN}}": rising(100)},
    ),
    "CascadePromptSwitchSlow": Trial(
        slow("cascade_prompt_picture_seconds", "10"), fast("cascade_prompt_picture_seconds", "2")
    ),
    "CascadeRecoveryGapHigh": Trial(
        slow("cascade_recovery_gap_seconds", "10"), fast("cascade_recovery_gap_seconds", "2")
    ),
    "CascadeManyRecoveries": Trial({GAPS: rising(1)}, {GAPS.replace("stage_lost", "migration"): rising(1)}),
    "CascadeSessionsFailed": one(
        'cascade_sessions_ended_total{OWN,reason="failed"}', f"0x55 1x{MINUTES}", steady(3)
    ),
    "CascadeJournalBehind": one('cascade_journal_behind_seconds{OWN,pod="g1"}', steady(11), steady(2)),
    "CascadeInternalErrors": one(
        'grpc_server_handled_total{OWN,pod="g1",grpc_method="Connect",grpc_code="INTERNAL"}', rising(1),
        steady(9),
    ),
    "CascadeQuarantined": one(
        'cascade_quarantined{OWN,pod="s1",reason_class="xid"}', steady(1), steady(0)
    ),
    "CascadeStageUnhealthy": one(
        'cascade_stage_state{OWN,pod="s1",state="unhealthy"}', steady(1), steady(0)
    ),
    "CascadeDecoderUnhealthy": one(
        'cascade_decoder_state{OWN,pod="d1",state="unhealthy"}', steady(1), steady(0)
    ),
    "CascadePeersUnreachable": one(
        'cascade_peers{OWN,pod="g1",kind="stage",state="gone"}', steady(1), steady(0)
    ),
    "CascadeClusterUnwatched": one(
        'cascade_cluster_connected{OWN,pod="g1",kind="stage"}', steady(0), steady(1)
    ),
    "CascadeStageStarting": one(
        'cascade_stage_state{OWN,pod="s1",state="starting"}', steady(1), f"1x20 0x{MINUTES}"
    ),
    "CascadeRankRestarts": one('cascade_stage_rank_restarts_total{OWN,pod="s1"}', rising(0.1), steady(7)),
    "CascadeDecoderRestarts": one('cascade_decoder_restarts_total{OWN,pod="d1"}', rising(0.1), steady(7)),
    "CascadeProcessRestarts": one(
        'process_start_time_seconds{OWN,pod="s1",container="stage"}', f"1x10 2x10 3x10 4x{MINUTES}", steady(5)
    ),
    "CascadeMetricsMissing": one('up{OWN,pod="s1",container="stage"}', steady(0), steady(1)),
    "CascadeScaleUpStuck": Trial(
        {WANTED: steady(2), THERE: steady(1)},
        {WANTED: steady(2), THERE: steady(1), THERE.replace("s1", "s2"): steady(1)},
    ),
    "CascadeDesiredPodsUnknown": Trial({}, {'cascade_desired_pods{OWN,component="stage"}': steady(0)}),
    "CascadeScalerUnasked": one(ASKED + 'grpc_code="OK"}', steady(5), rising(4)),
}  # fmt: skip
ABSENT = {"CascadeNoGateway", "CascadeDesiredPodsUnknown", "CascadeScalerUnasked"}
"""Fire where there is nothing at all."""


def test_each_alert_is_tried() -> None:
    assert TRIALS.keys() == {rule["alert"] for rule in rules()}


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian: apt install prometheus)")
def test_each_fires_where_it_should_and_only_there(tmp_path: Path) -> None:
    """promtool reads all files and names those that fail."""
    for name, trial in TRIALS.items():
        # The alert alone. Where a component has one each, as for stages: the first.
        rule = next(each for each in rules() if each["alert"] == name)
        group = {"groups": [{"name": "tried", "rules": [rule]}]}
        (tmp_path / f"{name}.rules.yaml").write_text(yaml.safe_dump(group))
        tests = [case(name, trial.at, trial.fires, count=1), case(name, trial.at, trial.quiet, count=0)]
        if name not in ABSENT:
            tests.append(case(name, trial.at, trial.fires, count=0, labels=STRANGER))
        trials = {"rule_files": [f"{name}.rules.yaml"], "tests": tests}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(trials))
    command = [PROMTOOL, "test", "rules", *(f"{name}.yaml" for name in TRIALS)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SUCCESS") == len(TRIALS)


def case(name: str, at: str, series: dict[str, str], *, count: int, labels: str = OWN) -> dict:
    """One run of promtool: so many alerts are to fire, counted by a query, since their texts hold values."""
    found = [{"labels": "{}", "value": count}] if count else []
    return {
        "interval": "1m",
        "input_series": [
            {"series": key.replace("OWN", labels), "values": values} for key, values in series.items()
        ],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})',
                "eval_time": at,
                "exp_samples": found,
            }
        ],
    }
