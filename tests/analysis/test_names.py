"""What rows are called: short names that differ, whatever their options hold."""

from __future__ import annotations

import pytest

from evalkit.analysis.names import distinct_labels, name_in_words
from evalkit.backends import label
from evalkit.paths import called, called_words
from evalkit.records import Row, Variant


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("/data/models/SmolLM2-135M/", "SmolLM2-135M"),
        ("./stories260k", "stories260k"),
        ("~/a.gguf", "a.gguf"),
        ("C:\\models\\m", "m"),
        ("org/model", "org/model"),
        ("one/two/three", "three"),
        ("demo", "demo"),
        ("http://host:8000/v1", "http://host:8000/v1"),
        ("/", "/"),
    ],
)
def test_a_path_is_called_by_its_last_part(reference: str, name: str) -> None:
    assert called(reference) == name


def test_a_variant_in_words_keeps_all_but_the_folders() -> None:
    asked = "int4@gptq,calibration=/a/long path/text.txt,group_size=64"
    assert called_words(asked) == "int4@gptq,calibration=text.txt,group_size=64"


def _gptq(path: str) -> Variant:
    asked = f"int4@gptq,calibration={path}"
    return Variant("int4", "gptq", (("calibration", path), ("group_size", 64)), asked=asked)


def test_labels_hold_no_folders_unless_these_tell_rows_apart() -> None:
    one, other = _gptq("/a/long/way/text.txt"), _gptq("/b/long/path/text.txt")
    assert label(one) == "int4 GPTQ text.txt g64"
    assert label(Variant("checkpoint", "checkpoint", checkpoint="/m/int4-g64")) == "int4-g64"
    rows = [(variant, label(variant)) for variant in (one, other)]
    assert distinct_labels(rows) == ["int4 GPTQ way/text.txt g64", "int4 GPTQ path/text.txt g64"]
    assert distinct_labels(rows[:1]) == ["int4 GPTQ text.txt g64"]
    assert distinct_labels([rows[0], rows[0]])[0] == distinct_labels([rows[0], rows[0]])[1]


def test_a_sentence_names_a_row_by_few_words() -> None:
    long = _gptq("/a/long/way/text.txt")
    assert name_in_words(Row(long, "ok", label=label(long))) == "int4 GPTQ text.txt g64"
    assert name_in_words(Row(long, "ok")) == "int4@gptq,calibration=text.txt"
    assert name_in_words(Row(Variant("int8", "x", asked="int8"), "ok", label="int8 X")) == "int8"
