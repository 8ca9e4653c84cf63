"""The chart as it is packed, and its versions."""

import json
import re
import tomllib
from pathlib import Path

from tests.chart.cases import FILES, ROWS
from tests.chart.golden import normal
from tests.chart.rendering import CHART, NAMESPACE, RELEASE, ROOT, helm, parse, render
from tests.chart.schemas import VERSIONS, complaints


def test_versions_are_one() -> None:
    """Image tags are the chart's appVersion, which is that of the package."""
    chart = parse((CHART / "Chart.yaml").read_text()).documents[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["appVersion"] == project["version"]
    for dependency in chart["dependencies"]:
        inner = parse((CHART / "charts" / dependency["name"] / "Chart.yaml").read_text()).documents[0]
        assert inner["version"] == dependency["version"]


def test_images_follow_the_values() -> None:
    digest = f"sha256:{'0' * 64}"
    images = {"image": {"registry": "registry.example/team/"}}
    images |= {each: {"image": {"tag": "1.2.3"}} for each in ("stage", "decoder")}
    rendering = render(set={**images, "gateway": {"image": {"digest": digest}}})
    found = {each.component: each.main["image"] for each in rendering.workloads()}
    assert found["stage"] == "registry.example/team/cascade-engine:1.2.3"
    assert found["gateway"] == found["test"] == f"registry.example/team/cascade-gateway@{digest}"


def test_the_package_is_the_chart(tmp_path: Path) -> None:
    """`helm package` leaves nothing out that templates need."""
    done = helm("package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    for case in (*FILES, ROWS[1], ROWS[3]):
        files = [part for file in case.files for part in ("--values", str(CHART / file))]
        command = ["template", RELEASE, str(package), "--namespace", NAMESPACE, *files, "--values", "-"]
        done = helm(*command, "--kube-version", VERSIONS[-1], stdin=json.dumps(case.values))
        packed, whole = parse(done.stdout), case.render()
        assert [normal(each) for each in packed.documents] == [normal(each) for each in whole.documents], case


def test_the_oldest_cluster() -> None:
    """The one that Chart.yaml asks for: what it does not know is not sent."""
    chart = parse((CHART / "Chart.yaml").read_text()).documents[0]
    version = re.search(r">=(\d+\.\d+)", chart["kubeVersion"])[1]
    for case in FILES:
        documents = case.render(version).documents
        assert not [text for each in documents for text in complaints(each, version)]


def test_what_depends_on_the_cluster_is_rendered_both_ways() -> None:
    """properties/validity.py renders for the first and the last of VERSIONS, which is enough for these."""
    texts = [path.read_text() for path in CHART.rglob("*") if path.suffix in (".tpl", ".yaml", ".txt")]
    compared = [
        each for text in texts for each in re.findall(r'semverCompare "(?:<|>=)(\d+\.\d+)\.0-0"', text)
    ]
    assert set(compared) <= {"1.34", "1.35", VERSIONS[-2]}
    used = [
        each for text in texts for each in re.findall(r"\(semverCompare|Capabilities\.(?!KubeVersion)", text)
    ]
    assert used == ["(semverCompare"] * len(compared)
