"""A damage map as table, JSON, CSV, DataFrame and chart."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import warnings
from pathlib import Path

import pytest

from evalkit.errors import EvalkitError
from evalkit.records.decomposition import Divergence
from evalkit.records.sensitivity import Piece, Sensitivity
from evalkit.store.store import Store
from evalkit.view import render
from evalkit.view.charts import draw
from evalkit.view.charts.canvas import image
from evalkit.view.charts.sensitivity.heat_map import kinds_of, layers_of
from evalkit.view.report import stored_report
from evalkit.view.sensitivity import SHOWN, Maps, heading
from tests.view import charted


def piece(layer: int | None, kind: str, kl: float, **more: object) -> Piece:
    name = kind if layer is None else f"model.layers.{layer}.{kind}"
    known = {"low": 0.8 * kl, "high": 1.2 * kl, "perplexity_delta": kl, "bytes": 100,
             "bytes_saved": 300, "modules": (name,), "tokens": 640}  # fmt: skip
    return Piece(name=name, kind=kind, layer=layer, kl=kl, **{**known, **more})


PIECES = (
    piece(1, "mlp.down_proj", 0.2, control=0.05, gradient=0.1),
    piece(0, "self_attn.q_proj", 0.1, control=0.1, perplexity_delta=-0.3),
    piece(None, "kv_cache", 0.01, bytes=None, bytes_saved=None),
    piece(0, "mlp.down_proj", 1e-7, low=-1e-7, high=3e-7),
)
FOUND = Sensitivity(
    "demo", "fp16", "int4@rtn", "module", "swap", "swaps", 640, Divergence(0.3, 0.2, 0.4), 1.03,
    2e-7, PIECES, baseline_perplexity=9.0, texts=("town",), convention="document, context 512",
    claim="texts like this", rank_correlation=0.8, notes=("a note",), id="s1",
)  # fmt: skip


def test_the_table_says_the_worst_first_and_what_sum_and_control_mean() -> None:
    lines = render(FOUND, width=100).splitlines()
    assert "int4@rtn" in lines[0] and "640 tokens of town" in " ".join(lines[:3])
    names = [line.split("  ")[0] for line in lines if line.startswith(("layer", "kv_cache"))]
    assert names == ["layer 1 mlp.down_proj", "layer 0 self_attn.q_proj", "kv_cache",
                     "layer 0 mlp.down_proj"]  # fmt: skip
    text = "\n".join(lines)
    assert "better rounding" in text and "more bits" in text
    assert "sum of the pieces / whole = 1.03" in text and "rank correlation of 0.80" in text
    assert "all together" in text and "noise floor" in text and "− 0.30" in text


def test_paths_are_called_by_their_last_part() -> None:
    variant = "int4@gptq,calibration=/a/long/way/c4.txt"
    found = dataclasses.replace(FOUND, model="/a/long/way/smollm2", variant=variant)
    assert heading(found)[:2] == ["smollm2", "int4@gptq,calibration=c4.txt"]


@pytest.mark.parametrize("width", [60, 80, 120, None])
def test_no_line_is_wider_than_the_terminal(width: int | None) -> None:
    lines = render(FOUND, width=width).splitlines()
    assert width is None or max(map(len, lines)) <= width


def test_json_has_the_documented_fields_and_csv_a_line_a_piece() -> None:
    found = json.loads(render(FOUND, "json"))
    assert found["schema"] == "evalkit.sensitivity/1"
    assert found["whole"] == {"kl": 0.3, "low": 0.2, "high": 0.4}
    first = found["pieces"][0]
    assert {"name", "kind", "layer", "kl", "low", "high", "perplexity_delta", "bytes",
            "bytes_saved"} <= first.keys()  # fmt: skip
    assert first["damage_per_byte"] == pytest.approx(0.2 / 300)
    assert found["pieces"][2]["bytes"] is None and found["pieces"][2]["damage_per_byte"] is None
    rows = list(csv.DictReader(io.StringIO(render(FOUND, "csv"))))
    assert [row["name"] for row in rows] == [one.name for one in PIECES]
    both = json.loads(render(Maps((FOUND, FOUND)), "json"))
    assert both["schema"] == found["schema"] and len(both["maps"]) == 2
    assert render(Maps((FOUND, FOUND))).count("all together") == 2


def test_a_notebook_shows_it_and_gives_numbers() -> None:
    assert "<table" in FOUND._repr_html_()
    frame = FOUND.frame()
    assert frame.loc["kv_cache", "kl"] == 0.01 and len(frame) == len(PIECES)


def test_many_pieces_are_cut_and_counted() -> None:
    many = tuple(piece(i, "mlp", 0.1 / (i + 1)) for i in range(SHOWN + 5))
    text = render(Sensitivity(**{**vars(FOUND), "pieces": many}))
    assert f"{SHOWN} of {SHOWN + 5} pieces are shown" in text


def test_the_heat_map_has_layers_across_and_kinds_down_and_hatches_noise() -> None:
    assert kinds_of(FOUND) == ["self_attn.q_proj", "mlp.down_proj", "kv_cache"]
    assert layers_of(FOUND) == [0, 1, None]
    figure = draw("heat_map", FOUND)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.draw_without_rendering()
    (hatched,) = (one for one in figure.axes[0].patches if one.get_hatch())
    assert hatched.get_xy() == (0, 1)
    assert "Most harmful: layer 1 mlp.down_proj 0.2" in figure.description
    assert image(figure, "svg").startswith(b"<?xml")
    nothing = Sensitivity(**{**vars(FOUND), "pieces": (piece(0, "mlp", 0.0),)})
    with pytest.raises(EvalkitError, match="no piece causes a divergence"):
        draw("heat_map", nothing)


def test_a_report_shows_the_stored_maps_of_its_own_model_and_variants(tmp_path: Path) -> None:
    comparison = charted.full()
    comparison = dataclasses.replace(comparison, store=str(tmp_path))
    store, identity = Store(tmp_path).prepare(), comparison.model.identity
    variant = comparison.rows[-1].variant.label
    mine = dataclasses.replace(FOUND, variant=variant, identity=identity, id="mine")
    store.save_sensitivity(mine)
    store.save_sensitivity(dataclasses.replace(mine, identity="another", id="other"))
    store.save_sensitivity(dataclasses.replace(mine, variant="int2", id="third"))
    page = stored_report(comparison)
    assert "heat_map-mine" in page and "Most harmful: layer 1 mlp.down_proj" in page
    assert "heat_map-other" not in page and "heat_map-third" not in page
