"""A damage map as a picture: layers across, kinds of module down, and the worst pieces in order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from evalkit.records.sensitivity import Piece, Sensitivity
from evalkit.view.charts.canvas import (
    HEIGHT,
    Chart,
    chart,
    finish,
    logarithmic,
    not_measured,
    page,
    power,
    titled,
)
from evalkit.view.charts.variants import INK, MUTED, PAPER, drawable
from evalkit.view.sensitivity import heading, label

WORST = 12
LONGEST = 26
_COLOURS = "YlOrRd"
_OUTSIDE = "all"


@chart(place=10)
def heat_map(found: Sensitivity) -> Chart:
    """Divergence of each piece by layer and kind, and the most harmful ones with their intervals.

    Pieces that are not told from the noise floor are hatched. Raises EvalkitError where nothing
    causes a divergence.
    """
    shown = [piece for piece in found.pieces if piece.kl > 0]
    if not shown:
        raise not_measured("no piece causes a divergence", "give --tokens more of the text")
    kinds, layers = kinds_of(found), layers_of(found)
    height = max(HEIGHT, 2.4 + 0.36 * len(kinds))
    ratios = [2.1, 1] if len(layers) > 1 else [1, 1.6]
    figure, (left, right) = page(
        heading(found), "Damage map: where divergence comes from", columns=2, height=height,
        width_ratios=ratios,
    )  # fmt: skip
    mesh = _cells(left, found, kinds, layers)
    bar = figure.colorbar(mesh, ax=left, location="bottom", aspect=40, use_gridspec=False)
    bar.set_label("KL divergence, nats a token (darker is worse)")
    logarithmic(bar.ax.xaxis)
    _worst(right, shown[:WORST])
    notes = [
        "Hatched: within the noise floor. White: not exchanged, as the weights are equal there."
        " Lines: 95 % intervals.",
        f"Not measured: {', '.join(found.unmeasured)}." if found.unmeasured else "",
    ]
    said = [f"{drawable(label(piece))} {power(float(f'{piece.kl:.2g}'))}" for piece in shown[:3]]
    return finish(figure, notes, f"Most harmful: {', '.join(said)} nats.")


def kinds_of(found: Sensitivity) -> list[str]:
    """The kinds of the pieces, as they come in a layer; what lies in no layer stands last."""
    order = sorted(found.pieces, key=lambda piece: (piece.layer is None, piece.layer or 0))
    return list(dict.fromkeys(piece.kind for piece in order))


def layers_of(found: Sensitivity) -> list[int | None]:
    """The layers from the first on; None at the end for pieces that are of none, or of several."""
    layers: set[int] = {piece.layer for piece in found.pieces if piece.layer is not None}
    outside = any(piece.layer is None for piece in found.pieces)
    return [*(range(max(layers) + 1) if layers else ()), *([None] if outside else ())]


def is_noise(piece: Piece, floor: float | None) -> bool:
    """Whether the divergence of a piece is not told from the noise floor."""
    return piece.low <= (floor or 0.0)


def _cells(
    axes: Axes, found: Sensitivity, kinds: Sequence[str], layers: Sequence[int | None]
) -> QuadMesh:
    values = np.full((len(kinds), len(layers)), np.nan)
    for piece in found.pieces:
        row, column = kinds.index(piece.kind), layers.index(piece.layer)
        least = min(one.kl for one in found.pieces if one.kl > 0)
        values[row, column] = max(piece.kl, least)
        if is_noise(piece, found.noise_floor):
            axes.add_patch(Rectangle((column, row), 1, 1, fill=False, hatch="///",
                                     edgecolor=MUTED, linewidth=0))  # fmt: skip
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    norm = LogNorm(low, max(high, 1.01 * low))
    mesh = axes.pcolormesh(values, norm=norm, cmap=_COLOURS, edgecolor=PAPER, linewidth=1)
    axes.set_ylim(len(kinds), 0)
    axes.set_yticks(np.arange(len(kinds)) + 0.5, [_short(kind) for kind in kinds])
    step = max(1, len(layers) // 12)
    marked = [i for i, layer in enumerate(layers) if layer is None or not layer % step]
    words = [_OUTSIDE if layers[i] is None else str(layers[i]) for i in marked]
    axes.set_xticks([i + 0.5 for i in marked], words)
    axes.tick_params(length=0)
    outside = f" ({_OUTSIDE}: of none, or of several)" if None in layers else ""
    titled(axes, "by layer and kind", f"layer{outside}")
    return mesh


def _worst(axes: Axes, pieces: Sequence[Piece]) -> None:
    places = range(len(pieces))
    least = min(piece.kl for piece in pieces)
    for place, piece in zip(places, pieces, strict=True):
        axes.plot([max(piece.low, least / 3), piece.high], [place, place], color=MUTED, linewidth=2)
        axes.plot(piece.kl, place, marker="o", color=INK, markersize=6)
    axes.set_yticks(places, [_piece_name(piece) for piece in pieces])
    axes.set_ylim(len(pieces) - 0.4, -0.6)
    axes.tick_params("y", length=0, labelsize=9.5)
    axes.set_xscale("log")
    # The panel is narrow: in between, numbers such as 2·10⁻⁵ would run into each other.
    logarithmic(axes.xaxis, between=10)
    axes.grid(True, axis="x")
    titled(axes, "most harmful", "nats a token")


def _piece_name(piece: Piece) -> str:
    """The label of a piece; of a long one its layer and the module's own name."""
    name = drawable(label(piece))
    if len(name) <= LONGEST or piece.layer is None:
        return _short(name)
    return _short(f"layer {piece.layer} {drawable(piece.kind.rpartition('.')[2])}")


def _short(name: str) -> str:
    """The end of a name, which tells modules apart."""
    name = drawable(name)
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"
