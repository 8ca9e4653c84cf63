"""Where pods may run, what they take with them, and how one replaces another."""

import re
from pathlib import Path

import pytest

from cascade_core.config import find_card
from cascade_core.schedule import Shape, Timeline, plan_tick
from tests.chart.pods import environment, settings_of
from tests.chart.rendering import ROOT, render, value_files
from tests.chart.switches import MODEL


def test_nodes_with_a_foreign_taint_are_not_empty_ones() -> None:
    """Gateways are spread with DoNotSchedule in values-ha.yaml. Tainted GPU nodes would count as nodes
    without one, so that on two CPU nodes the third gateway would stay pending for ever."""
    for component in ("gateway", "decoder"):
        spread = render("values-ha.yaml").workload(component).spec["topologySpreadConstraints"]
        assert spread
        assert {each["nodeTaintsPolicy"] for each in spread} == {"Honor"}


def test_the_taints_policy_can_be_chosen() -> None:
    spread = {
        "maxSkew": 1,
        "topologyKey": "zone",
        "whenUnsatisfiable": "ScheduleAnyway",
        "nodeTaintsPolicy": "Ignore",
    }
    (found,) = (
        render(set={"gateway": {"topologySpreadConstraints": [spread]}})
        .workload("gateway")
        .spec["topologySpreadConstraints"]
    )
    assert found["nodeTaintsPolicy"] == "Ignore"


def test_placement_reaches_the_pods() -> None:
    """GPU products join what else is asked of a node."""
    node = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [node]}}
    stage = {
        "gpu": {"products": ["NVIDIA-H200"]},
        "affinity": {"nodeAffinity": required},
        "runtimeClassName": "nvidia",
        "priorityClassName": "video",
        "nodeSelector": {"pool": "gpus"},
    }
    spec = render(set={"stage": stage}).workload("stage").spec
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert {each["key"] for each in term["matchExpressions"]} == {"zone", "nvidia.com/gpu.product"}
    assert (spec["runtimeClassName"], spec["priorityClassName"]) == ("nvidia", "video")
    assert spec["nodeSelector"] == {"pool": "gpus"}
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]


def test_the_download_runs_where_all_nodes_have_gpus() -> None:
    taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    download = {"tolerations": [taint], "nodeSelector": {"zone": "a"}}
    (job,) = render(set={**MODEL, "weights": {"source": "download", "download": download}}).all("Job")
    spec = job["spec"]["template"]["spec"]
    assert (spec["tolerations"], spec["nodeSelector"]) == ([taint], {"zone": "a"})


def test_scratch_keeps_no_node() -> None:
    """cluster-autoscaler never gives a node back whose pods have local volumes, unless they are named."""
    own = {"stage": {"podAnnotations": {"a": "b"}}}
    for workload in render(set=own).deployments():
        local = {
            each["name"]
            for each in workload.spec["volumes"]
            if "emptyDir" in each and each["emptyDir"].get("medium") != "Memory"
        }
        annotations = workload.pod["metadata"]["annotations"]
        named = annotations["cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"]
        assert local == set(named.split(","))
        assert (workload.component == "stage") == ("a" in annotations)


def test_nodes_of_four_gpus(tmp_path: Path) -> None:
    """What the sizing guide says is what the schedule does."""
    for under in ("values-h100.yaml", "values-14b.yaml"):
        stage = render(under, "values-4gpu.yaml").workload("stage")
        assert stage.main["resources"]["limits"]["nvidia.com/gpu"] == 4
        assert "affinity" not in stage.spec
        assert settings_of(render(under, "values-4gpu.yaml"), stage, tmp_path).stage.num_ranks == 4
    guide = (ROOT / "docs" / "production.md").read_text()
    for passes, row in ((5, r"P = 5 \|(.*)\|"), (4, r"\| P = 4 \|(.*)\|")):
        told = [float(each) for each in re.search(row, guide)[1].split("|") if each.strip()]
        assert told == [round(speedup(passes, ranks), 2) for ranks in range(1, passes + 1)]


def speedup(num_passes: int, num_ranks: int) -> float:
    """Over one rank: passes of a block, by those that the busiest rank makes while a block comes out."""
    shape = Shape(num_passes, 1, num_ranks, find_card("demo").window)
    timeline = Timeline(0)
    for _ in range(3 * num_passes):
        plan, timeline = plan_tick(timeline, shape)
    return num_passes / max(map(len, plan.ranks))


def test_ranks_share_memory() -> None:
    """NCCL needs more than the 64 MiB that /dev/shm has on its own."""
    stage = render(set={"stage": {"sharedMemory": "4Gi"}}).workload("stage")
    (mount,) = (each for each in stage.main["volumeMounts"] if each["mountPath"] == "/dev/shm")
    (volume,) = (each for each in stage.spec["volumes"] if each["name"] == mount["name"])
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "4Gi"}


@pytest.mark.parametrize("strategy", ["surge", "inPlace"])
def test_rollouts_keep_what_is_there(strategy: str) -> None:
    """surge: never a pod fewer; inPlace: never a pod more, where no node is free for another one."""
    spec = render(set={"stage": {"strategy": strategy}}).workload("stage").document["spec"]["strategy"]
    wanted = {"surge": (1, 0), "inPlace": (0, 1)}[strategy]
    assert (spec["rollingUpdate"]["maxSurge"], spec["rollingUpdate"]["maxUnavailable"]) == wanted


def test_sessions_outlast_a_replacement_in_place(tmp_path: Path) -> None:
    """Where no other stage is free they wait until the successor has loaded, as long as that may take."""
    in_place = [
        rendering
        for rendering in map(render, value_files())
        if not rendering.workload("stage").document["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    ]
    assert in_place
    for rendering in in_place:
        probe = rendering.workload("stage").main["startupProbe"]
        settings = settings_of(rendering, rendering.workload("gateway"), tmp_path)
        assert settings.gateway.recovery_timeout_s >= probe["failureThreshold"] * probe["periodSeconds"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {"emptyDir": {"sizeLimit": "2Gi"}}),
        ({"existingClaim": "compiled"}, {"persistentVolumeClaim": {"claimName": "compiled"}}),
    ],
    ids=["for a pod", "for all"],
)
def test_what_is_compiled_is_kept(asked: dict[str, str], expected: dict[str, object]) -> None:
    """Where the stage is told to keep it, and writable: the root file system is not."""
    rendering = render(set={"stage": {"gpu": {"count": 5}, "compileCache": asked}})
    stage = rendering.workload("stage")
    folder = environment(rendering, stage.main)["CASCADE_STAGE_COMPILE_CACHE"]
    (mount,) = (each for each in stage.main["volumeMounts"] if each["mountPath"] == folder)
    assert not mount.get("readOnly")
    (volume,) = (each for each in stage.spec["volumes"] if each["name"] == mount["name"])
    assert volume == {"name": mount["name"]} | expected


def test_without_gpus_nothing_is_compiled() -> None:
    rendering = render(set={"stage": {"gpu": {"count": 0}}})
    assert "CASCADE_STAGE_COMPILE_CACHE" not in environment(rendering, rendering.workload("stage").main)
