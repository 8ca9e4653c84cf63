"""The picture of a day: sessions, pods, waiting; and what waiting less costs."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.day.demand import HOUR_S

INK, GRID = "#30343b", "#e4e7ec"
PLAYING, QUEUED, READY, BUSY, WANTED = "#4f9bd9", "#e4572e", "#b9c2d0", "#5b6ee1", "#14161a"
NEEDED = "#f2b134"
CURVES = {"shared": "#5b6ee1", "alone": "#f2912b"}
TICK_HOURS = 2


def draw(path: Path, day: dict[str, Any], curves: dict[str, dict[str, Any]]) -> None:
    """`day`: of `run.measure`. `curves`: by kind, its title, rows of its warm places, and other rows."""
    figure = Figure(figsize=(12, 11), layout="constrained")
    rows = figure.add_gridspec(4, 2, height_ratios=[3, 3, 2, 4])
    axes = [figure.add_subplot(rows[n, :]) for n in range(3)]
    draw_sessions(axes[0], day)
    draw_pods(axes[1], day)
    draw_waits(axes[2], day)
    for axis in axes:
        hours(axis, day)
    for column, (kind, curve) in enumerate(curves.items()):
        draw_curve(figure.add_subplot(rows[3, column]), kind, curve)
    figure.savefig(path, dpi=110)


def draw_sessions(axis: Axes, day: dict[str, Any]) -> None:
    at, playing, queued = series(day, "at_h", "num_playing", "num_queued")
    both = [a + b for a, b in zip(playing, queued, strict=True)]
    places = [ready * day["max_sessions"] for ready in series(day, "num_ready")[0]]
    axis.fill_between(at, playing, color=PLAYING, alpha=0.85, lw=0, label="playing")
    axis.fill_between(at, playing, both, color=QUEUED, lw=0, label="waiting for a place")
    axis.step(at, places, color=INK, lw=1, where="post", label="places on ready pods")
    finish(axis, f"{day['num_sessions']} sessions on a day, in bursts", "sessions at once")


def draw_pods(axis: Axes, day: dict[str, Any]) -> None:
    at, ready, busy, wanted = series(day, "at_h", "num_ready", "num_busy", "replicas")
    axis.fill_between(at, ready, step="post", color=READY, lw=0, label="ready")
    axis.fill_between(at, busy, step="post", color=BUSY, lw=0, label="with sessions")
    axis.step(at, wanted, color=WANTED, lw=1.1, where="post", label="replicas asked for")
    needed = [-(-playing // day["max_sessions"]) for playing in series(day, "num_playing")[0]]
    axis.step(at, needed, color=NEEDED, lw=1.1, where="post", label="enough if packed")
    row = day["row"]
    said = f"{row['busy_chosen']} busy pods deleted, {row['of_oracle']:.2f} x the oracle"
    finish(axis, f"{day['name']}: {said}", "stage pods")


def draw_waits(axis: Axes, day: dict[str, Any]) -> None:
    at = [arrival / HOUR_S for arrival, _ in day["waits"]]
    waits = [wait for _, wait in day["waits"]]
    num_at_once = sum(wait <= 1 for wait in waits)
    late = [(hour, wait) for hour, wait in zip(at, waits, strict=True) if wait > 1]
    axis.scatter([hour for hour, _ in late], [wait for _, wait in late], s=7, color=QUEUED, lw=0)
    axis.set_ylim(bottom=0)
    title = f"{num_at_once / len(waits):.0%} of the sessions start at once; the others wait for a pod to come"
    finish(axis, title, "seconds waited")


def draw_curve(axis: Axes, kind: str, curve: dict[str, Any]) -> None:
    """Mean wait against GPU-hours; the oracle is at 1 and waits for nothing."""
    points = [(row["of_oracle"], row["wait_mean_s"]) for row in curve["warm"]]
    axis.plot(*zip(*points, strict=True), "o-", color=CURVES[kind], lw=1.5, ms=5)
    for places, point in zip(curve["places"], points, strict=True):
        label = f"{places} warm" if places in (curve["places"][0], curve["places"][-1]) else str(places)
        axis.annotate(label, point, (5, 5), textcoords="offset points", fontsize=8, color=INK)
    axis.plot([1], [0], "*", color=INK, ms=13, clip_on=False, zorder=5)
    axis.annotate("oracle", (1, 0), (8, 6), textcoords="offset points", fontsize=8, color=INK)
    for name, row in curve["others"].items():
        point = row["of_oracle"], row["wait_mean_s"]
        axis.plot(*point, "s", color=QUEUED if row["busy_chosen"] else INK, ms=5)
        busy = f"\n{row['busy_chosen']} busy pods deleted" if row["busy_chosen"] else ""
        right = row["of_oracle"] > 2
        axis.annotate(
            name + busy,
            point,
            (-6 if right else 7, 4),
            textcoords="offset points",
            fontsize=8,
            color=INK,
            ha="right" if right else "left",
        )
    shown = [*curve["warm"], *curve["others"].values()]
    axis.set_ylim(0, 1.2 * max(row["wait_mean_s"] for row in shown))
    axis.set_xlim(left=0.95)
    axis.set_xlabel("GPU-hours, times the oracle's")
    finish(axis, curve["title"], "seconds waited, mean", legend=False)


def series(day: dict[str, Any], *names: str) -> list[list[float]]:
    """Columns of the samples."""
    columns = {"at_h": [sample["at_s"] / HOUR_S for sample in day["samples"]]}
    return [columns.get(name) or [sample[name] for sample in day["samples"]] for name in names]


def hours(axis: Axes, day: dict[str, Any]) -> None:
    """Clock time below."""
    span = round(day["hours"])
    axis.set_xlim(0, span)
    axis.set_xticks(range(0, span + 1, TICK_HOURS))
    start = round(day["start_hour"])
    axis.set_xticklabels([f"{(start + n) % 24}:00" for n in range(0, span + 1, TICK_HOURS)])


def finish(axis: Axes, title: str, label: str, *, legend: bool = True) -> None:
    axis.set_title(title, loc="left", fontsize=11, color=INK)
    axis.set_ylabel(label, color=INK)
    axis.grid(color=GRID, lw=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=INK, labelsize=9)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    if legend and axis.get_legend_handles_labels()[0]:
        axis.legend(
            loc="lower right", bbox_to_anchor=(1, 0.99), frameon=False, fontsize=9, ncols=4, borderpad=0
        )
