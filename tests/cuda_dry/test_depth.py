"""All layers of a model ask for the same."""

import pytest

from benchmarks.trace.cases import FIGURES, Case, count_ticks, extend
from cascade_core.config import find_card

NUM_LAYERS = 4


@pytest.mark.parametrize("name", ["longlive-1.3b", "demo"])
def test_one_layer_more_adds_what_every_layer_takes(name: str) -> None:
    """So the tables count one layer and two. Other models are the same code in other sizes."""
    case = Case(name, find_card(name), 5, 1, "bidirectional")
    (_, whole), (_, one), (_, two) = (
        count_ticks(case, count, limit=1, num_before=1)[0] for count in (NUM_LAYERS, 1, 2)
    )
    expected = extend(one, two, NUM_LAYERS)
    for figure in FIGURES:
        assert getattr(whole, figure) == getattr(expected, figure), figure
    assert whole.peak_bytes == pytest.approx(expected.peak_bytes, rel=1e-3)  # may be at another place
