"""LoRAs of the values arrive at the stage as its settings read them."""

from cascade_core.config import ListedLora
from services.common.environment import load_settings
from services.stage.settings import Settings
from tests.chart.pods import environment
from tests.chart.rendering import refusal, render

INK = {"name": "ink", "path": "/weights/ink.safetensors", "licence": "CC-BY, with a comma", "alpha": 64}


def values(*loras: dict[str, object]) -> dict[str, object]:
    return {"stage": {"settings": {"stage": {"loras": list(loras)}}}}


def test_a_list_of_them_becomes_a_variable_that_the_stage_reads() -> None:
    rendering = render(set=values(INK, {"name": "clay", "repo": "owner/name", "path": "clay.safetensors"}))
    (stage,) = (workload for workload in rendering.workloads() if workload.component == "stage")
    listed = load_settings(Settings, environment(rendering, stage.main)).stage.loras
    assert listed == (
        ListedLora(name="ink", path="/weights/ink.safetensors", licence="CC-BY, with a comma", alpha=64.0),
        ListedLora(name="clay", repo="owner/name", path="clay.safetensors"),
    )


def test_what_is_wrong_in_one_is_named() -> None:
    told = refusal(set=values({"name": "ink", "paht": "x"}))
    assert "/stage/settings/stage/loras/0" in told
    assert "paht" in told
