"""Mixes under budgets as a sheet, JSON and CSV: pure functions of a Search.

The JSON object has the schema "evalkit.search/1". `budget_bytes`, `bytes`, `bits`, `plan` (one
object a module: `module`, `format`, `bytes`), `predicted_kl`, `kl` with `low` and `high`,
`held_out` (one object a rival: `against`, `kind`, `variant`, `bytes`, `kl`, `low`, `high`, `delta`
with `value`, `low`, `high`, `verdict`, and `has_equal_bytes`), `p_value`, `has_gain`, `advice`,
`checkpoint` and `loaders` are those of the first budget; `further` has the same of each other one.
Bytes are of all weights, divergences in nats a token.
"""

from __future__ import annotations

import dataclasses

from evalkit import numbers
from evalkit.paths import called
from evalkit.records import UNQUANTIZED
from evalkit.records.search import SCHEMA, Difference, FoundMix, Rival, Search
from evalkit.view.cells import Grid, Line
from evalkit.view.export import csv_text, json_text
from evalkit.view.sheet import Sheet

_TITLES = ("size", "KL", "KL of the mix less it", "the mix is")
_KEYS = ("against", "kind", "variant", "bytes", "kl", "low", "high", "has_equal_bytes")


def sheet(found: Search) -> Sheet:
    """A grid for each mix with its rivals, and what to do."""
    grids = [(_title(mix), _rivals(mix)) for mix in found.mixes]
    first, *others = grids
    return Sheet(
        "Search",
        heading(found),
        first[1],
        remarks=_remarks(found),
        preface=[numbers.clean(note) for note in found.notes] + [first[0]],
        further=[*others, ("what each mix is made of", _made_of(found))],
        sentence=" ".join(_advice(mix, several=len(grids) > 1) for mix in found.mixes),
    )


def to_json(found: Search) -> str:
    """One object (see the module's docstring)."""
    fields = dataclasses.asdict(found)
    first, *others = fields.pop("mixes")
    model = fields.pop("model")
    content = {"schema": SCHEMA, "model": model["name"], **first, "further": others, **fields}
    return json_text(content)


def to_csv(found: Search) -> str:
    """One line a rival of each mix."""
    rows = [
        {"budget_bytes": mix.budget_bytes, "mix_bytes": mix.bytes, "mix_kl": mix.kl}
        | {key: getattr(one, key) for key in _KEYS}
        | {f"delta_{key}": value for key, value in dataclasses.asdict(one.delta).items()}
        for mix in found.mixes
        for one in mix.held_out
    ]
    columns = list(rows[0]) if rows else ["budget_bytes", "mix_bytes", "mix_kl"]
    return csv_text(columns, rows)


def heading(found: Search) -> list[str]:
    """Model, formats, and the three texts in a few words each."""
    texts = [
        f"{words} on {numbers.clean(', '.join(names))}"
        for words, names in (
            ("calibrated", found.calibration_texts),
            ("damage", found.sensitivity_texts),
            ("judged", found.evaluation_texts),
        )
        if names
    ]
    return [
        numbers.clean(called(found.model.name)),
        f"{found.backend}: {numbers.clean(' '.join(found.formats))}",
        f"baseline {numbers.clean(found.baseline)}",
        *texts,
    ]


def _title(mix: FoundMix) -> str:
    budget = numbers.byte_size(mix.budget_bytes)
    return f"{numbers.plain(mix.bits, 2)} bits a weight, {budget} at most"


def _rivals(mix: FoundMix) -> Grid:
    if mix.message:
        failed = Line("the mix", message=numbers.clean(mix.message), finding="failed")
        return Grid(_TITLES, (failed,))
    kl = numbers.MISSING if mix.kl is None else numbers.small(mix.kl)
    own = Line("the mix", (numbers.byte_size(mix.bytes), kl, "", ""), finding="baseline")
    return Grid(_TITLES, (own, *map(_rival, mix.held_out)))


def _rival(one: Rival) -> Line:
    cells = (
        numbers.byte_size(one.bytes),
        numbers.small(one.kl),
        difference(one.delta),
        numbers.clean(one.delta.verdict),
    )
    return Line(numbers.clean(one.against), cells, finding=one.delta.verdict)


def difference(delta: Difference) -> str:
    """A difference in nats with its interval: "−0.0200 [−0.0300, −0.0100]"."""
    value, low, high = map(_nats, (delta.value, delta.low, delta.high))
    return f"{value} [{low}, {high}]"


def _nats(value: float) -> str:
    return f"{numbers.MINUS if value < 0 else '+'}{numbers.small(abs(value))}"


def _made_of(found: Search) -> Grid:
    """A column a mix: its divergence, predicted and measured, and its modules by format."""
    mixes = found.mixes
    measured = [numbers.MISSING if mix.kl is None else numbers.small(mix.kl) for mix in mixes]
    predicted = [numbers.small(mix.predicted_kl) for mix in mixes]
    lines = [Line("KL predicted", tuple(predicted)), Line("KL measured", tuple(measured))]
    for name in (*found.formats, UNQUANTIZED):
        counts = [sum(one.format == name for one in mix.plan) for mix in mixes]
        if any(counts):
            cells = (numbers.counted(count, "module") for count in counts)
            lines.append(Line(numbers.clean(name), tuple(cells)))
    return Grid(tuple(f"{numbers.plain(mix.bits, 2)} bits" for mix in mixes), tuple(lines))


def _advice(mix: FoundMix, *, several: bool) -> str:
    return f"{numbers.plain(mix.bits, 2)} bits: {mix.advice}" if several else mix.advice


def _remarks(found: Search) -> list[str]:
    others = [name for name in found.formats if name not in found.swapped]
    lines = [f"damage measured module by module: {', '.join(found.swapped)}"]
    if others:
        lines.append(f"damage scaled by the squared error of the weights: {', '.join(others)}")
    if found.additivity is not None:
        lines.append(
            "the damages of all modules sum to"
            f" {found.additivity:.2f} times that of the whole, by which predictions are divided"
        )
    for mix in found.mixes:
        lines.append(f"plan: {mix.plan_file}")
        if mix.checkpoint:
            lines.append(f"checkpoint: {mix.checkpoint} (loads in {'; '.join(mix.loaders)})")
        lines.append(f"compare it again as {mix.variant}")
    return [numbers.clean(line) for line in lines]
