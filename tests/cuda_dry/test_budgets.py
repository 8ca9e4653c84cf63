"""No pass launches more kernels, casts more often or moves more bytes than the committed table says."""

import json

import pytest

from benchmarks.trace.__main__ import RESULTS, cases
from benchmarks.trace.cases import BUDGETED, Case, budget, trace
from tests.cuda_dry.support import CARDS
from tests.paths import ROOT

RENEW = "if it must be so, renew the tables with `make traces`"


def committed(case: Case) -> dict[str, int]:
    traces = json.loads((ROOT / RESULTS / "trace.json").read_text())
    return next(row["budget"] for row in traces["now"]["cases"] if case.about.items() <= row.items())


def excess(found: dict[str, int], allowed: dict[str, int]) -> list[str]:
    return [
        f"{name}: {found[name]:,}, {allowed[name]:,} committed"
        for name in BUDGETED
        if found[name] > allowed[name]
    ]


CASES = [
    case
    for case in cases(CARDS, (1, 5))
    if (case.stagger > 1 or case.num_ranks == 5) and (case.quantize == "none" or case.model == CARDS[0])
]
"""Each model block by block, and one rank of five; in FP8 one model, since all add the same to a layer."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.about.values())))
def test_a_pass_takes_no_more_than_is_committed(case: Case) -> None:
    ticks = trace(case, limit=case.shape.num_passes)
    assert all(counts.waits == [] for _, counts in ticks)
    over = excess(budget(ticks, case), committed(case))
    assert not over, f"{'; '.join(over)}: {RENEW}"
