"""What a run's clients saw: their waits, which fault each is charged to, what should not have happened."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.chaos.inflict import TOGETHER_S, Inflicted
from benchmarks.chaos.ledger import Complaint, Ledger, Wait
from benchmarks.chaos.outages import Span, longest_without
from benchmarks.chaos.run import Outcome
from benchmarks.chaos.tally import Loss

Row = dict[str, Any]
EXCUSED_FOR_S = 60.0
"""By then whoever has a session again has found out what is missing of it."""
RECENT_S = 60.0
MAY_STAND_S = 15.0
"""While everything is up."""


def gaps(outcome: Outcome) -> list[tuple[Inflicted, float]]:
    """Each with the fault it is charged to."""
    found = []
    for wait in waits(outcome):
        if wait.seconds > wait.owed_s > 0 and (culprit := blame(wait, outcome.inflicted)):
            found.append((culprit, wait.seconds))
    return found


def blame(wait: Wait, inflicted: Sequence[Inflicted]) -> Inflicted | None:
    during = [each for each in inflicted if wait.start_s <= each.at_s <= wait.end_s]
    before = [each for each in inflicted if each.at_s < wait.start_s]
    return during[0] if during else before[-1] if before else None


def waits(outcome: Outcome) -> list[Wait]:
    """Of controllers."""
    return [wait for ledger in controllers(outcome) for wait in ledger.waits]


def part_s(wait: Wait, without: Sequence[Span]) -> float:
    """The longest part of a wait that none of these touches."""
    return longest_without((wait.start_s + wait.owed_s, wait.end_s), without) if wait.seconds else 0.0


def controllers(outcome: Outcome) -> list[Ledger]:
    assert outcome.audience
    return [ledger for ledger in outcome.audience.ledgers if not ledger.is_viewer]


def viewers(outcome: Outcome) -> list[Ledger]:
    assert outcome.audience
    return [ledger for ledger in outcome.audience.ledgers if ledger.is_viewer]


def longest(outcome: Outcome) -> tuple[float, float, float]:
    """Standstill, and the longest parts of one in which enough was up, and everything."""
    everything = waits(outcome)
    return (
        max((wait.seconds for wait in everything), default=0.0),
        max((part_s(wait, outcome.shortages) for wait in everything), default=0.0),
        max((part_s(wait, outcome.outages) for wait in everything), default=0.0),
    )


def excuse(outcome: Outcome, loss: Loss | Complaint) -> str:
    """Why it may be: who owned the session and what Redis kept of it went together, or before a gateway and
    Redis had been there for long enough, at a stretch, for another to have it."""
    recent = [each for each in outcome.inflicted if loss.at_s - EXCUSED_FOR_S < each.at_s < loss.at_s]
    gateways = [each for each in recent if each.fault.takes_gateway]
    for one in recent:
        for other in gateways if is_forgetful(one, loss) else ():
            after_s = other.at_s - one.at_s
            calm_s = longest_without((other.at_s, one.at_s), outcome.unwatched) if after_s < 0 else 0.0
            if calm_s <= TOGETHER_S and after_s <= one.fault.seconds + TOGETHER_S:
                return f"{one.fault.kind} (fault {one.number}) and {other.fault.kind} (fault {other.number})"
    return ""


def is_forgetful(inflicted: Inflicted, loss: Loss | Complaint) -> bool:
    """Whether Redis may have lost by this what a lost session needs, or missed what another segment is for:
    a wish that was granted while it was away."""
    fault = inflicted.fault
    return fault.empties_redis or (fault.target.endswith("Redis") and isinstance(loss, Complaint))


def spread(values: Sequence[float]) -> Row:
    if not values:
        return {"gaps": 0, "gap_p50_s": None, "gap_p95_s": None, "gap_max_s": None}
    cuts = statistics.quantiles([*values, values[-1]], n=100, method="inclusive")
    return {
        "gaps": len(values),
        "gap_p50_s": round(statistics.median(values), 2),
        "gap_p95_s": round(cuts[94], 2),
        "gap_max_s": round(max(values), 2),
    }


def findings(outcome: Outcome) -> list[Row]:
    """Everything that should not have happened, each with the faults before it."""
    assert outcome.audience
    found = [finding("session lost", loss.at_s, outcome, **facts(loss)) for loss in outcome.audience.losses]
    found += [
        finding("viewer lost", loss.at_s, outcome, **facts(loss)) for loss in outcome.audience.viewers_lost
    ]
    for ledger in outcome.audience.ledgers:
        found += findings_of(ledger, outcome)
    found += [finding("stands still", at_s, outcome, why=text) for at_s, text in outcome.standing]
    found += [finding("orphan", at_s, outcome, process=text) for at_s, text in outcome.orphans]
    return found


def findings_of(ledger: Ledger, outcome: Outcome) -> list[Row]:
    """Of one client."""
    name = ledger.name
    found = []
    for excused in (False, True):
        changed = [each for each in ledger.complaints if bool(each.excuse) is excused]
        if changed:
            first = facts(changed[0]) | {"segments": len(changed)}
            found.append(finding("changed", changed[0].at_s, outcome, session=name, **first))
    if ledger.num_lost:
        found.append(finding("lost", outcome.end_s, outcome, session=name, segments=ledger.num_lost))
    for wait in () if ledger.is_viewer else ledger.waits:
        seconds = part_s(wait, outcome.outages)
        if seconds > MAY_STAND_S:
            how = {"session": name, "seconds": round(seconds, 1), "after": wait.after}
            found.append(finding("stood still", wait.end_s, outcome, **how))
    return found


def facts(what: Loss | Complaint) -> Row:
    """All but the time."""
    return {key: value for key, value in asdict(what).items() if key != "at_s"}


def finding(what: str, at_s: float, outcome: Outcome, **facts: Any) -> Row:
    """With the faults of the minute before."""
    faults = [told(each, outcome) for each in outcome.inflicted if at_s - RECENT_S < each.at_s < at_s]
    at = round(at_s - outcome.start_s, 1)
    return {"run": outcome.plan.number, "what": what, "at_s": at, **facts, "faults": faults}


def told(inflicted: Inflicted, outcome: Outcome) -> str:
    fault = inflicted.fault
    extra = f" {fault.seconds:g} s" if fault.seconds else f" {fault.clock_s:+g} s" if fault.clock_s else ""
    return f"{inflicted.at_s - outcome.start_s:.1f} s: {fault.action}{extra} {inflicted.what}"
