"""Intervals and paired tests: every measured share comes with how sure it is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, wilcoxon

NUM_RESAMPLES = 2000


def share(hits: Sequence[bool]) -> dict[str, Any]:
    """Share of hits with Wilson's 95 % interval; None of all where there is nothing to count."""
    if not hits:
        return {"share": None, "low": None, "high": None, "num": 0}
    interval = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    return {"share": sum(hits) / len(hits), "low": interval.low, "high": interval.high, "num": len(hits)}


def mean(values: Sequence[float]) -> dict[str, Any]:
    """Mean with a 95 % interval from drawing the values (clips) anew, with a fixed seed."""
    drawn = np.random.default_rng(0).choice(np.asarray(values, float), (NUM_RESAMPLES, len(values)))
    low, high = np.percentile(drawn.mean(axis=1), [2.5, 97.5])
    return {"mean": float(np.mean(values)), "low": float(low), "high": float(high), "num": len(values)}


def paired_shares(here: Sequence[bool], there: Sequence[bool]) -> dict[str, Any]:
    """Difference here - there of two shares over the same clips, and McNemar's exact test."""
    only_here = sum(a and not b for a, b in zip(here, there, strict=True))
    only_there = sum(b and not a for a, b in zip(here, there, strict=True))
    discordant = only_here + only_there
    return {
        "difference": mean([float(a) - float(b) for a, b in zip(here, there, strict=True)]),
        "only_here": only_here,
        "only_there": only_there,
        "p": float(binomtest(only_here, discordant).pvalue) if discordant else 1.0,
    }


def paired_values(here: Sequence[float], there: Sequence[float]) -> dict[str, Any]:
    """Difference here - there of a value over the same clips, and Wilcoxon's signed-rank test."""
    differences = np.subtract(here, there)
    return {
        "difference": mean(differences.tolist()),
        "p": float(wilcoxon(differences).pvalue) if differences.any() else 1.0,
    }
