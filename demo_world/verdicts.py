"""The targets, and whether the figures meet them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from demo_world.configurations import BASELINE, IN_FP8, baseline_of
from demo_world.experiments import ATTRIBUTES, LONG_S, LONGEST_S, SETTLED_BLOCKS, SOON
from demo_world.statistics import MARGIN

Summary = dict[str, Any]
FULL_CASCADE = ("bidirectional-1", "causal-1")
SOON_SHARE, SETTLED_SHARE, BASELINE_SHARE = 0.95, 0.97, 0.98
DRIFT_MARGINS = {LONG_S: 0.03, LONGEST_S: 0.05}


@dataclass(frozen=True)
class Verdict:
    """One target."""

    target: str
    is_met: bool
    found: str
    """The figures that decide it."""
    is_open: bool = False
    """Not met, but too few clips to say that it is missed."""

    def __str__(self) -> str:
        verdict = "met" if self.is_met else "not shown" if self.is_open else "missed"
        return f"{self.target}: **{verdict}** ({self.found})."


def verdicts(results: Mapping[str, Any]) -> list[Verdict]:
    """Of all targets for which there are figures."""
    found = list(_baseline(results))
    for name in FULL_CASCADE:
        found += [*_steady(results, name), *_drift(results, name), *_start(results, name)]
        for back in ("", "-back-1", "-back-2"):
            found += _switch(results, name + back)
    runs = {name for part in results.values() if isinstance(part, Mapping) for name in part}
    for name in sorted({run.partition(" ")[0] for run in runs if IN_FP8 in run}):
        found += [*_steady(results, name), *_settled(results, name), *_drift(results, name)]
    return found


def _baseline(results: Mapping[str, Any]) -> Iterator[Verdict]:
    steady = results.get("steady", {}).get(BASELINE)
    parts = {"steady": steady} if steady else {}
    parts |= {batch: run[BASELINE] for batch, run in results.items() if is_start(batch) and BASELINE in run}
    switches = results.get("switch", {})
    parts |= {name: run["settled"] for name, run in switches.items() if name.startswith(f"{BASELINE} ")}
    if parts:
        low, where = min(
            (run[name]["share"], f"{name}, {part}") for part, run in parts.items() for name in ATTRIBUTES
        )
        target = f"Sequential: at least {BASELINE_SHARE:.0%} on every score, steady and after switches"
        yield Verdict(target, low >= BASELINE_SHARE, f"least: {low:.1%}, {where}")
    for seconds, margin in DRIFT_MARGINS.items():
        if run := results.get(f"drift {seconds}", {}).get(BASELINE):
            change, name = min((run[name]["change"]["mean"], name) for name in ATTRIBUTES)
            target = f"Sequential: no score falls by more than {100 * margin:g} points over {seconds} s"
            yield Verdict(target, change >= -margin, f"{name} {_points(run[name]['change'])}")


def _start(results: Mapping[str, Any], name: str) -> Iterator[Verdict]:
    for batch, run in results.items():
        if is_start(batch) and name in run:
            yield from _not_inferior(f"{name}, {batch}", name, run[name])


def _steady(results: Mapping[str, Any], name: str) -> Iterator[Verdict]:
    if run := results.get("steady", {}).get(name):
        yield from _not_inferior(f"{name}, steady", name, run)


def _settled(results: Mapping[str, Any], name: str) -> Iterator[Verdict]:
    for batch, run in results.get("switch", {}).items():
        if batch.startswith(f"{name} "):
            title = f"{name}, switch, {batch.partition(' ')[2]}, last {SETTLED_BLOCKS} blocks"
            yield from _not_inferior(title, name, run["settled"])


def _not_inferior(title: str, name: str, run: Summary) -> Iterator[Verdict]:
    if "paired" in run["prompt"]:
        paired = {score: run[score]["paired"] for score in ATTRIBUTES}
        worst = min(ATTRIBUTES, key=lambda score: float(paired[score]["difference"]["low"]))
        yield Verdict(
            f"{title}: not inferior to {baseline_of(name)} by {100 * MARGIN:g} points on every score",
            all(pair["non_inferior"] for pair in paired.values()),
            f"worst: {worst} {_points(paired[worst]['difference'])}",
            is_open=all(pair["difference"]["mean"] >= -MARGIN for pair in paired.values()),
        )


def _switch(results: Mapping[str, Any], name: str) -> Iterator[Verdict]:
    run = results.get("switch", {}).get(f"{name} immediate")
    if not run:
        return
    soon = run["soon"]
    target = f"within {SOON} blocks of the asked one in at least {SOON_SHARE:.0%} of clips"
    yield Verdict(
        f"{name}, switch, immediate: the whole prompt shows {target}",
        soon["share"] >= SOON_SHARE,
        f"{soon['share']:.1%}",
    )
    settled = {score: run["settled"][score] for score in ATTRIBUTES}

    def reach(score: str) -> float:
        """How far above its target."""
        value = settled[score]
        limits = [SETTLED_SHARE]
        if "paired" in value:
            limits.append(value["share"] - value["paired"]["difference"]["mean"] - MARGIN)
        return float(value["share"] - min(limits))

    worst = min(ATTRIBUTES, key=reach)
    yield Verdict(
        f"{name}, switch, immediate: every score right in the last {SETTLED_BLOCKS} blocks of at least "
        f"{SETTLED_SHARE:.0%} of clips, or within {100 * MARGIN:g} points of sequential",
        reach(worst) >= 0,
        f"worst: {worst} {settled[worst]['share']:.1%}",
    )


def _drift(results: Mapping[str, Any], name: str) -> Iterator[Verdict]:
    for seconds, margin in DRIFT_MARGINS.items():
        run = results.get(f"drift {seconds}", {}).get(name)
        if run and "paired" in run["colour"]:
            paired = {score: run[score]["paired"]["difference"] for score in ATTRIBUTES}
            worst = min(ATTRIBUTES, key=lambda score: float(paired[score]["mean"]))
            target = f"within {100 * margin:g} points of {baseline_of(name)} on every score"
            yield Verdict(
                f"{name}, after {seconds} s: {target}",
                paired[worst]["mean"] >= -margin,
                f"worst: {worst} {_points(paired[worst])}",
            )


def is_start(batch: str) -> bool:
    return batch.startswith("start ")


def _points(difference: Summary) -> str:
    """`-2.4 (-6.0..0.0) points`."""
    middle, low, high = (100 * difference[key] for key in ("mean", "low", "high"))
    return f"{middle:+.1f} ({low:.1f}..{high:.1f}) points"


def inside(results: Mapping[str, Any], other: Mapping[str, Any]) -> list[Verdict]:
    """Whether two trainings lie in each other's intervals, on every score that both have."""
    found = []
    for batch, name, score, here, there in _shared(results, other):
        is_met = (
            there["low"] <= here["share"] <= there["high"] and here["low"] <= there["share"] <= here["high"]
        )
        if not is_met:
            found.append(f"{score}, {name}, {batch}: {here['share']:.1%} and {there['share']:.1%}")
    target = "Two trainings: each score inside the other's interval"
    return [Verdict(target, not found, "; ".join(found) or "all")]


def _shared(
    results: Mapping[str, Any], other: Mapping[str, Any]
) -> Iterator[tuple[str, str, str, Summary, Summary]]:
    for batch in ("steady", "switch"):
        for name in results.get(batch, {}).keys() & other.get(batch, {}).keys():
            runs = [some[batch][name] for some in (results, other)]
            if batch == "switch":
                runs = [run["settled"] for run in runs]
            for score in ATTRIBUTES:
                yield batch, name, score, runs[0][score], runs[1][score]
