"""Random mutants of the code, and whether the tests notice: `python -m tests.mutants --number 60 --seed 1`.

A mutant is one small fault: a flipped comparison, `and` for `or`, a condition turned round, a number off by
one, a dropped `await`, a returned value lost. It is put into a copy of the tree, where those tests run that
can know of it: in files that name what the changed module defines, the nearest first. Killed: a test fails.
"""

import argparse
import ast
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

PACKAGES = ("cascade_core", "services", "cascade_client")
ELSEWHERE = ("tests/gpu", "tests/browser", "tests/chart", "tests/unit/test_docs")
"""Tests that a fault in Python hardly reaches, and that need more than the tree."""
COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
SIGNS: dict[type[ast.operator], str] = {ast.Add: "-", ast.Sub: "+", ast.Mult: "//"}
LEFT_OUT = (".git", ".venv", "node_modules", "out", "build", ".*_cache", "__pycache__")
MAX_FILES = 14
"""Test files that are tried for one mutant, the nearest first."""


Place = tuple[int, int, int]
"""Line from 1, first column, one beyond the last."""


@dataclass(frozen=True)
class Mutant:
    """One fault."""

    path: str
    line: int
    kind: str
    before: str
    """The line as it was."""
    after: str
    verdict: str = ""
    by: str = ""
    """The test that failed first."""
    seconds: float = 0.0


def sites(path: Path, text: str) -> Iterator[Mutant]:
    """All faults that this file can have."""
    lines = text.split("\n")

    def cut(node: ast.expr) -> Place | None:
        if node.end_lineno != node.lineno or node.end_col_offset is None:
            return None
        line = lines[node.lineno - 1].encode()
        return node.lineno, len(line[: node.col_offset].decode()), len(line[: node.end_col_offset].decode())

    def mutant(kind: str, place: Place | None, new: str) -> Iterator[Mutant]:
        if place is None:
            return
        number, start, end = place
        line = lines[number - 1]
        changed = line[:start] + new + line[end:]
        if changed != line:
            yield Mutant(str(path), number, kind, line, changed)

    def between(left: ast.expr, right: ast.expr) -> Place | None:
        a, b = cut(left), cut(right)
        if not a or not b or a[0] != b[0] or set("()") & set(lines[a[0] - 1][a[2] : b[1]]):
            return None
        return a[0], a[2], b[1]

    tree = ast.parse(text)
    parts = [getattr(node, name, None) for node in ast.walk(tree) for name in ("annotation", "returns")]
    annotations = {id(sub) for part in parts if part is not None for sub in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in annotations:
            continue
        match node:
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
                yield from mutant("comparison", between(left, right), f" {COMPARISONS[type(op)]} ")
            case ast.BoolOp(op=op, values=[left, right]):
                new = " or " if isinstance(op, ast.And) else " and "
                yield from mutant("and/or", between(left, right), new)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in SIGNS:
                if not any(isinstance(getattr(side, "value", 0), str) for side in (left, right)):
                    yield from mutant("sign", between(left, right), f" {SIGNS[type(op)]} ")
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                whole, inner = cut(node), cut(operand)
                if whole and inner:
                    yield from mutant("not dropped", (whole[0], whole[1], inner[1]), "")
            case ast.Expr(value=ast.Await(value=value)):
                whole, inner = cut(node.value), cut(value)
                if whole and inner:
                    yield from mutant("await dropped", (whole[0], whole[1], inner[1]), "")
            case ast.Constant(value=value) if type(value) is int and 0 <= value < 10_000:
                yield from mutant("off by one", cut(node), str(value + 1))
            case ast.If(test=test):
                if place := cut(test):
                    old = lines[place[0] - 1][place[1] : place[2]]
                    yield from mutant("condition turned", place, f"not ({old})")
            case ast.Return(value=ast.expr() as value):
                yield from mutant("return lost", cut(value), "None")


def choose(root: Path, number: int, seed: int) -> list[Mutant]:
    """So many, at random: each file by its lines."""
    rng = random.Random(seed)
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    texts = {path: path.read_text() for path in files}
    weights = [text.count("\n") for text in texts.values()]
    found: list[Mutant] = []
    while len(found) < number:
        path = rng.choices(files, weights)[0]
        here = list(sites(path.relative_to(root), texts[path]))
        kinds = sorted({mutant.kind for mutant in here})
        if not kinds:
            continue
        kind = rng.choice(kinds)
        mutant = rng.choice([mutant for mutant in here if mutant.kind == kind])
        if mutant not in found:
            found.append(mutant)
    return found


def tests_for(root: Path, path: str) -> list[str]:
    """Test files that can know of this module, the nearest first."""
    module = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    defined = r"^(?:async )?(?:class|def) (\w{4,})|^    (?:async )?def ([a-z]\w{5,})"
    words = {word for pair in re.findall(defined, (root / path).read_text(), re.M) for word in pair if word}
    package = module.rpartition(".")[0]
    scores: dict[str, float] = {}
    for test in sorted((root / "tests").rglob("test_*.py")):
        name, text = str(test.relative_to(root)), test.read_text()
        if name.startswith(ELSEWHERE):
            continue
        score = 50.0 * (module in text or f"from {package} import {module.rpartition('.')[2]}" in text)
        score += 8.0 * (package in text)
        score += 2.0 * sum(1 for word in words if re.search(rf"\b{word}\b", text))
        score += 12.0 * (module.rpartition(".")[2].removeprefix("_") in test.stem)
        score += 10.0 * same_room(package, name)
        if score:
            scores[name] = score - len(text) / 1e5
    return sorted(scores, key=lambda name: -scores[name])[:MAX_FILES]


def same_room(package: str, test: str) -> float:
    """How much of the folder's path of a test is that of the package."""
    room = (
        package.replace(".", "/").replace("cascade_core", "unit").replace("cascade_client", "services/client")
    )
    parts, folder = room.split("/"), test.removeprefix("tests/").split("/")[:-1]
    common = 0
    for one, other in zip(parts, folder, strict=False):
        if one != other:
            break
        common += 1
    return common / max(len(parts), 1)


def apply(tree: Path, mutant: Mutant) -> bool:
    """False: the line is not there."""
    path = tree / mutant.path
    lines = path.read_text().split("\n")
    index = mutant.line - 1
    if index >= len(lines) or lines[index] != mutant.before:
        return False
    lines[index] = mutant.after
    path.write_text("\n".join(lines))
    return True


def run(root: Path, mutant: Mutant, timeout_s: float, marks: str) -> Mutant:
    """With its verdict."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = Path(folder) / "tree"
        skip = shutil.ignore_patterns(
            ".git", ".venv", "node_modules", "out", ".*_cache", "__pycache__", "build"
        )
        shutil.copytree(root, tree, ignore=skip)
        if not apply(tree, mutant):
            return replace(mutant, verdict="not there")
        verdict, by = judge(tree, tests_for(root, mutant.path), timeout_s, marks)
    return replace(mutant, verdict=verdict, by=by, seconds=round(time.monotonic() - start, 1))


def judge(tree: Path, tests: list[str], timeout_s: float, marks: str) -> tuple[str, str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", marks, *tests]
    env = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=tree,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return "undecided", "no end in time"
    if process.returncode in (0, 5):
        return "survived", f"{len(tests)} files"
    found = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.M)
    return "killed", found[0] if found else output.strip().split("\n")[-1][:120]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--number", type=int, default=60, help="of mutants")
    parser.add_argument("--seed", type=int, default=1, help="of the choice")
    parser.add_argument("--jobs", type=int, default=2, help="at once")
    parser.add_argument("--timeout-s", type=float, default=400, help="for one mutant; beyond it: undecided")
    parser.add_argument("--marks", default="not slow", help="pytest's -m")
    parser.add_argument("--list", type=Path, help="JSON of an earlier run: its mutants again")
    parser.add_argument("--only", default="", help="of these, those with this verdict")
    parser.add_argument("--out", type=Path, default=Path("out/mutants.json"))
    options = parser.parse_args()
    root = Path.cwd()
    if options.list:
        mutants = [Mutant(**row) for row in json.loads(options.list.read_text())]
        mutants = [m for m in mutants if not options.only or m.verdict == options.only]
    else:
        mutants = choose(root, options.number, options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    done: list[Mutant] = []

    def one(mutant: Mutant) -> None:
        verdict = run(root, mutant, options.timeout_s, options.marks)
        done.append(verdict)
        options.out.write_text(json.dumps([asdict(each) for each in done], indent=1))
        place, after = f"{verdict.path}:{verdict.line}", verdict.after.strip()[:90]
        print(
            f"{len(done)}/{len(mutants)} {verdict.verdict} {place} {verdict.kind}: {after} [{verdict.by}]",
            flush=True,
        )

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, mutants))
    killed = sum(mutant.verdict == "killed" for mutant in done)
    print(f"{killed} of {len(done)} killed")


if __name__ == "__main__":
    main()
