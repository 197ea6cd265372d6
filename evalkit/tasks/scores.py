"""From answers to scores, by the task's own filters, process_results and aggregations."""

from __future__ import annotations

import json
import math
import numbers
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from numpy.typing import NDArray

from evalkit.errors import DataError, NotComparableError, UsageError
from evalkit.store.samples import (
    STATISTICS,
    TEXT_LIMIT,
    SampleHead,
    SampleRecords,
    TaskScore,
)
from evalkit.store.task_requests import TaskItem, TaskRequests
from evalkit.tasks import lm_eval_task
from evalkit.tasks.answers import Advance, Answers, answer_requests
from evalkit.tasks.lm_eval_errors import explain
from evalkit.tasks.loading import LoadedTask

UNSCORED = "a continuation is empty or longer than the model's context"
_NAMED = 10
RIGHT_OR_WRONG = ("acc_norm", "acc", "exact_match")

Metrics = dict[str, Any]


def score_task(
    task: LoadedTask,
    requests: TaskRequests,
    lm: LM,
    folder: Path,
    *,
    advance: Advance | None = None,
) -> SampleRecords:
    """Ask `lm` what `folder` does not answer yet, then score; see the two functions below."""
    return score_answers(task, requests, answer_requests(requests, lm, folder, advance=advance))


def score_answers(task: LoadedTask, requests: TaskRequests, answers: Answers) -> SampleRecords:
    """Sample records and scores of `answers`, equal to what lm-eval computes from them.

    Raises NotComparableError when the task's documents are no longer those of `requests`, or
    `answers` belong to other requests, and DataError when the task's code fails.
    """
    _check(task, requests, answers)
    instances = _instances(task, requests, answers)
    flat = [instance for group in instances if not _unscored(group) for instance in group]
    if not flat:
        raise DataError(f"task {task.name}: no item can be scored: {UNSCORED}")
    try:
        with lm_eval_task.settled(task.seed):
            filters = lm_eval_task.apply_filters(task.task, flat)
            results = {name: _process(task, name, instances) for name in filters}
    except Exception as error:  # filters and metrics may be the task's own code
        raise DataError(explain(task.name, None, error)) from error
    scores = [score for name in filters for score in _scores(task, name, results[name])]
    columns: dict[str, list[Any]] = defaultdict(list)
    for name in filters:
        _add_rows(columns, name, requests, instances, results[name])
    metrics = list(dict.fromkeys(score.metric for score in scores))
    arrays = {name: pa.array(columns[name], _TYPES[name]) for name in _TYPES}
    for metric in metrics:
        values = [found.get(metric) for name in filters for found in results[name]]
        arrays[f"metric:{metric}"] = _metric_array(values)
    head = _head(requests, scores, _skipped_note(requests, instances))
    return SampleRecords(head, pa.table(arrays))


def resampled_score(
    records: SampleRecords, metric: str, name: str | None = None
) -> Callable[[NDArray[np.intp]], float]:
    """The score of `metric` as a function of item positions (with repetition), for a bootstrap.

    Works for ratios of sums and for lm-eval's corpus metrics (f1, matthews_corrcoef, bleu …).
    Raises UsageError where the task aggregates with code of its own.
    """
    score = records.score(metric, name)
    if score.aggregation in STATISTICS:
        items = records.items(metric, score.filter)
        return items.score
    function = lm_eval_task.registered_aggregation(score.aggregation)
    if function is None:
        raise UsageError(
            f"{records.head.task}.{metric} is aggregated by code of the task "
            f"({score.aggregation}): no interval can be given"
        )
    values = [
        json.loads(value) if isinstance(value, str) else value
        for value in records.rows(score.filter)[f"metric:{metric}"].to_pylist()
    ]
    return lambda places: float(function([values[place] for place in places]))


def _check(task: LoadedTask, requests: TaskRequests, answers: Answers) -> None:
    if answers.requests != requests.id:
        raise NotComparableError(f"task {task.name}: these answers belong to other prompts")
    if len(task.documents) != len(requests.items):
        raise NotComparableError(
            f"task {task.name}: the number of items differs ({len(task.documents)} documents, "
            f"{len(requests.items)} in the stored prompts)"
        )
    for item, doc in zip(requests.items, task.documents, strict=True):
        if lm_eval_task.doc_hash(doc) != item.doc_hash:
            raise NotComparableError(
                f"task {task.name}: doc_hash of item {item.doc_id} differs from the stored "
                "prompts: the data changed; run again with --fresh"
            )


def _instances(task: LoadedTask, requests: TaskRequests, answers: Answers) -> list[list[Instance]]:
    """Answered instances, a list per item."""
    position, found = 0, []
    for item, doc in zip(requests.items, task.documents, strict=True):
        group = []
        for index, request in enumerate(item.requests):
            instance = Instance(
                request_type=request.kind,
                doc=doc,
                arguments=request.arguments,
                idx=index,
                metadata=(task.name, item.doc_id, requests.repeats),
            )
            for _ in range(requests.repeats):
                instance.resps.append(answers.answer(request.kind, position))
                position += 1
            group.append(instance)
        found.append(group)
    return found


def _process(task: LoadedTask, name: str, instances: Sequence[list[Instance]]) -> list[Metrics]:
    return [
        {}
        if _unscored(group)
        else dict(
            task.task.process_results(group[0].doc, [one.filtered_resps[name] for one in group])
        )
        for group in instances
    ]


def _unscored(group: Sequence[Instance]) -> bool:
    """Whether a request of the item could not be scored; the item then counts for nothing."""
    said = [answer for instance in group for answer in instance.resps]
    values = [answer[0] if isinstance(answer, tuple) else answer for answer in said]
    return any(isinstance(value, float) and math.isnan(value) for value in values)


def _skipped_note(requests: TaskRequests, instances: Sequence[list[Instance]]) -> tuple[str, ...]:
    """A line that names the items left out of the scores; none where all are scored."""
    pairs = zip(requests.items, instances, strict=True)
    skipped = [str(item.doc_id) for item, group in pairs if _unscored(group)]
    if not skipped:
        return ()
    named = ", ".join(skipped[:_NAMED])
    more = f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    count = f"{len(skipped)} of {len(requests.items)}"
    return (f"{count} items left out, as {UNSCORED}: item {named}{more}",)


def _scores(task: LoadedTask, name: str, results: Sequence[Metrics]) -> list[TaskScore]:
    """Aggregated as lm-eval's evaluator does: over the items that have the metric."""
    values: dict[str, list[Any]] = defaultdict(list)
    for found in results:
        for metric, value in found.items():
            values[metric].append(value)
    scores = []
    for metric, items in values.items():
        aggregation, function = lm_eval_task.aggregation(task.task, metric)
        try:
            value = float(function(items))
        except Exception as error:  # the aggregation may be the task's own code
            raise DataError(explain(f"{task.name}, metric {metric}", None, error)) from error
        better = lm_eval_task.higher_is_better(task.task, metric)
        scores.append(TaskScore(metric, name, value, len(items), aggregation, better))
    return scores


_TYPES = {
    "filter": pa.string(),
    "doc_id": pa.int32(),
    "doc_hash": pa.string(),
    "prompt_hash": pa.string(),
    "target": pa.string(),
    "gold": pa.int32(),
    "choice_lengths": pa.list_(pa.int32()),
    "cluster": pa.int32(),
    "loglikelihoods": pa.list_(pa.float64()),
    "greedy": pa.list_(pa.bool_()),
    "generated": pa.string(),
    "filtered": pa.string(),
    "correct": pa.bool_(),
}


def _add_rows(
    columns: dict[str, list[Any]],
    name: str,
    requests: TaskRequests,
    instances: Sequence[list[Instance]],
    results: Sequence[Metrics],
) -> None:
    for item, group, found in zip(requests.items, instances, results, strict=True):
        row = {"filter": name, "correct": _correct(found)} | _identity(item) | _said(group, name)
        for column, value in row.items():
            columns[column].append(value)


def _identity(item: TaskItem) -> dict[str, Any]:
    return {
        "doc_id": item.doc_id,
        "doc_hash": item.doc_hash,
        "prompt_hash": item.prompt_hash,
        "target": item.target,
        "gold": item.gold,
        "choice_lengths": [len(choice) for choice in item.choices],
        "cluster": item.cluster,
    }


def _said(group: Sequence[Instance], name: str) -> dict[str, Any]:
    """The model's answers of one item: log-likelihoods per request, or the generated text."""
    first = [instance.resps[0] for instance in group]
    if group[0].request_type == "generate_until":
        filtered = group[0].filtered_resps[name]
        return {
            "loglikelihoods": [],
            "greedy": [],
            "generated": first[0][:TEXT_LIMIT],
            "filtered": str(filtered)[:TEXT_LIMIT],
        }
    pairs = [answer if isinstance(answer, tuple) else (answer, False) for answer in first]
    return {
        "loglikelihoods": [value for value, _ in pairs],
        "greedy": [greedy for _, greedy in pairs],
        "generated": None,
        "filtered": None,
    }


def _correct(found: Metrics) -> bool | None:
    for metric in RIGHT_OR_WRONG:
        if metric in found and found[metric] in (0, 1):
            return bool(found[metric])
    return None


def _metric_array(values: Sequence[Any]) -> pa.Array:
    """Numbers as they are, tuples of numbers as lists, anything else as JSON."""
    if all(value is None or _is_number(value) for value in values):
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    if all(value is None or _is_numbers(value) for value in values):
        lists = [None if v is None else [float(x) for x in v] for v in values]
        return pa.array(lists, pa.list_(pa.float64()))
    return pa.array([None if v is None else json.dumps(v, default=_plain) for v in values])


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) or getattr(value, "shape", None) == ()


def _is_numbers(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and bool(value) and all(map(_is_number, value))


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(value) if isinstance(value, set) else str(value)


def _head(
    requests: TaskRequests, scores: Sequence[TaskScore], notes: tuple[str, ...]
) -> SampleHead:
    return SampleHead(
        task=requests.task,
        version=requests.version,
        requests=requests.id,
        output_type=requests.output_type,
        shots=requests.shots,
        split=requests.split,
        source=requests.source,
        chat=requests.chat,
        random_seeds=requests.random_seeds,
        notes=(*requests.notes, *notes),
        scores=tuple(scores),
        lm_eval=requests.lm_eval,
    )
