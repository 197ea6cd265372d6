"""A search as table, JSON, CSV and chart."""

from __future__ import annotations

import csv
import io
import json
import warnings
from dataclasses import replace

import pytest

from evalkit.errors import EvalkitError
from evalkit.records import Model, from_json, to_json
from evalkit.records.search import Search
from evalkit.view import render
from evalkit.view.charts import chart_names, draw
from evalkit.view.charts.canvas import image
from evalkit.view.search import sheet
from tests.view.searches import FORMATS, mix, searched


def test_the_table_fits_80_columns_with_every_column() -> None:
    lines = render(searched(), "table", width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("not shown" in line for line in lines)
    (own,) = [line for line in lines if line.startswith("the mix  ")]
    assert own.split() == ["the", "mix", "96.0", "MB", "0.1000"]
    (random,) = [line for line in lines if line.startswith("random (median of 5)")]
    assert random.split()[4:] == [
        "96.0", "MB", "0.2000", "−0.1000", "[−0.1100,", "−0.0900]", "better"
    ]  # fmt: skip
    assert "Use the mix: at equal bytes it is closer." in lines
    text = " ".join(" ".join(lines).split())
    assert "damage scaled by the squared error of the weights: int8,group_size=64" in text
    assert "loads in GPTQModel; not plain transformers" in text
    assert "\x1b" not in text


def test_a_model_is_called_by_its_folder() -> None:
    assert sheet(searched(model=Model("/a/long/way/smollm2", "i"))).heading[0] == "smollm2"


def test_several_budgets_are_told_apart() -> None:
    other = mix(6.0, message="out of memory", held_out=(), advice="Not measured: out of memory.")
    text = render(searched(mix(), other), "table", width=100)
    assert "4.60 bits: Use the mix" in text and "6.00 bits: Not measured: out of memory." in text
    assert "6.00 bits a weight, 96.1 MB at most" in text
    assert not searched(mix(), other).is_whole and searched().is_whole


def test_the_json_has_what_the_schema_says() -> None:
    found = json.loads(render(searched(mix(), mix(6.0)), "json"))
    assert found["schema"] == "evalkit.search/1" and found["model"].startswith("smol")
    assert found["budget_bytes"] == 96_100_000 and found["bytes"] == 96_000_000
    assert found["plan"][0] == {"module": "m0", "format": FORMATS[0], "bytes": 1000}
    first = found["held_out"][0]
    assert {"against", "bytes", "kl", "low", "high"} < first.keys()
    assert first["delta"].keys() == {"value", "low", "high", "verdict"}
    assert found["checkpoint"] and found["loaders"][0] == "GPTQModel" and found["has_gain"]
    assert [one["bits"] for one in found["further"]] == [6.0]
    assert {"predicted_kl", "frontier", "sensitivity_texts", "additivity"} < found.keys()


def test_the_csv_has_a_line_a_rival() -> None:
    rows = list(csv.DictReader(io.StringIO(render(searched(), "csv"))))
    assert [row["kind"] for row in rows] == ["head and tail", "random", "smaller", "larger"]
    assert float(rows[0]["delta_value"]) == pytest.approx(-0.05)
    assert render(searched(mix(held_out=())), "csv").strip() == "budget_bytes,mix_bytes,mix_kl"


def test_it_is_read_back_as_it_was() -> None:
    assert from_json(Search, to_json(searched())) == searched()


def test_the_chart_shows_predicted_and_measured() -> None:
    assert chart_names("search") == ["frontier"]
    figure = draw("frontier", searched())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.draw_without_rendering()
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "best mix, predicted", "uniform, predicted", "the mix", "head and tail", "random",
        "uniform, next smaller", "uniform, next larger",
    ]  # fmt: skip
    assert "96.0 MB: 0.1000 nats, Use the mix" in figure.description
    assert image(figure, "svg").startswith(b"<?xml")
    with pytest.raises(EvalkitError, match="--frontier"):
        draw("frontier", replace(searched(mix(kl=None)), frontier=()))
