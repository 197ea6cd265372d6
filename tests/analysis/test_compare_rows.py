"""Comparisons from hand-made measurements: verdicts, ratios, task values, the sentence."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from evalkit.analysis.asked import Asked, asked_difference
from evalkit.analysis.compare import Measured, check_comparable, compare
from evalkit.analysis.samples import ratio_interval, sampled_value
from evalkit.analysis.summaries import TokenTable, paired_delta, summarise
from evalkit.analysis.task_values import ItemScores, task_values
from evalkit.analysis.verdicts import parse_margin
from evalkit.errors import NotComparableError
from evalkit.records import Environment, Measurement, Model, Run, Suite, TextSlice, Variant

MARGIN = parse_margin("1pp")
MODEL = Model("m", "id", 10)
SUITE = Suite("s", texts=(TextSlice("a", "1", 40),))


def _table(seed: int, shift: float = 0.0, windows: int = 200, length: int = 50) -> TokenTable:
    random = np.random.default_rng(seed)
    base = np.random.default_rng(0).exponential(2.0, (windows, length))
    nll = base + shift + 0.01 * random.standard_normal((windows, length))
    kl = np.full((windows, length), abs(shift))
    columns = {
        "window": np.repeat(np.arange(windows), length),
        "nll": nll.ravel().astype(np.float32),
        "kl": kl.ravel().astype(np.float32),
    }
    return TokenTable(
        {
            "slice": np.zeros(windows, int),
            "document": np.arange(windows),
            "scored": np.full(windows, length),
            "words": np.full(windows, 10),
            "bytes": np.full(windows, 60),
            "sum_nll": nll.sum(1),
            "square_nll": (nll**2).sum(1),
            "sum_kl": kl.sum(1),
            "square_kl": (kl**2).sum(1),
        },
        columns.__getitem__,
    )


def _metric(name: str, column: str, summary: str) -> Measurement:
    details = {"column": column, "summary": summary}
    return Measurement(name, 1, "", "lower", table="t", details=details)


METRICS = (
    _metric("perplexity", "nll", "exp_mean"),
    _metric("kl_divergence_mean", "kl", "mean"),
    _metric("kl_divergence_p99", "kl", "p99"),
)


def _measured(
    name: str, tokens: TokenTable, *, speed: float = 100.0, size: float = 8.0
) -> Measured:
    variant = Variant(name, "transformers", asked=name)
    environment = Environment("box", "cpu", 2, "3", "linux")
    probes = (
        Measurement("weight_bytes", 1, "bytes", "lower", (size,)),
        Measurement(
            "decode_tokens_per_second", 1, "tokens/s", "higher",
            tuple(speed * s for s in (0.99, 1.0, 1.01)), machine="box",
        ),
    )  # fmt: skip
    run = Run(f"{name}-1", MODEL, variant, Suite("probes"), "ok", environment=environment)
    text = dataclasses.replace(run, id=f"{name}-2", suite=SUITE, measurements=METRICS)
    return Measured(variant, (dataclasses.replace(run, measurements=probes), text), tokens)


def test_perplexity_is_exp_of_the_mean_over_tokens_not_over_windows() -> None:
    table = _table(1)
    expected = np.exp(table.windows["sum_nll"].sum() / table.windows["scored"].sum())
    assert summarise(table, "nll", "exp_mean").estimate == pytest.approx(expected)
    words = np.exp(table.windows["sum_nll"].sum() / table.windows["words"].sum())
    assert summarise(table, "nll", "exp_per_word").estimate == pytest.approx(words)
    # Words of one long document stand on its last window; the interval must not hang on that one.
    last = np.arange(len(table.windows["words"])) == len(table.windows["words"]) - 1
    one = dataclasses.replace(
        table,
        windows={
            **table.windows,
            "document": np.zeros_like(table.windows["document"]),
            "words": np.where(last, table.windows["words"].sum(), 0),
        },
    )
    found = summarise(one, "nll", "exp_per_word")
    spread = summarise(table, "nll", "exp_mean")
    stretch = table.windows["scored"].sum() / table.windows["words"].sum()
    assert found.estimate == pytest.approx(words)
    assert np.log(found.high / found.low) < 2 * stretch * np.log(spread.high / spread.low)
    delta = paired_delta(table, _table(2, 0.1), "nll", "exp_mean")
    assert delta.low < expected * (np.exp(0.1) - 1) < delta.high


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.0, "no loss"), (0.004, "no loss"), (0.1, "worse"), (-0.1, "better")]
)
def test_verdicts_of_perplexity(shift: float, verdict: str) -> None:
    result = compare(
        MODEL, SUITE, [_measured("a", _table(1)), _measured("b", _table(2, shift))], MARGIN
    )
    assert result.rows[0].verdict.text == "baseline"
    found = result.rows[1].verdict
    assert (found.word, found.metric, found.claim) == (verdict, "perplexity", "texts like this")
    assert result.rows[1].metrics["perplexity"].n == 200 * 50


@pytest.mark.parametrize(
    ("windows", "length", "documents", "claim"),
    [
        (3, 50, 1, "these tokens"),
        (1, 600, 1, "more of the same documents"),
        (40, 50, 4, "more of the same documents"),
        (40, 50, 5, "texts like this"),
    ],
)
def test_intervals_name_the_widest_claim_that_the_text_allows(
    windows: int, length: int, documents: int, claim: str
) -> None:
    tables = [_table(seed, 0.1 * seed, windows, length) for seed in (0, 1)]
    for table in tables:
        table.windows["document"][:] = np.arange(windows) * documents // windows
    rows = [_measured(name, table) for name, table in zip("ab", tables, strict=True)]
    row = compare(MODEL, SUITE, rows, MARGIN).rows[1]
    value = row.metrics["perplexity"]
    assert value.claim == row.metrics["kl_divergence_mean"].claim == row.verdict.claim == claim
    assert value.delta_low is not None
    assert value.delta_low <= (value.delta or 0) <= (value.delta_high or 0)
    assert (value.low == value.high) == (claim == "these tokens")


def test_the_sentence_recommends_the_smallest_harmless_variant() -> None:
    rows = [
        _measured("fp16", _table(1), size=16),
        _measured("int8", _table(2), size=8, speed=150),
        _measured("int4", _table(3, 0.2), size=4),
    ]
    result = compare(MODEL, SUITE, rows, MARGIN)
    assert result.sentence.startswith("Use int8: it loses nothing beyond 1 pp (weights ÷ 2.0")
    assert "int4 is worse" in result.sentence
    only_bad = compare(MODEL, SUITE, [rows[0], rows[2]], MARGIN)
    assert only_bad.sentence.startswith("Stay with fp16")
    larger = compare(MODEL, SUITE, [rows[1], rows[0]], MARGIN)
    stays = "Stay with int8; fp16 loses nothing beyond 1 pp, but its weights are no smaller."
    assert larger.sentence == stays
    assert "add a variant" in compare(MODEL, SUITE, rows[:1], MARGIN).sentence


def test_speed_needs_the_same_machine_and_a_difference_beyond_the_noise() -> None:
    def speed(factor: float, machine: str = "box") -> Measurement:
        values = tuple(factor * s for s in (98.0, 100.0, 102.0))
        return Measurement("decode", 1, "tokens/s", "higher", values, machine=machine)

    def verdict(other: Measurement) -> str:
        return sampled_value(other, speed(1), is_baseline=False).verdict

    assert verdict(speed(1)) == "no loss"
    assert verdict(speed(1.2)) == "better"
    assert verdict(speed(0.8)) == "worse"
    assert verdict(speed(1.06)) == "inconclusive"
    assert verdict(speed(1.2, "other")) == "not comparable"
    assert ratio_interval((1.0, 2.0, 2.0), (4.0, 5.0, 6.0)).low == 2.0
    assert not ratio_interval((1.0, 2.0), (4.0, 6.0)).is_possible
    two = dataclasses.replace(speed(1), values=(130.0, 131.0))
    assert verdict(two) == "inconclusive"


def test_incomparable_runs_name_the_field() -> None:
    one = _measured("a", _table(1)).runs[0]
    other = dataclasses.replace(one, model=Model("m", "other"))
    with pytest.raises(NotComparableError, match="model differs"):
        check_comparable(one, other)
    moved = dataclasses.replace(one, environment=Environment("box", "cuda", 2, "3", "linux"))
    with pytest.raises(NotComparableError, match="device differs"):
        check_comparable(one, moved)


def _items(values: list[float], *, task: str = "t", prompt: str = "p") -> ItemScores:
    names = tuple(map(str, range(len(values))))
    asked = Asked({"shots": "0"}, names, tuple(prompt + name for name in names), names)
    return ItemScores(
        task, f"{task}.acc", "mean", True, True, asked,
        np.array(values), np.ones(len(values)), np.arange(len(values), dtype=np.int32),
    )  # fmt: skip


def test_task_values_count_flips_and_refuse_other_prompts() -> None:
    base, other = [1.0] * 300 + [0.0] * 100, [1.0] * 260 + [0.0] * 130 + [1.0] * 10
    values = task_values({"t.acc": _items(base)}, {"t.acc": _items(other)}, MARGIN, False)
    assert values["t.flips"].details["right_to_wrong"] == 40
    assert values["t.flips"].details["wrong_to_right"] == 10
    assert values["t.acc"].delta == pytest.approx(-0.075)
    assert values["t.acc"].verdict == "worse" == values["tasks_mean"].verdict
    changed = task_values(
        {"t.acc": _items(base)}, {"t.acc": _items(other, prompt="q")}, MARGIN, False
    )
    assert changed["t.acc"].verdict == "not comparable" == changed["tasks_mean"].verdict
    assert changed["t.acc"].delta is None is changed["tasks_mean"].delta
    assert changed["t.acc"].details["reason"] == "prompts differ from item 0 on"
    assert "t.flips" not in changed


def test_a_row_asked_otherwise_names_the_field_and_the_versions_of_lm_eval() -> None:
    def asked(variant: str, version: str, prompt: str) -> Measured:
        scores = _items([1.0, 0.0] * 20, prompt=prompt)
        scores = dataclasses.replace(
            scores, asked=dataclasses.replace(scores.asked, lm_eval=version)
        )
        return dataclasses.replace(_measured(variant, _table(1)), tasks={"t.acc": scores})

    result = compare(MODEL, SUITE, [asked("a", "0.4.12", "p"), asked("b", "0.4.13", "q")], MARGIN)
    row = result.rows[1]
    assert row.verdict.word == "not comparable"
    assert row.notes == (
        "not comparable with the baseline: t.acc: prompts differ from item 0 on "
        "(lm-eval 0.4.13 against 0.4.12)",
    )
    same = compare(MODEL, SUITE, [asked("a", "0.4.12", "p"), asked("b", "0.4.13", "p")], MARGIN)
    assert same.rows[1].metrics["t.acc"].delta == 0
    assert not same.rows[1].notes


def test_what_changed_a_task_stands_beside_its_score_and_in_the_row() -> None:
    cut = "3 requests were longer than the context of 40 tokens and lost tokens from the left"
    scores = dataclasses.replace(_items([1.0, 0.0] * 20), notes=(cut,))
    marker = Measurement("task", 1, "", "none", details={"notes": [f"t: {cut}"]})
    rows = []
    for name in ("a", "b"):
        one = _measured(name, _table(1))
        run = dataclasses.replace(one.runs[0], id=f"{name}-3", measurements=(marker,))
        rows.append(dataclasses.replace(one, runs=(*one.runs, run), tasks={"t.acc": scores}))
    result = compare(MODEL, SUITE, rows, MARGIN)
    for row in result.rows:
        assert row.metrics["t.acc"].details["notes"] == [cut]
        assert row.metrics["tasks_mean"].details["notes"] == [f"t: {cut}"]
        assert row.notes == (f"t: {cut}",)
        assert "notes" not in row.metrics["perplexity"].details


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"settings": {"shots": "5"}}, "shots differs (5 against 0)"),
        ({"documents": ("0", "X")}, "documents differ from item 1 on"),
        ({"targets": ("X", "1")}, "targets differ from item 0 on"),
        ({"documents": ("0",)}, "the number of items differs (1 against 2)"),
        ({"requests": "X"}, "continuations or generation settings of the prompts differ"),
        ({"lm_eval": "9"}, ""),
        ({"prompts": ("0", "X"), "lm_eval": "9"},
         "prompts differ from item 1 on (lm-eval 9 against unknown)"),
    ],
)  # fmt: skip
def test_the_first_difference_in_what_was_asked(changes: dict[str, Any], reason: str) -> None:
    one = Asked({"shots": "0"}, ("0", "1"), ("0", "1"), ("0", "1"))
    assert asked_difference(one, dataclasses.replace(one, **changes)) == reason


def test_an_undecided_task_says_how_many_more_items_would_decide() -> None:
    base = [1.0, 0.0] * 100
    other = [1.0, 0.0] * 95 + [0.0, 1.0] * 5
    values = task_values({"t.acc": _items(base)}, {"t.acc": _items(other)}, MARGIN, False)
    assert values["t.acc"].verdict == "inconclusive"
    assert values["t.acc"].details["items_needed"] > 200
    assert values["tasks_mean"].details["items_needed"] > 200


def test_strong_evidence_of_the_text_decides_where_few_items_do_not() -> None:
    rows = []
    for name, shift, wrong in (("fp16", 0.0, 0), ("int8", 0.001, 0), ("int4", 0.2, 3)):
        scores = _items([0.0] * wrong + [1.0] * (40 - wrong))
        one = _measured(name, _table(4, shift), size=16 / (1 + len(rows)))
        rows.append(dataclasses.replace(one, tasks={"t.acc": scores}))
    result = compare(MODEL, SUITE, rows, MARGIN)
    eight, four = (row.verdict for row in result.rows[1:])
    assert (eight.word, eight.metric, eight.claim) == ("no loss", "perplexity", "texts like this")
    assert (four.word, four.metric, four.is_beyond_margin) == ("worse", "perplexity", True)
    assert result.rows[2].metrics["t.acc"].verdict == "inconclusive"
    firsts = [words.partition(" ")[0] for words in four.evidence]
    assert firsts == ["perplexity", "t.acc", "mean", "KL"]
    assert four.evidence[0].startswith("perplexity + 22")
    assert four.evidence[-1] == "KL × 200 that of int8"
    assert result.sentence.startswith("Use int8: ")
    assert result.sentence.endswith("int4 is worse by more than 1 pp allows.")
    assert "undecided" not in result.sentence


def test_one_task_that_loses_is_not_hidden_by_the_mean() -> None:
    right = [1.0] * 1000
    rows = []
    for name, wrong in (("fp16", 0), ("int4", 60)):
        tasks = {
            "a.acc": _items([0.0] * wrong + right[wrong:], task="a"),
            "b.acc": _items(right, task="b"),
        }
        rows.append(dataclasses.replace(_measured(name, _table(1)), tasks=tasks))
    row = compare(MODEL, SUITE, rows, MARGIN).rows[1]
    assert (row.verdict.word, row.verdict.metric) == ("worse", "a.acc")
    assert row.verdict.claim == "items like these"
    assert row.verdict.judged == ("a.acc", "b.acc", "perplexity")


def test_the_sentence_is_short_for_many_variants_and_names_the_first_few() -> None:
    rows = [_measured("fp16", _table(1), size=16), _measured("int8", _table(1), size=8)]
    rows += [_measured(f"bad{i}", _table(1, 0.2), size=4) for i in range(5)]
    sentence = compare(MODEL, SUITE, rows, MARGIN).sentence
    assert sentence.endswith("; bad0, bad1, bad2 and 2 more are worse by more than 1 pp allows.")
    assert "tokens" not in sentence


def test_one_variant_in_two_rows_is_told() -> None:
    rows = [_measured("fp16", _table(1)), _measured("fp16", _table(1))]
    notes = compare(MODEL, SUITE, rows, MARGIN).notes
    assert any("stands in 2 rows: they share their measurements" in note for note in notes)
    assert not compare(MODEL, SUITE, rows[:1], MARGIN).notes
