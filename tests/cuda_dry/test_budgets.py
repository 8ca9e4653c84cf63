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


def is_counted(case: Case) -> bool:
    """Each model block by block, and one rank of five as sessions are by default. Of one model, with a sink,
    each way in which blocks in flight see others, which is the same code for all; of one its products in FP8,
    which add the same to a layer on any number of ranks."""
    if case.num_ranks == 1:
        return case.stagger > 1 and (case.quantize == "none" or case.model == CARDS[0])
    return case.counts_behind or (case.quantize == "none" and case.model == CARDS[1])


CASES = [case for case in cases(CARDS, (1, 5)) if is_counted(case)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.about.values())))
def test_a_pass_takes_no_more_than_is_committed(case: Case) -> None:
    num_passes = case.shape.num_passes
    fills = case.stagger < num_passes  # block by block, all that there will be is in flight once it is primed
    ticks = trace(case, num_passes, None if fills else 1)
    assert all(counts.waits == [] for _, counts in ticks)
    over = excess(budget(ticks, case), committed(case))
    assert not over, f"{'; '.join(over)}: {RENEW}"
