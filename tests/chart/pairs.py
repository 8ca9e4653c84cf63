"""Few combinations in which every two choices of different switches meet."""

from collections.abc import Mapping, Sequence
from itertools import combinations

Choice = tuple[str, str]
"""(switch, position)."""


def pairwise(switches: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Greedy: each row starts at a pair that no row has yet, and takes what covers most others."""
    missing = {
        frozenset({(one, a), (other, b)})
        for one, other in combinations(switches, 2)
        for a in switches[one]
        for b in switches[other]
    }
    rows = []
    while missing:
        row = fill(dict(min(map(sorted, missing))), switches, missing)
        missing -= pairs(row)
        rows.append(row)
    return rows


def fill(
    row: dict[str, str], switches: Mapping[str, Sequence[str]], missing: set[frozenset[Choice]]
) -> dict[str, str]:
    for name, positions in switches.items():
        if name not in row:
            row[name] = max(positions, key=lambda each: len(missing & pairs({**row, name: each})))
    return row


def pairs(row: Mapping[str, str]) -> set[frozenset[Choice]]:
    return {frozenset(pair) for pair in combinations(row.items(), 2)}
