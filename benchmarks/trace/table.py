"""Traces as Markdown: every figure before and now."""

from collections.abc import Iterator
from typing import Any

from cascade_core.commands.bench import table

Row = dict[str, Any]
FIRST = "before"
MANY, GIGA, TERA, GIB = 1, 10**9, 10**12, 2**30
COLUMNS = {
    "kernels": ("kernels", MANY),
    "casts": ("casts", MANY),
    "elementwise_bytes": ("element-wise GB", GIGA),
    "matmul_flop": ("product TFLOP", TERA),
    "attention_flop": ("attention TFLOP", TERA),
    "collectives": ("collectives", MANY),
    "gathered_bytes": ("gathered GB", GIGA),
    "peak_bytes": ("peak GiB", GIB),
    "waits": ("waits", MANY),
}
"""Name in the JSON: heading, and what one of the table is worth."""
HEAD = """# What a pass asks of a GPU

`python -m benchmarks.trace --write` · counted, not measured: fake CUDA tensors on a machine without a GPU.
{about}

One session in its steady state with a full window, eager, each model at its own size. A row is the
tick of one rank, each figure that of its costliest tick (by pass: `trace.json`). An operator is one kernel;
element-wise is every kernel but products, convolutions and attention, and reads and writes each value once.
Waits: how often the host waits for the device within a tick. Peak: weights, cache and what is held meanwhile.
"""
COMPILED = """
## Compiled

A pass of a block alone, eager → compiled as the engine does: what inductor fuses, by its plans for a CPU,
since it makes none for a GPU where there is none.
"""
DECODERS = """
## Decoders

One latent frame that is not the first: four pictures.
"""
WAITS = "## Where the host waits in a tick"


def render(traces: dict[str, Row], last: str = "now") -> str:
    """A table of the label `last`, with `before` in front where both have a case."""
    shown = traces.get(last) or traces[FIRST]
    first = traces.get(FIRST, {"cases": []})
    about = [
        f"{label}: commit {each['commit']}, {each['date']}, torch {each['torch']}."
        for label, each in traces.items()
    ]
    former = {key(case): case for case in first["cases"]} if shown is not first else {}
    rows = [line(case, former.get(key(case))) for case in shown["cases"]]
    waits = sorted(
        {f"- {wait}" for case in shown["cases"] for tick in case["ticks"] for wait in tick["waits_at"]}
    )
    parts = [HEAD.format(about="\n".join(about)), table(rows)]
    if spared := list(compiled(shown)):
        parts += [COMPILED, table(spared)]
    if decoders := list(map(decoder, shown.get("decoders", []))):
        parts += [DECODERS, table(decoders)]
    return "\n".join([*parts, *(["", WAITS, "", *waits] if waits else [])]) + "\n"


def compiled(shown: Row) -> Iterator[Row]:
    """What compiling takes from the costliest tick of each sequential pipeline."""
    sequential = {(case["model"], form(case)): case for case in shown["cases"] if case["stagger"] > 1}
    for spared in shown.get("compiling_spares", []):
        if case := sequential.get((spared["model"], form(spared))):
            row: Row = {"model": spared["model"], "products in": form(spared)}
            for name in ("kernels", "elementwise_bytes"):
                heading, unit = COLUMNS[name]
                most = max(tick[name] for tick in case["ticks"])
                texts = (
                    figure({"ticks": [{name: value}]}, name, unit) for value in (most, most - spared[name])
                )
                row[heading] = " → ".join(texts)
            yield row


def decoder(row: Row) -> Row:
    size = f"{row['width']}x{row['height']}"
    flop = f"{row['flop'] / TERA:.2f}"
    return {"decoder": row["decoder"], "model": row["model"], "size": size, "TFLOP": flop}


def key(case: Row) -> tuple[object, ...]:
    return case["model"], form(case), case["num_ranks"], case["stagger"], in_flight(case)


def form(case: Row) -> str:
    """What the layers' products are in."""
    return "FP8" if case.get("quantize") == "fp8" else "bfloat16"


def in_flight(case: Row) -> str:
    counted = ", window counts behind" if case.get("window_counts_behind") else ""
    return f"{case['inflight_attention']}{counted}"


def line(case: Row, former: Row | None) -> Row:
    """One row of the table."""
    return {
        "model": case["model"],
        "products in": form(case),
        "ranks": case["num_ranks"],
        "stagger": case["stagger"],
        "in flight": in_flight(case),
    } | dict(cells(case, former))


def cells(case: Row, former: Row | None) -> Iterator[tuple[str, str]]:
    """`before → now`, or one figure where they are the same."""
    for name, (heading, unit) in COLUMNS.items():
        texts = [figure(each, name, unit) for each in (former, case) if each]
        yield heading, " → ".join(dict.fromkeys(texts))


def figure(case: Row, name: str, unit: int) -> str:
    most = max(tick[name] for tick in case["ticks"])
    value = most / unit
    return f"{value:,.0f}" if unit == MANY or not value else f"{value:,.2f}" if value >= 1 else f"{value:.2g}"
