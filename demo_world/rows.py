"""What was measured of each clip, a line of JSON once it is done: an evaluation goes on from there."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from cascade_core.config import ModelCard
from cascade_core.errors import InvalidConfig
from cascade_core.weights.locate import locate

Row = dict[str, Any]
FORM = 2
"""Goes up when takes or rows become different ones."""


class Rows:
    """A file of rows; the first line says which model they are of."""

    def __init__(self, path: Path, rows: dict[tuple[str, str], dict[int, Row]]) -> None:
        self._path = path
        self._rows = rows

    @classmethod
    def open(cls, path: Path, model: Mapping[str, Any]) -> Self:
        """An old file or a new one. Raises InvalidConfig for one of another model."""
        if not path.exists():
            path.write_text(json.dumps(model) + "\n")
        rows = cls(path, {})
        lines = rows._read()
        if next(lines, None) != model:
            raise InvalidConfig(
                f"--json: {path} holds clips of another model, or of another version of this command; "
                "remove it, or name another file"
            )
        for row in lines:
            rows._keep(row)
        return rows

    def add(self, configuration: str, batch: str, number: int, row: Row) -> None:
        row = {"configuration": configuration, "batch": batch, "number": number} | row
        self._keep(row)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def of(self, configuration: str, batch: str) -> Mapping[int, Row]:
        """By number."""
        return self._rows.get((configuration, batch), {})

    def _keep(self, row: Row) -> None:
        self._rows.setdefault((row["configuration"], row["batch"]), {})[row["number"]] = row

    def _read(self) -> Iterator[Row]:
        """All whole lines; what a sudden end left of the last is cut off."""
        text = self._path.read_text()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            self._path.write_text(whole)
        return map(json.loads, whole.splitlines())


def identify(card: ModelCard, weights: str | None) -> dict[str, Any]:
    """Which model the rows are of: the card and a digest of all its files. Raises WeightsError."""
    files = locate(card, weights)
    digest = hashlib.sha256(repr(card).encode())
    for part in (files.transformer, files.vae, files.text_encoder, files.tokenizer):
        if part:
            for file in sorted(part.rglob("*")):
                digest.update(file.read_bytes())
    return {"form": FORM, "model": card.name, "digest": digest.hexdigest()[:16]}
