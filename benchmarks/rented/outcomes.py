"""What became of each step, and the report that is written after each."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

State = Literal["done", "failed", "ended", "skipped"]


@dataclass(frozen=True)
class Outcome:
    """One step: done, failed by itself, ended by us, or not begun."""

    step: str
    state: State
    seconds: float
    reason: str = ""


def render(head: str, outcomes: Sequence[Outcome], folder: Path) -> str:
    lines = ["| step | state | seconds | why |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {each.step} | {each.state} | {each.seconds:.0f} | {escaped(each.reason)} |" for each in outcomes
    ]
    tables = [folder / f"{each.step}.md" for each in outcomes]
    parts = ["# A run on a rented GPU", head, "\n".join(lines)]
    return "\n\n".join([*parts, *(table.read_text().strip() for table in tables if table.exists())]) + "\n"


def escaped(text: str) -> str:
    return text.replace("|", "\\|")


def write_report(folder: Path, machine: dict[str, Any], command: str, outcomes: Sequence[Outcome]) -> None:
    gpus = f"{machine['num_gpus']} x {machine['gpu']}" if machine["num_gpus"] else "no GPU"
    head = f"`{command}` · {gpus} · torch {machine['torch']} · Python {machine['python']} · {machine['date']}"
    (folder / "report.md").write_text(render(head, outcomes, folder))
    files = {each.step: folder / f"{each.step}.json" for each in outcomes}
    content = {
        "command": command,
        "machine": machine,
        "steps": [asdict(each) for each in outcomes],
        "tables": {step: json.loads(file.read_text()) for step, file in files.items() if file.exists()},
    }
    (folder / "report.json").write_text(json.dumps(content, indent=2) + "\n")
