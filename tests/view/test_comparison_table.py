from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from typing import Any

import pytest
from comparisons import FP16, INT4, INT8, comparison, quality, row, standard_rows
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from evalkit.records import (
    Comparison,
    Environment,
    Model,
    Row,
    Suite,
    TextSlice,
    Value,
    Variant,
    Verdict,
    from_json,
    to_json,
)
from evalkit.view import render, show

FAILED = row(
    INT4,
    2.0,
    status="failed",
    message="layer model.layers.0.mlp.down_proj is 172 wide,\nnot a multiple of 128: use [int8]",
    metrics={},
    kernel="",
    verdict=Verdict("not measured"),
)


def table_text(one: Comparison, width: int | None = None) -> str:
    return render(one, "table", width)


def with_slices(one: Row) -> Row:
    metrics = {
        name: one.metrics[name]
        for name in ("perplexity", "kl_divergence_mean", "top1_agreement")
        if name in one.metrics
    }
    return dataclasses.replace(one, slices={"wiki.test": metrics, "stories": metrics})


def test_the_whole_table() -> None:
    assert (
        table_text(comparison())
        == """\
Phi-3 Small demo · 4.82 M parameters · CPU 2 threads · suite demo: 60.3k tokens, 4 tasks of 500 \
items · document windows of 1024 · baseline fp16

                  size     peak      prefill      decode       perplexity               KL        \
top-1     bits   tasks, paired          verdict at 1 pp
fp16              9.6 MB   31.2 MB   4210 tok/s   88.2 tok/s   3.69 ± 0.12              –         \
–         16.0   87.3 % ± 1.5           baseline
int8 LLM.int8()   ÷ 1.8    ÷ 1.8     × 1.8        × 1.8        + 0.012 [0.010, 0.015]   0.0025    \
99.4 %    8.9    − 0.41 [−1.03, 0.21]   no loss
int4 GPTQ g128    ÷ 3.4    ÷ 3.4     × 3.4        × 3.4        + 0.21 [0.17, 0.25]      0.0420    \
89.5 %    4.7    − 1.7 [−2.8, −0.6]     inconclusive: 900 more items
noise floor                                                    ± 0.000040               3.1e−07   \
99.98 %          ± 0.050

Use int8: it loses nothing beyond 1pp (weights ÷ 1.8); int4 is undecided.
ran: fp16@transformers Linear (float16) · int8@bitsandbytes Linear8bitLt · \
int4@gptq,group_size=128 TorchAtenLinear
note: baseline scored in batches of 4096 tokens
results: /home/someone/.cache/evalkit
"""
    )


@pytest.mark.parametrize("width", [40, 80, 100, 120, 140, 200])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    rows = (*map(with_slices, standard_rows()), FAILED)
    for line in table_text(comparison(*rows), width).splitlines():
        assert cell_len(line) <= width


def test_narrow_terminals_leave_out_what_matters_least_and_say_so() -> None:
    text = table_text(comparison(), 80)
    assert text.splitlines()[4].split() == [
        "size",
        "perplexity",
        "KL",
        "tasks,",
        "paired",
        "verdict",
    ]
    flat = " ".join(text.split())
    assert "not shown in 80 columns: peak, prefill, decode, top-1, bits" in flat
    assert "not shown" not in table_text(comparison(), 180)


def test_a_cell_has_the_colour_of_its_own_metric_and_not_of_the_row() -> None:
    """A decode speed of × 0.5 is not green because the quality is kept."""
    slow = dict(row(INT8, 1.8).metrics)
    name = "decode_tokens_per_second"
    slow[name] = dataclasses.replace(
        slow[name], value=44.1, verdict="worse", details={"ratio": 0.5}
    )
    file = io.StringIO()
    console = Console(file=file, width=200, force_terminal=True, highlight=False)
    show(comparison(row(FP16), row(INT8, 1.8, metrics=slow)), console=console)
    line = next(line for line in file.getvalue().splitlines() if "LLM.int8()" in line)
    red, green = "\x1b[31m", "\x1b[32m"
    assert f"{red}× 0.50" in line
    assert f"{green}÷ 1.8" in line
    assert f"{green}no loss" in line


def test_a_failed_row_shows_its_message_in_its_place() -> None:
    text = table_text(comparison(row(FP16), FAILED), 80)
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("int4 GPTQ g128"))
    assert lines[start].startswith("int4 GPTQ g128  failed: layer model.layers.0.mlp.down_proj")
    assert lines[start + 1].startswith(" " * 16)
    assert "use [int8]" in " ".join(text.split())
    wide = table_text(comparison(row(FP16), FAILED))
    assert "172 wide, not a multiple of 128: use [int8]\n" in wide


def test_all_but_the_baseline_failed() -> None:
    lost = row(
        INT8,
        2.0,
        status="out_of_memory",
        message="",
        metrics={},
        verdict=Verdict("not measured"),
        kernel="",
    )
    text = table_text(comparison(row(FP16), lost, FAILED))
    assert "int8 LLM.int8()   out of memory\n" in text
    assert "KL" not in text.splitlines()[2]


def test_the_baseline_failed() -> None:
    lost = row(
        FP16,
        status="failed",
        message="no such file",
        metrics={},
        verdict=Verdict("not measured"),
        kernel="",
    )
    text = table_text(comparison(lost, standard_rows()[1]))
    assert "fp16              failed: no such file" in text
    assert "5.4 MB" in text
    assert "÷ 1.8 " not in text.split("Use int8")[0]


def test_one_variant_only() -> None:
    text = table_text(comparison(row(FP16), sentence=""))
    assert "fp16" in text
    assert "KL" not in text
    assert "not measured" not in text


def test_missing_speed_is_named_and_never_zero() -> None:
    without = {k: v for k, v in standard_rows()[1].metrics.items() if "second" not in k}
    text = table_text(comparison(row(FP16), row(INT8, 2.0, metrics=without)))
    assert "not measured for int8 LLM.int8(): prefill, decode\n" in text
    assert "÷ 1.8    ÷ 1.8     –            –" in text
    both = [dataclasses.replace(r, metrics=quality(r is None)) for r in standard_rows()[:1]]
    assert "not measured: size, peak, prefill, decode, bits\n" in table_text(comparison(*both))


def test_reasons_for_what_was_not_measured() -> None:
    empty = Suite("speed")
    size = {"weight_bytes": Value(1e6, "bytes", 1)}
    text = table_text(comparison(row(FP16, metrics=size), suite=empty, noise_floor={}))
    assert "not measured: tasks (the suite has no tasks)" in text
    random = Model("phi", "x", weights="random")
    text = table_text(comparison(row(FP16, metrics=size), model=random))
    assert "random weights · " in text
    assert "perplexity, tasks (random weights)" in text
    stated = size | {"decode_tokens_per_second": Value(None, "", details={"reason": "no GPU"})}
    text = table_text(comparison(row(FP16, metrics=stated)))
    assert "not measured: decode (no GPU)" in text


def test_speed_of_another_machine_is_shown_but_not_as_a_ratio() -> None:
    metrics = dict(standard_rows()[1].metrics)
    name = "decode_tokens_per_second"
    metrics[name] = dataclasses.replace(metrics[name], verdict="not comparable")
    text = table_text(comparison(row(FP16), row(INT8, 1.8, metrics=metrics)))
    assert "× 1.8        159 tok/s" in text


def test_texts_one_by_one() -> None:
    text = table_text(comparison(*map(with_slices, standard_rows())))
    after = text.split("text by text\n")[1].splitlines()
    assert after[0].split() == ["perplexity", "KL", "top-1"]
    assert after[1] == "wiki.test"
    assert after[3].split()[:3] == ["int8", "LLM.int8()", "+"]
    assert after[5] == "stories"
    assert "text by text" not in table_text(comparison())


def test_long_names_lose_their_middle() -> None:
    path = "/data/" + "very-long-" * 10 + "int4"
    long = Variant("checkpoint", "checkpoint", checkpoint=path, asked=path)
    text = table_text(comparison(row(FP16), row(long, 2.0)), 100)
    line = next(line for line in text.splitlines() if line.startswith("very-long-"))
    assert line.split()[0].endswith("int4")
    assert "…" in line
    wide = Variant("checkpoint", "checkpoint", checkpoint="漢" * 40, asked="漢" * 40)
    assert "…" in table_text(comparison(row(FP16), row(wide, 2.0)))


def test_a_row_is_called_as_its_backend_said_when_it_was_measured() -> None:
    """Also where that backend is not installed: the name is stored with the row."""
    ternary = Variant("ternary", "bitnet", (("group_size", 64),), asked="ternary@bitnet")
    stored = to_json(comparison(row(FP16), row(ternary, 2.0, label="BitNet b1.58")))
    assert "BitNet b1.58   ÷ 2.0" in table_text(from_json(Comparison, stored))
    for one in stored["rows"]:
        del one["label"]
    older = table_text(from_json(Comparison, stored))
    assert "ternary@bitnet,group_size=64   ÷ 2.0" in older


def test_text_from_models_is_neither_markup_nor_commands() -> None:
    evil = "\x1b[31m[bold]x[/bold]\x1b]0;t\x07\n[/]"
    text = table_text(
        comparison(
            row(FP16, kernel=evil, notes=(evil,)),
            dataclasses.replace(FAILED, message=evil),
            model=Model(evil, "x"),
            sentence=evil,
            notes=(evil,),
            store=evil,
        )
    )
    assert text.count("[bold]x[/bold] [/]") == 6
    assert "\x1b" not in text


def test_a_note_is_written_once_with_the_rows_it_is_about() -> None:
    rows = [
        dataclasses.replace(one, notes=("t: split dev", *more))
        for one, more in zip(standard_rows(), ((), ("a",), ("a",)), strict=True)
    ]
    text = table_text(comparison(*rows))
    assert text.count("split dev") == 1
    assert "note on every row: t: split dev" in text
    assert "note on int8 LLM.int8(), int4 GPTQ g128: a" in text
    alone = table_text(comparison(rows[0]))
    assert "note on fp16: t: split dev" in alone


def test_cuda_names_the_gpu() -> None:
    machine = Environment("CPU X, 16 threads, 128 GB, NVIDIA H200 [ab12]", "cuda", 16, "", "")
    assert "· cuda NVIDIA H200 ·" in table_text(comparison(environment=machine))
    assert "· CPU 1 thread ·" in table_text(
        comparison(environment=Environment("x", "cpu", 1, "", ""))
    )


def test_a_pipe_gets_every_column_and_a_terminal_what_fits() -> None:
    for terminal, complete in ((True, False), (False, True)):
        file = io.StringIO()
        console = Console(file=file, width=80, force_terminal=terminal, highlight=False)
        show(comparison(), console=console)
        assert ("top-1     bits   tasks, paired" in file.getvalue()) is complete
        assert ("\x1b[" in file.getvalue()) is terminal


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=6, max_size=6),
    st.sampled_from(["perplexity", "tasks_mean", "weight_bytes", "decode_tokens_per_second",
                     "kl_divergence_mean", "top1_agreement"]),
    st.sampled_from([None, 60, 120]),
)  # fmt: skip
@example([5e-324, 0.0, 0.0, 0.0, 0.0, 0.0], "weight_bytes", None)
@settings(max_examples=60)
def test_any_number_can_be_shown(numbers: list[float], metric: str, width: int | None) -> None:
    value = Value(numbers[0], "x", 1, *numbers[1:])
    rows = [row(FP16), row(INT8, 2.0, metrics={metric: value})]
    assert "int8" in table_text(comparison(*rows), width)
    other: dict[str, Any] = {"rows": (row(FP16, metrics={metric: value}), *rows[1:])}
    assert "fp16" in table_text(dataclasses.replace(comparison(), **other), width)


def test_views_import_no_torch() -> None:
    code = (
        "import sys, evalkit.view;"
        "heavy = {'torch', 'transformers', 'pandas', 'matplotlib', 'jinja2'};"
        "sys.exit(bool(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_two_texts_in_the_suite_do_not_matter_without_slices() -> None:
    texts = (TextSlice("a", "1", 1), TextSlice("b", "2", 1))
    one: Comparison = comparison(suite=Suite("x", texts, "llama.cpp", 512))
    assert "llama.cpp windows of 512" in table_text(one)
