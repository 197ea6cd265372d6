"""A damage map as a sheet, JSON and CSV: pure functions of a Sensitivity.

The JSON object has the schema "evalkit.sensitivity/1": `model`, `baseline`, `variant`, `by`
(layer, module, kind), `direction` (swap, restore), `method` (swaps, gradient), `tokens`, `whole`
with `kl`, `low` and `high` in nats a token, `additivity`, `noise_floor`, and in `pieces`, the most
harmful first, one object a piece with the fields of the record, `damage_per_byte` among them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from evalkit import numbers
from evalkit.analysis.sensitivity import additivity_words, control_words
from evalkit.paths import called, called_words
from evalkit.records.sensitivity import SCHEMA, Piece, Sensitivity
from evalkit.view.cells import Grid, Line
from evalkit.view.export import csv_text, json_text
from evalkit.view.sheet import Sheet, sheet_text


@dataclass(frozen=True)
class Maps:
    """The damage maps of several variants of one model."""

    items: tuple[Sensitivity, ...]


# More would scroll by; JSON, CSV and the chart have all.
SHOWN = 40
_MEGA = 1e6


def sheet(found: Sensitivity) -> Sheet:
    """Heading, the most harmful pieces, whole against sum, and how it was measured."""
    return Sheet("Damage map", heading(found), _grid(found), _remarks(found))


def to_json(found: Sensitivity) -> str:
    """One object (see the module's docstring)."""
    return json_text({"schema": SCHEMA, **content(found)})


def maps_to_text(found: Maps) -> str:
    """One map after the other."""
    return "\n".join(sheet_text(sheet(one)) for one in found.items)


def maps_to_json(found: Maps) -> str:
    """One object of the same schema with the maps in `maps`."""
    return json_text({"schema": SCHEMA, "maps": [content(one) for one in found.items]})


def content(found: Sensitivity) -> dict[str, Any]:
    """The fields of the object without its schema."""
    fields = dataclasses.asdict(found)
    whole = found.whole
    fields["whole"] = whole and {"kl": whole.value, "low": whole.low, "high": whole.high}
    fields["pieces"] = [_fields(piece) for piece in found.pieces]
    return fields


def to_csv(found: Sensitivity) -> str:
    """One line a piece, with the columns of the JSON."""
    listed = rows(found)
    return csv_text(list(listed[0]), listed)


def rows(found: Sensitivity) -> list[dict[str, Any]]:
    """The fields of each piece, its modules in one word."""
    return [_fields(piece) | {"modules": " ".join(piece.modules)} for piece in found.pieces]


def heading(found: Sensitivity) -> list[str]:
    """Model, variant, what is exchanged, and on how much text."""
    way = "put alone into" if found.direction == "swap" else "restored from"
    how = f"one {found.by} of it {way} {found.baseline}"
    if found.method == "gradient":
        how = f"predicted by squared gradients, by {found.by}"
    return [
        numbers.clean(called(found.model)),
        numbers.clean(called_words(found.variant)),
        how,
        f"{found.tokens:,} tokens of {numbers.clean(', '.join(found.texts))}",
    ]


def _fields(piece: Piece) -> dict[str, Any]:
    return dataclasses.asdict(piece) | {"damage_per_byte": piece.damage_per_byte}


def label(piece: Piece) -> str:
    """What tables and charts call a piece: a module by its layer and kind, which is shorter."""
    in_layer = piece.layer is not None and piece.kind != "layer"
    return numbers.clean(f"layer {piece.layer} {piece.kind}" if in_layer else piece.name)


def _grid(found: Sensitivity) -> Grid:
    controlled = any(piece.control is not None for piece in found.pieces)
    restored = found.direction == "restore"
    titles = ["KL fall by restoring" if restored else "KL, nats a token"]
    titles += ["KL of noise", "needs"] if controlled else []
    titles += ["perplexity", "bytes saved", "KL a MB saved"]
    lines = [Line(label(piece), tuple(_cells(piece, controlled))) for piece in found.pieces[:SHOWN]]
    if found.whole is not None:
        whole = _interval(found.whole.value, found.whole.low, found.whole.high)
        lines.append(Line("all together", (whole, *[""] * (len(titles) - 1)), finding="baseline"))
    if found.noise_floor is not None:
        floor = numbers.small(found.noise_floor)
        lines.append(Line("noise floor", (floor, *[""] * (len(titles) - 1)), finding="noise"))
    return Grid(tuple(titles), tuple(lines))


def _cells(piece: Piece, controlled: bool) -> Iterator[str]:
    yield _interval(piece.kl, piece.low, piece.high)
    if controlled:
        noise = piece.control
        yield numbers.MISSING if noise is None else _nats(noise)
        yield numbers.MISSING if noise is None else control_words(piece.kl, noise)
    delta = piece.perplexity_delta
    change = numbers.MISSING
    if delta is not None:
        change = numbers.signed(delta, numbers.places(abs(delta), 2))
    yield change
    saved, each = piece.bytes_saved, piece.damage_per_byte
    yield numbers.MISSING if saved is None else numbers.byte_size(saved)
    yield numbers.MISSING if each is None else _nats(each * _MEGA)


def _interval(value: float, low: float, high: float) -> str:
    return f"{_nats(value)} [{_nats(low)}, {_nats(high)}]"


def _nats(value: float) -> str:
    """A divergence, which restored may be negative: "0.0123", "− 2.0e-05"."""
    return (f"{numbers.MINUS} " if value < 0 else "") + numbers.small(abs(value))


def _remarks(found: Sensitivity) -> list[str]:
    lines = []
    if len(found.pieces) > SHOWN:
        lines.append(f"{SHOWN} of {len(found.pieces)} pieces are shown: --format json has all")
    if found.method == "swaps":
        lines.append(additivity_words(found.additivity))
    if any(piece.control is not None for piece in found.pieces):
        lines.append(
            "KL of noise: Gaussian noise as large as the piece's error at every token. A piece that"
            " costs as much needs more bits, one that costs much more needs better rounding"
        )
    if found.rank_correlation is not None:
        lines.append(
            "squared gradients and swaps order the pieces alike to a rank correlation of"
            f" {found.rank_correlation:.2f}"
        )
    elif found.method == "gradient":
        lines.append("how far to trust this order: run the same with --method swaps, then again")
    if found.unmeasured:
        lines.append(f"not measured: {', '.join(found.unmeasured)}")
    if not found.complete:
        lines.append("the time was up before all was measured: the same command goes on from here")
    lines.append(f"intervals (95 %) speak of {found.claim}; {found.convention}")
    return lines + [numbers.clean(note) for note in found.notes]
