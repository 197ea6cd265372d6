"""Table, JSON, check, report, charts and advice say of 500 random comparisons what an oracle says.

The oracle below is written from docs/verdict.md alone: it reads the bounds and counts of the JSON
object and shares no code with evalkit.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from evalkit.analysis import gate, summaries
from evalkit.analysis.asked import Asked
from evalkit.analysis.bootstrap import Interval
from evalkit.analysis.compare import Measured, compare
from evalkit.analysis.summaries import TokenTable
from evalkit.analysis.task_values import ItemScores
from evalkit.analysis.verdicts import parse_margin
from evalkit.metrics import gate_limits, table_columns
from evalkit.numbers import spaced
from evalkit.records import (
    Comparison,
    Measurement,
    Model,
    Run,
    Suite,
    TaskSlice,
    TextSlice,
    Variant,
)
from evalkit.view import charts
from evalkit.view.cells import main_grid
from evalkit.view.comparison import sheet, to_json
from evalkit.view.report_tables import finding, tasks_table

COUNT = 500
MODEL = Model("m", "id", 10)
METRICS = tuple(
    Measurement(
        name, 1, "", direction, table="t", details={"column": column, "summary": summary}
    )
    for name, column, summary, direction in (
        ("perplexity", "nll", "exp_mean", "lower"), ("kl_divergence_mean", "kl", "mean", "lower"),
    )
)  # fmt: skip


def _tokens(random: np.random.Generator, shape: tuple[int, int], shift: float) -> TokenTable:
    windows, length = shape
    nll = np.full((windows, length), 2.0 + shift)
    kl = np.full((windows, length), abs(shift))
    columns = {
        "window": np.repeat(np.arange(windows), length),
        "nll": nll.ravel(),
        "kl": kl.ravel(),
    }
    return TokenTable(
        {
            "slice": np.zeros(windows, int), "document": np.arange(windows),
            "scored": np.full(windows, length), "sum_nll": nll.sum(1), "sum_kl": kl.sum(1),
        },
        columns.__getitem__,
    )  # fmt: skip


def _items(task: str, right: np.ndarray, noise: float) -> ItemScores:
    names = tuple(map(str, range(len(right))))
    return ItemScores(
        task, f"{task}.acc", "mean", True, True, Asked({}, names, names, names),
        right.astype(float), np.ones(len(right)), np.arange(len(right), dtype=np.int32), noise,
    )  # fmt: skip


def _random(seed: int, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    """A comparison of three variants whose intervals lie anywhere about zero and the margin."""
    random = np.random.default_rng(seed)

    def interval(statistic: Any, sums: Any, **_: Any) -> Interval:
        value = float(statistic(np.asarray(sums).sum(0, keepdims=True))[0])
        below, above = random.exponential(random.choice([0.002, 0.01, 0.05]), 2)
        return Interval(value, value - below, value + above)

    monkeypatch.setattr(summaries, "bootstrap_interval", interval)
    shape = ((4, 20), (4, 200), (6, 60))[seed % 3]
    sizes = random.integers(20, 1500, random.integers(0, 4))
    truth = [random.random(n) < 0.7 for n in sizes]
    tasks = tuple(TaskSlice(f"task{i}", 0, int(n)) for i, n in enumerate(sizes))
    suite = Suite("s", (TextSlice("a", "1", 40),), tasks=tasks)
    noise = float(random.choice([0.0, 0.0, 0.02]))
    measured = []
    for place, name in enumerate(("fp16", "int8", "int4")):
        flips = random.choice([0.0, 0.01, 0.2]) if place else 0.0
        answers = [np.where(random.random(len(one)) < flips, random.random() < 0.5, one)
                   for one in truth]  # fmt: skip
        variant = Variant(name, "transformers", asked=name)
        size = Measurement("weight_bytes", 1, "bytes", "lower", (16.0 / 2**place,))
        run = Run(f"{name}-1", MODEL, variant, suite, "ok", measurements=(size, *METRICS))
        shift = float(random.choice([0.0, 0.005, 0.02, -0.02])) * place
        scores = [_items(f"task{i}", one, noise) for i, one in enumerate(answers)]
        keyed = {one.key: one for one in scores}
        tokens = _tokens(random, shape, shift)
        measured.append(Measured(variant, (run,), tokens, tasks=keyed, label=name))
    margin = parse_margin(str(random.choice(["1pp", "3%", "0.1pp"])))
    return compare(MODEL, suite, measured, margin, columns=table_columns())


# The oracle: rules of docs/verdict.md on the numbers of the JSON object.


def _margin_of(text: str) -> float:
    return float(Fraction(re.sub("[^0-9.]", "", text)) / 100)


def _p_value(lost: int, won: int) -> float:
    """Exact McNemar."""
    flips = lost + won
    tail = sum(math.comb(flips, k) for k in range(min(lost, won) + 1))
    return min(1.0, float(Fraction(2 * tail, 2**flips)))


def _word(least: float, most: float, margin: float, noise: float) -> str:
    """What a loss between `least` and `most` allows to be said."""
    if most < -noise:
        return "better"
    if most <= max(margin, noise):
        return "no loss"
    return "worse" if least > noise else "inconclusive"


def _task_words(metrics: dict[str, Any], margin: float) -> dict[str, str]:
    keys = [key for key in metrics if key.startswith("task") and key.endswith(".acc")]
    flips = {key: metrics[key.replace(".acc", ".flips")]["details"] for key in keys}
    p_values = {key: _p_value(f["right_to_wrong"], f["wrong_to_right"]) for key, f in flips.items()}
    words, largest = {}, 0.0
    for place, key in enumerate(sorted(keys, key=lambda k: p_values[k])):
        largest = max(largest, (len(keys) - place) * p_values[key])
        value = metrics[key]
        noise = value["details"]["noise_floor"]
        words[key] = _word(-value["delta_high"], -value["delta_low"], margin, noise)
        if largest >= 0.05:
            words[key] = {"better": "no loss", "worse": "inconclusive"}.get(words[key], words[key])
    return words


def _text(metrics: dict[str, Any], margin: float) -> tuple[str, float, float]:
    """The word of perplexity, and its loss in shares of the baseline's."""
    value = metrics["perplexity"]
    base = value["value"] - value["delta"]
    least, most = value["delta_low"] / base, value["delta_high"] / base
    return _word(least, most, margin, 0.0), least, most


def _row_word(tasks: dict[str, str], text: str) -> str:
    words = list(tasks.values())
    if "worse" in (*words, text):
        return "worse"
    if words and not {"inconclusive"} & set(words):
        return "better" if "better" in words else "no loss"
    return text


@pytest.fixture(scope="module")
def made() -> Iterator[list[tuple[Comparison, dict[str, Any]]]]:
    with pytest.MonkeyPatch.context() as patch:
        found = [_random(seed, patch) for seed in range(COUNT)]
    yield [(one, json.loads(to_json(one))) for one in found]


def test_the_json_object_says_what_the_oracle_says(
    made: list[tuple[Comparison, dict[str, Any]]],
) -> None:
    seen: dict[str, int] = {}
    for _, content in made:
        margin = _margin_of(content["margin"])
        for row in content["rows"][1:]:
            metrics, verdict = row["metrics"], row["verdict"]
            tasks = _task_words(metrics, margin)
            text, least, _ = _text(metrics, margin)
            assert {key: metrics[key]["verdict"] for key in tasks} == tasks
            assert metrics["perplexity"]["verdict"] == text
            assert verdict["word"] == _row_word(tasks, text)
            rests_on = verdict["metric"]
            own = text if rests_on == "perplexity" else tasks[rests_on]
            assert own == verdict["word"] or verdict["word"] == "better" or own == "no loss"
            lost = least if rests_on == "perplexity" else -metrics[rests_on]["delta_high"]
            assert verdict["is_beyond_margin"] == (verdict["word"] == "worse" and lost > margin)
            assert verdict["claim"] == metrics[rests_on]["claim"]
            seen[verdict["word"]] = seen.get(verdict["word"], 0) + 1
    assert min(seen[word] for word in ("worse", "no loss", "inconclusive", "better")) > 20


def test_the_claim_follows_from_documents_and_tokens(
    made: list[tuple[Comparison, dict[str, Any]]],
) -> None:
    wanted = ("these tokens", "more of the same documents", "texts like this")
    for seed, (_, content) in enumerate(made):
        for row in content["rows"]:
            assert row["metrics"]["perplexity"]["claim"] == wanted[seed % 3]
            claims = {row["metrics"][key]["claim"] for key in row["metrics"] if "acc" in key}
            assert claims <= {"items like these"}


def test_the_table_and_the_report_show_the_same_word(
    made: list[tuple[Comparison, dict[str, Any]]],
) -> None:
    for one, content in made:
        lines = {line.label: line for line in main_grid(one).lines}
        tasks = tasks_table(one)
        evidence = "\n".join(sheet(one).remarks)
        for place, row in enumerate(content["rows"][1:], start=1):
            word, line = row["verdict"]["word"], lines[row["variant"]]
            assert line.cells[-1].partition(":")[0] == word
            assert finding(line.finding) == word.replace(" ", "-")
            is_open = word == "worse" and not row["verdict"]["is_beyond_margin"]
            assert ("margin undecided" in line.cells[-1]) == is_open
            assert f"{row['variant']}, {word}: {row['verdict']['evidence'][0]}" in evidence
            for of_task in tasks.lines if tasks else ():
                told = row["metrics"][f"{of_task.task}.{of_task.score}"]["verdict"]
                assert of_task.cells[place].verdict == told


def test_check_holds_exactly_where_a_loss_beyond_the_margin_is_ruled_out(
    made: list[tuple[Comparison, dict[str, Any]]],
) -> None:
    limits = gate_limits()
    for one, content in made:
        margin = _margin_of(content["margin"])
        bounds = {limits[name]: margin for name in ("max_task_loss", "max_perplexity_increase")}
        passed = {(j.variant, j.metric): j.passed for j in gate.judge(one, bounds)}
        for row in content["rows"][1:]:
            harmless = {
                (row["variant"], name): value["verdict"] in ("better", "no loss")
                for name, value in row["metrics"].items()
                if name == "perplexity" or name.endswith(".acc")
            }
            harmless |= {} if content["suite"]["tasks"] else {(row["variant"], ""): False}
            assert {key: passed[key] for key in harmless} == harmless
            of_tasks = [ok for (_, name), ok in harmless.items() if name.endswith(".acc")]
            if row["verdict"]["metric"].endswith(".acc") and row["verdict"]["word"] != "worse":
                assert all(of_tasks) == (row["verdict"]["word"] in ("better", "no loss"))


def test_the_advice_uses_what_is_harmless_and_says_of_the_others_what_the_interval_says(
    made: list[tuple[Comparison, dict[str, Any]]],
) -> None:
    for one, content in made:
        said, margin = content["sentence"], spaced(content["margin"])
        rows = {row["variant"]: row["verdict"] for row in content["rows"][1:]}
        harmless = [name for name in rows if rows[name]["word"] in ("better", "no loss")]
        best = harmless[-1] if harmless else None  # the smallest stands last
        assert said.startswith(f"Use {best}: " if best else "Stay with fp16")
        for name, verdict in rows.items():
            said_of = next((part for part in said.split(";") if name in part), "")
            beyond = verdict["word"] == "worse" and verdict["is_beyond_margin"]
            within = verdict["word"] == "worse" and not verdict["is_beyond_margin"]
            undecided = verdict["word"] == "inconclusive"
            assert (f"worse by more than {margin} allows" in said_of) == beyond
            assert (f"worse, whether by more than {margin}" in said_of) == within
            assert (f"undecided at {margin}" in said_of) == undecided
        assert one.sentence == said


def test_charts_name_the_same_word(made: list[tuple[Comparison, dict[str, Any]]]) -> None:
    for one, content in made[:3]:
        figure = charts.draw("tradeoff_memory", one, {})
        legends = [legend for axes in figure.figure.axes if (legend := axes.get_legend())]
        words = [text.get_text() for legend in legends for text in legend.get_texts()]
        for row in content["rows"][1:]:
            word = row["verdict"]["word"]
            assert any(text.startswith(f"{row['variant']}\n{word}") for text in words)
            assert word in figure.description
