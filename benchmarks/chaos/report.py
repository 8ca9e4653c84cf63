"""What became of a thousand kills: the table, and what it is made of."""

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chaos.ledger import Complaint
from benchmarks.chaos.measures import (
    Row,
    controllers,
    excuse,
    findings,
    gaps,
    longest,
    spread,
    told,
    viewers,
)
from benchmarks.chaos.run import Outcome
from benchmarks.chaos.tally import Loss
from cascade_core.commands.bench import table

MIB = 2**20
NOTES = (
    "`gap`: of a controller, from one segment to the next, beyond what the first of them lasts, if that is "
    "more than another one lasts. It is charged to the first fault that came during it, else to the last "
    "before it; faults come faster than they are over, so many gaps are the work of several.",
    "`lost`: numbers that a controller never got. `repeated`: came once more over the wire, which the SDK "
    "drops. `changed`: segments that are not what an undisturbed session, or another client of the same one, "
    "has under that number.",
    "`sessions lost`: ended before their time, or their client could not go on. `excused`: sessions and "
    "changed segments after a gateway and what Redis had went within 8 s of each other, or before a gateway "
    "and Redis were there for 8 s at a stretch; segments also if Redis was only away: a switch granted then "
    "goes with its gateway. `undone`: so do resumptions, which the client then asks for again. One time in "
    "ten Redis loses what it has whatever the gateways do, else only while all are there.",
    "`standstill`: the longest that a controller waited for a segment, beyond what the one before lasts; its "
    "first one counts. `enough up`: the longest part of such a wait in which two stages, two decoders, a "
    "gateway and Redis were there; `all up`: in which nothing was down.",
    "`orphans`: processes whose starter was gone for 3 s. Memory: of all processes of the installation, "
    "before the first session and after the last.",
    "KILL is SIGKILL, TERM is SIGTERM, STOP is SIGSTOP for 1 to 30 s; what ends starts again after 0.5 s. CUT"
    " ends all connections of one port. Redis restarts with its data or without (EMPTY), or its "
    "replica takes its place (FAIL OVER). CLOCK: ended with SIGTERM and started with a clock up to an hour "
    "off (`time.time` of the process; gRPC and TLS keep the machine's).",
)


def by_kind(outcomes: Sequence[Outcome]) -> list[Row]:
    """One row for each kind of fault."""
    kills = Counter(each.fault.kind for outcome in outcomes for each in outcome.inflicted)
    found: dict[str, list[float]] = {}
    for outcome in outcomes:
        for culprit, seconds in gaps(outcome):
            found.setdefault(culprit.fault.kind, []).append(seconds)
    return [{"fault": kind, "kills": kills[kind], **spread(found.get(kind, []))} for kind in sorted(kills)]


def summary(title: str, outcomes: Sequence[Outcome]) -> Row:
    """One row of the table of all runs."""
    audiences = [outcome.audience for outcome in outcomes if outcome.audience]
    losses = [loss for audience in audiences for loss in audience.losses]
    playing = [ledger for outcome in outcomes for ledger in controllers(outcome)]
    looking = [ledger for outcome in outcomes for ledger in viewers(outcome)]
    changed = [each for ledger in (*playing, *looking) for each in ledger.complaints]
    longests = [longest(outcome) for outcome in outcomes]
    return {
        "runs": title,
        "kills": sum(len(outcome.inflicted) for outcome in outcomes),
        "sessions": len(playing),
        "segments": sum(ledger.num_segments for ledger in playing),
        "viewers": len(looking),
        "viewed": sum(ledger.num_segments for ledger in looking),
        "lost": sum(ledger.num_lost for ledger in playing),
        "repeated": sum(ledger.num_repeated for ledger in playing),
        "changed": sum(not each.excuse for each in changed),
        "sessions_lost": sum(not loss.excuse for loss in losses),
        "excused": f"{sum(map(is_excused, losses))} / {sum(map(is_excused, changed))}",
        "undone": sum(audience.num_undone for audience in audiences),
        "viewers_lost": sum(not each.excuse for audience in audiences for each in audience.viewers_lost),
        "standstill_s": round(max((found[0] for found in longests), default=0.0), 1),
        "enough_up_s": round(max((found[1] for found in longests), default=0.0), 1),
        "all_up_s": round(max((found[2] for found in longests), default=0.0), 1),
        "orphans": sum(len(outcome.orphans) for outcome in outcomes),
        "seconds": round(sum(outcome.end_s - outcome.start_s for outcome in outcomes)),
    }


def is_excused(what: Loss | Complaint) -> bool:
    return bool(what.excuse)


def memory(outcomes: Sequence[Outcome]) -> list[Row]:
    """The mean over all runs, MiB."""
    rows = []
    for kind in outcomes[0].before if outcomes else ():
        before = statistics.mean(outcome.before[kind] for outcome in outcomes) / MIB
        after = statistics.mean(outcome.after.get(kind, 0) for outcome in outcomes) / MIB
        rows.append({"memory": kind, "before_mib": round(before), "after_mib": round(after)})
    return rows


def results_of(head: Row, outcomes: Sequence[Outcome]) -> Row:
    """All of it, as plain data."""
    for outcome in outcomes:
        assert outcome.audience
        for loss in (*outcome.audience.losses, *outcome.audience.viewers_lost):
            loss.excuse = excuse(outcome, loss)
        for ledger in outcome.audience.ledgers:
            reason = ""
            for complaint in ledger.complaints:  # what was forgotten once stays so
                reason = complaint.excuse = excuse(outcome, complaint) or reason
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(title_of(outcome), []).append(outcome)
    rows = [summary(title, group) for title, group in groups.items()]
    refused: Counter[str] = Counter()
    for outcome in outcomes:
        refused += outcome.audience.refused if outcome.audience else Counter()
    return {
        **head,
        "summary": [*rows, *([summary("all", outcomes)] if len(rows) != 1 else [])],
        "kinds": by_kind(outcomes),
        "memory": memory(outcomes),
        "refused": dict(refused),
        "findings": [finding for outcome in outcomes for finding in findings(outcome)],
        "runs": [run_of(outcome) for outcome in outcomes],
    }


def title_of(outcome: Outcome) -> str:
    shape = outcome.plan.shape
    return f"{shape.engine}, {'TLS, keys' if shape.uses_tls else 'plain text'}"


def run_of(outcome: Outcome) -> Row:
    """Enough to see what was done, and to do it again."""
    plan = outcome.plan
    return {
        "number": plan.number,
        "seed": plan.seed,
        "engine": plan.shape.engine,
        "tls": plan.shape.uses_tls,
        "kills": len(outcome.inflicted),
        "faults": [told(each, outcome) for each in outcome.inflicted],
    }


def write(results: Row, folder: Path) -> None:
    (folder / "chaos.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "chaos.md").write_text(render(results))


def render(results: Row) -> str:
    now = results["machine"]
    whole = results["summary"][-1]
    bad = [finding for finding in results["findings"] if not finding.get("excuse")]
    parts = [
        "# Sessions under a thousand kills",
        f"`{results['command']}` · {now['processor']}, {now['cores']} cores · {now['date']} · engine: "
        f"{results['engine']} · load of the machine before: {results['load']}",
        f"{whole['kills']} kills under {whole['sessions']} sessions: {whole['lost']} segments of "
        f"{whole['segments']} lost, {whole['changed']} changed; {whole['sessions_lost']} sessions lost "
        f"(excused sessions and segments: {whole['excused']}); nothing stood still longer than "
        f"{whole['all_up_s']} s while all was up.",
        table(results["summary"]),
        *([table(results["kinds"])] if results["kinds"] else []),
        *([table(results["memory"])] if results["memory"] else []),
        *(["## What should not have happened", "\n".join(f"- {line(each)}" for each in bad)] if bad else []),
        "\n".join(f"- {note}" for note in NOTES),
    ]
    return "\n\n".join(parts) + "\n"


def line(finding: Row) -> str:
    left_out = ("what", "faults", "excuse")
    facts = (f"{name}: {value}" for name, value in finding.items() if name not in left_out)
    return f"{finding['what']} ({', '.join(facts)})"
