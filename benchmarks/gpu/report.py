"""The tables: everything measured so far, as JSON and as Markdown."""

import json
from pathlib import Path

from benchmarks.folders import write_whole
from benchmarks.gpu.samples import Row
from cascade_core.commands.bench import table

TITLES = {
    "kernels": "Attention kernels alone",
    "ceilings": "Ceilings of this device",
    "decoders": "Decoders: latents to pictures on the host",
    "worker": "Around a tick: copies and messages",
    "engine": "The engine: rank processes and their exchange",
}
MODE_TITLES = {
    "sequential": "Sequential, one block at a time:",
    "rank": "One rank of the full cascade, by the position of its block in flight:",
    "joint": "The full cascade on one GPU, all blocks in flight in one forward:",
}


def render(results: Row) -> str:
    """Markdown; what is not measured yet is left out."""
    info = results["machine"]
    parts = [
        "# Engine on one GPU",
        f"`{results['command']}` · {info['gpu']}, driver {info['driver']} · torch {info['torch']} · "
        f"{info['date']} · random weights, medians of {results['repeats']}",
    ]
    summaries = [{"model": case["name"]} | case["summary"] for case in results["cases"] if "summary" in case]
    if summaries:
        notes = [f"- {note}" for note in results["assumptions"]]
        parts += ["## Sequential, and the projected cascade", table(summaries), "\n".join(notes)]
    for case in results["cases"]:
        parts += render_case(case)
    for name, title in TITLES.items():
        if results[name]:
            parts += [f"## {title}", table(results[name])]
    parts += [f"Left out: {line}" for line in results["left_out"]]
    return "\n\n".join(parts) + "\n"


def render_case(case: Row) -> list[str]:
    memory = ", ".join(f"{mode} {gib:.1f} GiB" for mode, gib in case["peak_gib"].items())
    parts = [f"## {case['name']}", f"Attention kernel: {case['kernel']}. Peak memory: {memory}."]
    for mode, rows in case["modes"].items():
        parts += [MODE_TITLES[mode], table(rows)]
    return parts


def write(results: Row, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{name}.json", json.dumps(results, indent=2) + "\n")
    write_whole(folder / f"{name}.md", render(results))
