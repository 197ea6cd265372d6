"""The section of a model card that hubs read: `model-index` in YAML."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from evalkit import numbers
from evalkit.errors import EvalkitError
from evalkit.paths import called
from evalkit.records import Comparison, Row, Value
from evalkit.view.cells import baseline_row, label
from evalkit.view.charts.scores import shares, task_scores

TEXT_METRICS = ("perplexity", "word_perplexity", "kl_divergence_mean", "top1_agreement")


def render_model_card(comparison: Comparison) -> str:
    """One `model-index` entry a variant: its task scores and text metrics with their intervals.

    The format is that of Hugging Face model cards: results of a task on a dataset, each with
    metrics of type, name and value. Raises EvalkitError where no quality was measured.
    """
    entries = [
        {"name": f"{numbers.clean(called(comparison.model.name))} {label(row)}", "results": results}
        for row in comparison.rows
        if row.status == "ok" and (results := list(_results(comparison, row)))
    ]
    if not entries:
        raise EvalkitError("not measured: quality of any variant; give texts or tasks")
    return yaml.safe_dump({"model-index": entries}, sort_keys=False, allow_unicode=True, width=100)


def _results(comparison: Comparison, row: Row) -> Iterator[dict[str, Any]]:
    shots = {task.name: task.shots for task in comparison.suite.tasks}
    percent = {score.key for score in shares(comparison)}
    for score in task_scores(comparison):
        value = row.metrics.get(score.key)
        if value is not None and value.value is not None:
            name = numbers.clean(score.task)
            dataset: dict[str, Any] = {"name": name, "type": name}
            if shots.get(score.task) is not None:
                dataset["args"] = {"num_few_shot": shots[score.task]}
            said = _said(comparison, row, score.score, value, score.key in percent)
            yield _result(dataset, [_metric(score.score, said, value)])
    texts = row.slices or {", ".join(text.name for text in comparison.suite.texts): row.metrics}
    for text, metrics in texts.items():
        found = [
            _metric(metric, _said(comparison, row, metric, metrics[metric], False), metrics[metric])
            for metric in TEXT_METRICS
            if metric in metrics and metrics[metric].value is not None
        ]
        if found:
            name = numbers.clean(text) or "text"
            yield _result({"name": name, "type": name}, found)


def _result(dataset: dict[str, Any], metrics: list[dict[str, Any]]) -> dict[str, Any]:
    task = {"type": "text-generation", "name": "Text generation"}
    return {"task": task, "dataset": dataset, "metrics": metrics}


def _metric(kind: str, name: str, value: Value) -> dict[str, Any]:
    return {"type": numbers.clean(kind), "name": name, "value": float(f"{value.value:.6g}")}


def _said(comparison: Comparison, row: Row, metric: str, value: Value, is_share: bool) -> str:
    words = f"{numbers.clean(metric)}, n = {value.n:,}"
    is_paired = value.delta is not None and row is not baseline_row(comparison)
    if not is_paired or metric in ("kl_divergence_mean", "top1_agreement"):
        return words
    scale, unit = (100, " pp") if is_share else (1, "")
    low, high = (
        None if bound is None else scale * bound for bound in (value.delta_low, value.delta_high)
    )
    assert value.delta is not None
    difference = numbers.difference(scale * value.delta, low, high)
    return (
        f"{words}; paired difference to {numbers.clean(comparison.baseline)}"
        f" {difference}{unit}: {value.verdict}"
    )
