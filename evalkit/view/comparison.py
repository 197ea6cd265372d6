"""A comparison as a sheet, JSON and CSV: pure functions, no torch.

The JSON object has the schema "evalkit.comparison/1". Its keys: `schema`, `model`, `suite`,
`baseline` (as asked for), `rows`, `environment`, `runs` (ids), and `margin`, `noise_floor`,
`sentence`, `notes`, `only` (what alone was asked for; empty for everything), `equal_bytes`. A row
has `variant` (as asked for), `resolved`, `status`, `message`, `kernel`, `metrics`, and `verdict`,
`slices` (the metrics text by text), `notes`, `runs`, with `--decompose` also `decomposition`. A
row's verdict has
`word`, the `metric` that it rests on, its `claim` ("these tokens", "more of the same documents",
"texts like this", "items like these"), `evidence` (lines, strongest first), `is_beyond_margin`,
`items_needed` and the names of all metrics that were `judged`. A metric has `value`, `unit`, `n`,
`low`, `high`, `delta`, `delta_low`, `delta_high`, `verdict` (a word), `claim`, `direction`,
`details`. One that stopped when it was decided has `decided` too: `items`, `of`,
`valid`; its difference and bounds are then those of the sequence, and `details.ordinary` is what
one look would have given.
`details.notes` of a task's score lists what changed its measurement (prompts cut to the context,
another few-shot split, items left out); it is absent where nothing did. `notes` of the row holds
those lines too, each after the name of its task.
`equal_bytes` has `rows`, the formats from the smallest up: `label`, `variants` (those of several
calibration seeds are one format), `bytes`, `bits_per_weight`, `bits_per_quantized_weight`, `kl` in
nats with `low` and `high`, `kl_least` and `kl_most` over seeds, `place` ("front", "tied",
"dominated") and the `other` that decides it; and `pairs`: `variant`, `other`, and `delta`, `low`,
`high` of the first's KL less the second's, paired by tokens.
`decomposition` has `weights`, `served`, `difference` and `direct`, each `value`, `low`, `high` in
nats, `tokens`, `dtype` (the baseline's arithmetic), `kernel`, `noise_floor`, and `reason` where
nothing could be measured (docs/decompose.md).
What was not measured is absent or null, never zero; NaN and infinity are null.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from evalkit import numbers
from evalkit.paths import called, called_words
from evalkit.records import Column, Comparison, Environment, Row, Value
from evalkit.view.cells import (
    against_baseline,
    baseline_row,
    failed,
    has,
    label,
    main_grid,
    slice_grid,
)
from evalkit.view.decomposition import TITLE as DECOMPOSITION
from evalkit.view.decomposition import decomposition_grid
from evalkit.view.equal_bytes import TITLE as EQUAL_BYTES
from evalkit.view.equal_bytes import equal_bytes_grid
from evalkit.view.export import csv_text, finite, json_text
from evalkit.view.sheet import Sheet

SCHEMA = "evalkit.comparison/1"
CSV_COLUMNS = (
    "variant", "resolved", "status", "message", "kernel", "slice", "metric", "value", "unit", "n",
    "low", "high", "delta", "delta_low", "delta_high", "verdict", "claim",
)  # fmt: skip
_STATUSES = {"running": "interrupted"}


def sheet(comparison: Comparison) -> Sheet:
    """Header, table, texts one by one, formats by bytes, recommendation and remarks."""
    further = (
        ("text by text", slice_grid(comparison)),
        (EQUAL_BYTES, equal_bytes_grid(comparison)),
        (DECOMPOSITION, decomposition_grid(comparison)),
    )
    return Sheet(
        title="Comparison",
        heading=header_pieces(comparison),
        grid=main_grid(comparison),
        remarks=remarks(comparison),
        further=[(title, grid) for title, grid in further if grid is not None],
        sentence=comparison.sentence,
    )


def to_json(comparison: Comparison) -> str:
    """One object (see the module's docstring)."""
    environment = comparison.environment
    return json_text({
        "schema": SCHEMA,
        "model": dataclasses.asdict(comparison.model),
        "suite": {**dataclasses.asdict(comparison.suite), "id": comparison.suite.id},
        "baseline": comparison.baseline,
        "rows": [_json_row(row) for row in comparison.rows],
        "environment": dataclasses.asdict(environment) if environment else None,
        "runs": list(dict.fromkeys(run for row in comparison.rows for run in row.runs)),
        "margin": comparison.margin,
        "noise_floor": comparison.noise_floor,
        "sentence": comparison.sentence,
        "notes": comparison.notes,
        "only": comparison.only,
        "equal_bytes": dataclasses.asdict(comparison.equal_bytes),
    }, ascii_only=True)  # fmt: skip


def to_csv(comparison: Comparison) -> str:
    """One line a variant and metric; lines with a `slice` are of one text.

    A variant without any metric has one line with its status and message.
    """
    return csv_text(CSV_COLUMNS, [line for row in comparison.rows for line in _csv_lines(row)])


def header_pieces(comparison: Comparison) -> list[str]:
    """Model, parameters, device, suite and baseline in a few words each."""
    model, suite = comparison.model, comparison.suite
    pieces = [numbers.clean(called(model.name))]
    if model.weights == "random":
        pieces.append("random weights")
    if model.parameters:
        pieces.append(f"{numbers.count(model.parameters)} parameters")
    if comparison.environment is not None:
        pieces.append(_device(comparison.environment))
    pieces.append(f"suite {numbers.clean(suite.name)}{_amount(comparison)}")
    if suite.texts:
        pieces.append(f"{suite.convention} windows of {suite.context}")
    pieces.append(f"baseline {numbers.clean(called_words(comparison.baseline))}")
    return pieces


def remarks(comparison: Comparison) -> list[str]:
    """One line each: kernels that ran, what was not measured and why, notes, where results are."""
    ran = [
        f"{numbers.clean(row.variant.text)} {numbers.clean(row.kernel)}"
        for row in comparison.rows
        if row.kernel
    ]
    found = [f"ran: {' · '.join(ran)}"] if ran else []
    found += _claims(comparison)
    found += _evidence(comparison)
    found += not_measured(comparison)
    found += [
        f"{label(row)}: {failed(row)}"
        for row in comparison.rows
        if row.metrics and row.status != "ok"
    ]
    found += [f"note: {numbers.clean(note)}" for note in comparison.notes]
    found += _row_notes(comparison)
    if comparison.store:
        found.append(f"results: {numbers.clean(comparison.store)}")
    return found


def _claims(comparison: Comparison) -> list[str]:
    """A line with what the intervals of the columns speak of."""
    claims: dict[str, list[str]] = {}
    for column in comparison.columns:
        found = [row.metrics[column.metric].claim for row in comparison.rows
                 if has(row.metrics, column.metric)]  # fmt: skip
        if found and found[0]:
            title = numbers.clean(column.title).partition(",")[0]
            claims.setdefault(numbers.clean(found[0]), []).append(title)
    said = [f"{', '.join(titles)}: {claim}" for claim, titles in claims.items()]
    return [f"intervals are about: {' · '.join(said)}"] if said else []


def _evidence(comparison: Comparison) -> list[str]:
    """For each variant that was judged, the evidence of its verdict."""
    return [
        f"{label(row)}, {row.verdict.word}: {numbers.clean('; '.join(row.verdict.evidence))}"
        for row in comparison.rows
        if row.status == "ok" and row.verdict.metric
    ]


def _row_notes(comparison: Comparison) -> list[str]:
    """The notes of the rows, each once with the rows that it is about."""
    about: dict[str, list[Row]] = {}
    for row in comparison.rows:
        for note in dict.fromkeys(map(numbers.clean, row.notes)):
            about.setdefault(note, []).append(row)
    every = len(comparison.rows) if len(comparison.rows) > 1 else 0
    return [
        f"note on {'every row' if len(rows) == every else _names(rows)}: {note}"
        for note, rows in about.items()
    ]


def not_measured(comparison: Comparison) -> list[str]:
    """Lines naming the metrics that variants without a failure do not have, with the reason."""
    rows = [row for row in comparison.rows if row.status == "ok"]
    gaps: dict[tuple[str, str], list[str]] = {}
    for column in (column for column in comparison.columns if column.asked):
        missing = [row for row in rows if _lacks(comparison, row, column)]
        if missing:
            whose = "" if len(missing) == len(rows) else _names(missing)
            gaps.setdefault((whose, _reason(comparison, missing[0], column)), []).append(
                _short(column)
            )
    unasked = [_short(column) for column in comparison.columns if not column.asked]
    only = f"not asked for: {', '.join(unasked)} (--only {','.join(comparison.only)})"
    return [only] * bool(unasked) + [
        f"not measured{f' for {whose}' if whose else ''}: {', '.join(titles)}"
        f"{f' ({reason})' if reason else ''}"
        for (whose, reason), titles in gaps.items()
    ]


def _short(column: Column) -> str:
    return numbers.clean(column.title).partition(",")[0]


def _lacks(comparison: Comparison, row: Row, column: Column) -> bool:
    own = row is baseline_row(comparison)
    return not has(row.metrics, column.metric) and not (own and against_baseline(column))


def _names(rows: Iterable[Row]) -> str:
    return ", ".join(label(row) for row in rows)


def _reason(comparison: Comparison, row: Row, column: Column) -> str:
    metric = column.metric
    stated = row.metrics[metric].details.get("reason") if metric in row.metrics else None
    if stated:
        return numbers.clean(str(stated))
    if column.measured_on == "tasks" and not comparison.suite.tasks:
        return "the suite has no tasks"
    if column.measured_on == "texts" and not comparison.suite.texts:
        return "the suite has no text"
    if column.measured_on != "model" and comparison.model.weights == "random":
        return "random weights"
    return ""


def _amount(comparison: Comparison) -> str:
    rows = [row for row in comparison.rows if row.status == "ok"]
    tokens = max((r.metrics["perplexity"].n for r in rows if "perplexity" in r.metrics), default=0)
    words = [f"{numbers.count(tokens)} tokens"] if tokens else []
    tasks = len(comparison.suite.tasks)
    if tasks:
        limits = {task.limit for task in comparison.suite.tasks}
        each = limits.pop() if len(limits) == 1 else None
        words.append(f"{tasks} task{'s' * (tasks > 1)}" + (f" of {each:,} items" if each else ""))
    return f": {', '.join(words)}" if words else ""


def _device(environment: Environment) -> str:
    if environment.device == "cpu":
        return f"CPU {environment.threads} thread{'s' * (environment.threads != 1)}"
    # The machine's name ends with the GPU and, in brackets, its hash.
    gpu = environment.machine.rpartition(" [")[0].rpartition(", ")[2]
    return numbers.clean(f"{environment.device} {gpu}")


def _head(row: Row) -> dict[str, Any]:
    return {
        "variant": row.variant.label,
        "resolved": row.variant.text,
        "status": _STATUSES.get(row.status, row.status),
        "message": row.message,
        "kernel": row.kernel,
    }


def _json_row(row: Row) -> dict[str, Any]:
    return (
        _head(row)
        | {
            "metrics": _metrics(row.metrics),
            "verdict": dataclasses.asdict(row.verdict),
            "slices": {name: _metrics(metrics) for name, metrics in row.slices.items()},
            "notes": row.notes,
            "runs": row.runs,
        }
        | _decomposition(row)
    )


def _decomposition(row: Row) -> dict[str, Any]:
    """Weights and kernel apart, where that was asked for."""
    found = row.decomposition
    return {} if found is None else {"decomposition": dataclasses.asdict(found)}


def _metrics(metrics: Mapping[str, Value]) -> dict[str, Any]:
    return {name: dataclasses.asdict(value) | _decided(value) for name, value in metrics.items()}


def _decided(value: Value) -> dict[str, Any]:
    """After how many items a metric was decided that stopped early; nothing of any other."""
    return {"decided": value.details["decided"]} if "decided" in value.details else {}


def _csv_lines(row: Row) -> Iterator[dict[str, Any]]:
    slices = [("", row.metrics), *row.slices.items()]
    lines = [line for name, metrics in slices for line in _csv_values(name, metrics)]
    for line in lines or [{}]:
        yield _head(row) | line


def _csv_values(name: str, metrics: Mapping[str, Value]) -> Iterable[dict[str, Any]]:
    for metric, value in metrics.items():
        fields = finite(dataclasses.asdict(value))
        del fields["details"], fields["direction"]
        yield {"slice": name, "metric": metric} | fields
