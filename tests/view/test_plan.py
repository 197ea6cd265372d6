"""The plan as a table, Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from evalkit.analysis.cards import CARDS
from evalkit.view import render
from evalkit.view.plan import KEYS, card_lines
from tests.view.plans import planned


def test_json_has_exactly_the_documented_keys() -> None:
    content = json.loads(render(planned(batch=2), "json"))
    assert list(content) == ["schema", "model", "gpu", "context", "batch", "rows"]
    assert content["schema"] == "evalkit.plan/1"
    assert (content["model"], content["gpu"]) == ("phi-3-small", "rtx-4090")
    assert (content["context"], content["batch"]) == (8192, 2)
    assert all(list(row) == list(KEYS) for row in content["rows"])


def test_json_values_are_those_of_the_rows() -> None:
    made = planned()
    row, found = json.loads(render(made, "json"))["rows"][0], made.rows[0]
    assert row["variant"] == "fp16"
    assert row["weight_bytes"] == 14_784_544_768
    assert row["kv_cache_bytes_per_token"] == 131072
    assert row["activation_bytes"] == 8192 * 250_000
    assert row["total_bytes"] == round(found.memory.total)
    assert row["fits"] is True
    assert row["headroom_bytes"] == round(found.headroom_bytes)
    assert (row["max_batch"], row["max_context"]) == (found.max_batch, found.max_context)
    assert row["decode_roofline_tokens_per_second"] == found.decode_roofline
    assert row["decode_expected_tokens_per_second"] == found.decode_expected
    assert row["prefill_roofline_tokens_per_second"] == found.prefill_roofline


def test_a_refused_variant_is_a_row_without_numbers() -> None:
    row = json.loads(render(planned(), "json"))["rows"][-1]
    assert row["variant"] == "int3@gptq"
    assert {value for key, value in row.items() if key != "variant"} == {None}
    assert re.search(r"int3@gptq +cannot pack q_proj\n", render(planned()))


def test_table_says_what_fits_and_what_is_left() -> None:
    text = render(planned())
    assert text.splitlines()[0].startswith("GPU: rtx-4090, as this machine has none")
    assert "7.39 B parameters · GeForce RTX 4090: 25.8 GB, 1008 GB/s" in text
    assert "yes, 7.4 GB left" in text
    assert "68.2 tok/s" in text
    crowded = render(planned(batch=12))
    assert crowded.count("too much") == 2


def test_table_explains_its_columns() -> None:
    text = render(planned())
    assert "weights of fp16: 14.8 GB in 16 bit" in text
    assert "3.5 GB packed + 109 MB scales + 27.3 MB zero points + 826 MB in 16 bit" in text
    assert "KV cache: 128 KiB a token and sequence, 8192 tokens × 1" in text
    assert "without the KV cache" in text
    assert "times 0.85 for fp16 (gpt-fast), 0.71 for int4 (ExLlamaV2)" in text
    assert "one pass over all prompts" in text
    assert "(--prefill-chunk 2048): fp16 9, int4 18" in text


def test_prefill_in_passes_is_said_and_not_suggested_again() -> None:
    text = render(planned(chunk=1024))
    assert "passes of at most 1024 tokens" in text
    assert "--prefill-chunk" not in text


@pytest.mark.parametrize("width", [40, 80, 120])
def test_table_keeps_to_the_width_and_names_what_it_drops(width: int) -> None:
    lines = render(planned(), width=width).splitlines()
    assert all(len(line) <= width for line in lines)
    assert any("not shown" in line for line in lines)


def test_text_of_others_cannot_colour_the_table() -> None:
    made = dataclasses.replace(planned(), notes=("a\x1b[31mb",))
    assert "\x1b" not in render(made) + render(made, "markdown")


def test_markdown_is_one_table_with_a_row_each() -> None:
    text = render(planned(), "markdown")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert len(rows) == 2 + 3
    assert "**phi-3-small · 7.39 B parameters" in text


def test_a_plan_of_nothing_but_refusals_has_no_remarks() -> None:
    empty = dataclasses.replace(planned(), rows=())
    assert "activations:" not in render(empty)
    assert "int3@gptq" in render(empty)


def test_every_card_is_listed_with_its_source() -> None:
    lines = card_lines()
    assert len(lines) == len(CARDS)
    assert any(
        line.startswith("rtx-4090: GeForce RTX 4090: 25.8 GB, 1008 GB/s, 165 TFLOP/s FP16, 661 TOP")
        and "whitepaper" in line
        for line in lines
    )
