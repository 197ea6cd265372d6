"""Answers in a terminal, as Markdown, in a notebook and as a page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from view.answered import HOSTILE, RIGHT_TO_LEFT, answers, hostile, many

from evalkit.errors import EvalkitError
from evalkit.records import Model
from evalkit.records.answers import Prompt
from evalkit.view import render
from evalkit.view.answers import heading
from evalkit.view.side_by_side import FORK, Pair, fork_of, pair_lines


def embedded(page: str) -> dict[str, object]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    found: dict[str, object] = json.loads(text)
    return found


def test_a_terminal_of_80_columns_has_the_table_and_the_pairs_with_their_fork() -> None:
    text = render(hostile(), width=80)
    assert max(map(cell_len, text.splitlines())) <= 80
    assert "int8 answers 4 of 4 prompts" in text
    assert "right to wrong" in text
    assert f"It is {FORK}Paris." in text
    assert f"It is {FORK}Lyon." in text
    assert "failed: no card" in text
    assert "inconclusive" in text
    assert "at 1 pp" in text
    assert "\u202e" not in text


def test_a_model_is_called_by_its_folder() -> None:
    found = replace(hostile(), model=Model("/a/long/way/smollm2", "x"))
    assert heading(found)[0] == "smollm2"
    assert "<title>smollm2" in render(found, "html")


def test_a_pair_shows_the_fork_and_dims_what_follows() -> None:
    shared = "word " * 100
    lines = pair_lines(Pair("t", ("a", "b"), (f"{shared}left side", f"{shared}right")), 80)
    text = "\n".join(line.plain for line in lines)
    assert f"{FORK}left" in text
    assert f"{FORK}right" in text
    assert len(lines) <= 10
    assert all(cell_len(line.plain) <= 80 for line in lines)
    dimmed = [line.plain[s.start : s.end] for line in lines for s in line.spans if s.style == "dim"]
    assert any(part.startswith("left side") for part in dimmed)
    assert not any("word" in part for part in dimmed)
    wide = pair_lines(Pair("t", ("a", "b"), ("漢字" * 60, "漢" * 9)), 80)
    assert all(cell_len(line.plain) <= 80 for line in wide)
    assert any("(empty)" in line.plain for line in pair_lines(Pair("t", ("a", "b"), ("x", "")), 80))


def test_where_texts_fork() -> None:
    assert fork_of("same", "same") is None
    assert fork_of("abc", "abd") == 2
    assert fork_of("ab", "abc") == 2


def test_a_notebook_and_markdown_have_the_pairs_too() -> None:
    found = hostile()
    browser = found.side_by_side()
    for text in (browser._repr_html_(), render(found, "markdown")):
        assert "Lyon" in text
        assert "<script" not in text
    assert "<table" in found._repr_html_()
    assert "<script" not in found._repr_html_()
    assert [one.prompt for one in browser.select("int4", "flipped")] == [1]
    assert [one.prompt for one in browser.select("int4", "loops")] == [3]
    assert browser.select("int8") == []
    assert len(browser.select("int8", "all")) == 4
    bundle = browser._repr_mimebundle_()
    assert "Lyon" in bundle["text/html"]
    variant, show = browser.widget().children[0].children
    variant.value, show.value = "int4", "loops"
    assert "1 of 4 answers" in browser.html("int4", "loops")


def test_the_page_is_written_to_a_file(tmp_path: Path) -> None:
    hostile().save_page(tmp_path / "answers.html")
    assert (tmp_path / "answers.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_page_holds_everything_as_text() -> None:
    page = render(hostile(), "html")
    assert page.count("<script") == 2
    assert "stolen'</script>" not in page
    assert "src=" not in page.partition('id="data"')[0].replace("src=http", "")
    data = embedded(page)
    assert data["variants"] == [f"fp16{HOSTILE}", "int8", "int4", "awq"]
    prompts = data["prompts"]
    assert isinstance(prompts, list)
    assert prompts[0]["turns"] == [["", f"Say {HOSTILE}"]]
    assert prompts[1]["wanted"] == "wanted (contains): Paris"
    assert prompts[2]["turns"][1] == ["user", RIGHT_TO_LEFT]
    every = data["answers"]
    assert isinstance(every, list)
    base, int8, int4, failed = every
    assert failed is None
    assert int8[0][:2] == [len(base[0][1]), ""]
    assert int4[1][:2] == [len("It is "), "Lyon."]
    # Beyond the first plane a character counts twice in a browser.
    assert int4[3][0] == len("def f():\n    return 1 ") + 2 + 1
    assert int4[3][8] == ["loops"]
    assert (base[1][7], int4[1][7]) == (True, False)


def test_a_page_of_5000_prompts_and_4_variants_is_below_20_megabytes() -> None:
    # Of a part of the prompts, of the same length: the rest weighs as much.
    page = render(many(200, 4), "html")
    assert 25 * len(page.encode()) < 20e6
    assert len(re.findall("<article", page)) <= 1


def test_the_curve_of_survival_says_where_it_ends() -> None:
    chart = many(40, 3).plot.survival()
    assert "int1: " in chart.description
    assert "The baseline against itself: 100.0 % are the same" in chart.description
    with pytest.raises(EvalkitError, match="no other variant answered"):
        answers([Prompt("p")], {"fp16": ["an answer"]}).plot.survival()


def test_answers_of_a_single_variant() -> None:
    found = answers([Prompt("p")], {"fp16": ["an answer"]})
    assert found.sentence == "fp16 answered 1 prompt."
    assert "an answer" in render(found, "html")
    assert "fp16" in render(found)
