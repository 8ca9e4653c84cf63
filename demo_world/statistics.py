"""Intervals and paired tests: every measured share comes with how sure it is."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest, norm, wilcoxon

NUM_RESAMPLES = 2000
MARGIN = 0.02
"""What a share may be worse by and still count as not inferior."""
Z = float(norm.ppf(0.975))


def share(hits: Sequence[bool]) -> dict[str, Any]:
    """Share of hits with Wilson's 95 % interval; all None where there is nothing to count."""
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
    """Difference here - there of two shares over the same clips: Tango's 95 % interval, whether it is above
    -MARGIN (`non_inferior`), and McNemar's exact test of no difference (`p`)."""
    only_here = sum(a and not b for a, b in zip(here, there, strict=True))
    only_there = sum(b and not a for a, b in zip(here, there, strict=True))
    num, discordant = len(here), only_here + only_there
    low, high = tango_interval(only_here, only_there, num)
    return {
        "difference": {"mean": (only_here - only_there) / num, "low": low, "high": high, "num": num},
        "only_here": only_here,
        "only_there": only_there,
        "non_inferior": low > -MARGIN,
        "p": float(binomtest(only_here, discordant).pvalue) if discordant else 1.0,
    }


def tango_interval(only_here: int, only_there: int, num: int) -> tuple[float, float]:
    """95 % score interval of a difference of paired shares: all differences that `tango_z` does not reject.

    Unlike drawing clips anew it has a width where no pair differs: z^2 / (num + z^2) to either side.
    Source: Tango, Statistics in Medicine 17 (1998) 891.
    """
    middle = (only_here - only_there) / num
    edge = 1 - 1e-9

    def end(side: float) -> float:
        if side * middle >= edge:
            return side
        crossing = brentq(lambda d: tango_z(only_here, only_there, num, d) + side * Z, middle, side * edge)
        return float(crossing)

    return end(-1.0), end(1.0)


def tango_z(only_here: int, only_there: int, num: int, difference: float) -> float:
    """Score statistic of the hypothesis that the shares differ by `difference`; normal where that is so."""
    b = (2 * num - only_here + only_there) * difference - only_here - only_there
    c = -only_there * difference * (1 - difference)
    likely = (sqrt(b * b - 8 * num * c) - b) / (
        4 * num
    )  # share of pairs right only there, given `difference`
    variance = num * (2 * likely + difference * (1 - difference))
    excess = only_here - only_there - num * difference
    return excess / sqrt(variance) if variance > 0 else 0.0


def paired_values(here: Sequence[float], there: Sequence[float]) -> dict[str, Any]:
    """Difference here - there of a value over the same clips, and Wilcoxon's signed-rank test."""
    differences = np.subtract(here, there)
    return {
        "difference": mean(differences.tolist()),
        "p": float(wilcoxon(differences).pvalue) if differences.any() else 1.0,
    }
