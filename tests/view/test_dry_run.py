"""What a dry run says: memory now, the time of each step, the whole; the JSON's fields."""

from __future__ import annotations

import dataclasses
import json

import pytest

from evalkit.plain_text import duration
from evalkit.records import Model, Suite, TaskSlice, TextSlice
from evalkit.records.dry_run import DryRun, DryRunRow, Duration, Step, TextCounts
from evalkit.view import dry_run, render


def step(name: str, seconds: float) -> Step:
    return Step(name, Duration(seconds, 3.0, "the roofline alone"))


FOUND = DryRun(
    model=Model("m", "id", architecture="Llama"),
    checkpoint="/m",
    weight_bytes=14_800_000_000,
    device="cuda",
    machine="a processor, NVIDIA GeForce RTX 4090",
    memory_free=9_000_000_000,
    memory_total=24_000_000_000,
    disk_bytes=2_000_000,
    context=2048,
    suite=Suite("own", (TextSlice("wiki", "x", 1),), tasks=(TaskSlice("arc", 5, 100),)),
    store="/store",
    rows=(
        DryRunRow("fp16", "fp16@transformers", "to measure", "", ("texts", "arc"), 16e9,
                  (step("loading", 10.0), step("texts", 200.0), step("arc", 50.0))),
        DryRunRow("int8", "int8@bitsandbytes", "measured before", memory=8e9),
        DryRunRow("int4", "int4@gptq", "to measure", "", ("texts", "arc"), 5e9,
                  (step("quantizing", 600.0), step("loading", 5.0), step("texts", 200.0),
                   step("arc", 50.0))),
        DryRunRow("served", "served@endpoint", "cannot run", "no server <b>answers</b>"),
    ),
    texts=TextCounts(10, 2_000, 1_990, 350, 8_000_000),
    preparing=(step("texts, prompts and libraries", 12.0),),
    time=Duration(1077.0, 3.0, "the roofline alone"),
    finish="2026-01-02T03:04:05+0000",
    notes=("Model: chosen.",),
)  # fmt: skip


def test_each_variant_has_its_memory_and_the_time_of_each_step() -> None:
    lines = render(FOUND).splitlines()
    assert lines[0] == "Model: chosen."
    titles = next(line for line in lines if "loading" in line)
    assert titles.split() == ["memory", "time", "quantizing", "loading", "texts", "arc"]
    cells = {line.split()[0]: line for line in lines if line}
    assert "16.0 GB" in cells["fp16"] and "4 min 20 s" in cells["fp16"]
    assert "10 min 0 s" in cells["int4"] and "10 min" not in cells["fp16"]
    assert "measured before" in cells["int8"]
    assert "cannot run: no server" in cells["served"]


def test_the_whole_names_memory_now_and_when_it_ends() -> None:
    said = render(FOUND)
    assert "9.0 GB free now of 24.0 GB" in said
    assert "more than is free for fp16; end other programs" in said
    assert "time: about 17 min 57 s" in said and "done at 03:04" in said
    assert "within a factor of 3.0, told from the roofline alone" in said
    unknown = dataclasses.replace(FOUND, time=None, time_unknown="no config.json", finish="")
    assert "time: not known, as no config.json" in render(unknown)
    nothing = dataclasses.replace(FOUND, time=None, finish="")
    assert "time: nothing is left to measure" in render(nothing)


def test_tokens_that_stand_in_no_window_are_told() -> None:
    assert "1,990 scored; 350 more tokens stand in no window" in render(FOUND)
    assert FOUND.texts is not None
    whole = dataclasses.replace(FOUND, texts=dataclasses.replace(FOUND.texts, left_out=0))
    assert "in no window" not in render(whole)


def test_json_is_one_object_with_the_documented_fields() -> None:
    made = json.loads(render(FOUND, "json"))
    assert made["schema"] == "evalkit.dry_run/1"
    assert made["memory"] == {"free_bytes": 9_000_000_000, "total_bytes": 24_000_000_000}
    assert [row["fits_now"] for row in made["rows"]] == [False, True, True, None]
    assert made["rows"][2]["seconds"] == 855.0
    assert made["rows"][2]["steps"][0] == {
        "name": "quantizing", "seconds": 600.0, "factor": 3.0, "source": "the roofline alone",
    }  # fmt: skip
    assert made["time"]["factor"] == 3.0 and made["finish"] == FOUND.finish
    assert made["texts"]["names"] == ["wiki"] and made["texts"]["windows"] == 10
    assert made["tasks"] == [{"name": "arc", "shots": 5, "limit": 100}]
    documented = dry_run.__doc__ or ""
    assert all(
        f"`{name}`" in documented for name in {**made, **made["rows"][0]} if name != "schema"
    )


def test_a_notebook_shows_it_as_an_element() -> None:
    page = FOUND._repr_html_()
    assert "<table" in page and "<b>answers" not in page


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.1, "1 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_seconds_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
