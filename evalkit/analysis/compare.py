"""A comparison from finished runs: values, paired differences, verdicts. Pure functions.

The first variant is the baseline. Runs that differ in model, suite, or (for speed and memory)
machine are not compared; the row says which field differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evalkit.analysis.advice import advise
from evalkit.analysis.decompose import decomposition
from evalkit.analysis.equal_bytes import equal_bytes
from evalkit.analysis.names import distinct_labels
from evalkit.analysis.row_verdict import row_verdict
from evalkit.analysis.samples import not_measured, sampled_value
from evalkit.analysis.stopped_tasks import alike, stopped_notes, stopped_values
from evalkit.analysis.summaries import (
    PAIRED_SUMMARIES,
    TokenTable,
    rounding_bound,
    summarise,
)
from evalkit.analysis.task_groups import ScoreGroup, group_values
from evalkit.analysis.task_values import ItemScores, task_values
from evalkit.analysis.token_values import token_values
from evalkit.analysis.verdicts import Margin
from evalkit.analysis.versions import quality_notes, speed_difference
from evalkit.analysis.weights_only import weights_only_notes, weights_only_values
from evalkit.errors import NotComparableError
from evalkit.records import (
    Column,
    Comparison,
    Environment,
    Measurement,
    Model,
    Row,
    Run,
    Status,
    Suite,
    Value,
    Variant,
    Verdict,
    Word,
)

_NAMED = 3
WORST_FIRST: tuple[Status, ...] = ("interrupted", "out_of_memory", "failed", "running", "ok")


@dataclass(frozen=True)
class Measured:
    """One variant with its runs (probes, texts, tasks) and the raw values behind them.

    `tokens` is the pass over the texts, `weights` one in the baseline's arithmetic, `decomposed`
    those that tell weights and kernel apart (evalkit.analysis.decompose), `noise` the baseline's
    second pass with another batch size, `tasks` the per-item values of each task score, `groups`
    the scores that are means of those. `label` is what the row is called.
    """

    variant: Variant
    runs: tuple[Run, ...]
    tokens: TokenTable | None = None
    noise: TokenTable | None = None
    weights: TokenTable | None = None
    decomposed: Mapping[str, TokenTable] = field(default_factory=dict)
    tasks: Mapping[str, ItemScores] = field(default_factory=dict)
    groups: tuple[ScoreGroup, ...] = ()
    label: str = ""

    def measurements(self) -> dict[str, Measurement]:
        """Every measurement of the runs by metric; the newest of a metric counts."""
        return {m.metric: m for run in self.runs for m in run.measurements}

    @property
    def status(self) -> Status:
        """The worst status of its runs."""
        found = {run.status for run in self.runs}
        return next((status for status in WORST_FIRST if status in found), "ok")


def compare(
    model: Model,
    suite: Suite,
    measured: Sequence[Measured],
    margin: Margin,
    notes: tuple[str, ...] = (),
    store: str = "",
    environment: Environment | None = None,
    columns: tuple[Column, ...] = (),
) -> Comparison:
    """Compare `measured` variants with the first one, the baseline.

    `environment` is that of the machine now; without it the first run's is the comparison's.
    `columns` are those of the table.
    """
    labels = distinct_labels([(one.variant, one.label) for one in measured])
    measured = [
        dataclasses.replace(one, label=label) for one, label in zip(measured, labels, strict=True)
    ]
    baseline = measured[0]
    floor = noise_floor(baseline)
    rows = tuple(
        _with_versions(_row(suite, baseline, one, margin, floor), baseline, one, environment)
        for one in measured
    )
    environments = [run.environment for one in measured for run in one.runs if run.environment]
    environments = [environment] if environment is not None else environments
    comparison = Comparison(
        model=model,
        suite=suite,
        baseline=baseline.variant.label,
        margin=margin.text,
        rows=rows,
        noise_floor=floor,
        environment=environments[0] if environments else None,
        notes=(*notes, *_repeated(measured)),
        store=store,
        columns=columns,
        equal_bytes=equal_bytes(rows, measured, floor.get("kl_divergence_mean", 0.0)),
    )
    return advise(comparison)


def _repeated(measured: Sequence[Measured]) -> list[str]:
    """A note on each variant that stands in several rows, which have nothing to tell apart."""
    texts = [one.variant.text for one in measured]
    return [
        f"{text} stands in {texts.count(text)} rows: they share their measurements, so their "
        "difference is zero and shows nothing (the noise floor does)"
        for text in dict.fromkeys(texts)
        if texts.count(text) > 1
    ]


def noise_floor(baseline: Measured) -> dict[str, float]:
    """How much rounding moves each metric, seen by scoring the baseline with another batch size.

    For perplexity the 95 % bound of its rounding errors, for a divergence its value, for top-1
    agreement the shortfall from 1, for a task the share of items that rounding can turn. Empty
    where it was not measured.
    """
    floor = {key: scores.noise for key, scores in baseline.tasks.items() if scores.primary}
    if baseline.noise is None or baseline.tokens is None:
        return floor
    known = baseline.measurements()
    noise = known.get("noise")
    specs = noise.details.get("metrics", {}) if noise else {}
    again = baseline.noise
    first = baseline.tokens.restricted(again)
    tokens = int(baseline.tokens.windows["scored"].sum())
    for metric, spec in specs.items():
        column, summary = spec["column"], spec["summary"]
        if summary in PAIRED_SUMMARIES:
            floor[metric] = rounding_bound(first, again, column, summary, tokens)
        else:
            value = summarise(again, column, summary).estimate
            floor[metric] = 1.0 - value if spec["direction"] == "higher" else abs(value)
    return floor


def check_comparable(baseline: Run, other: Run) -> None:
    """Raise NotComparableError naming the field in which two runs differ."""
    fields = {
        "model": (baseline.model.identity, other.model.identity),
        "suite": (baseline.suite.id, other.suite.id),
        "device": (_device(baseline), _device(other)),
    }
    for name, (mine, theirs) in fields.items():
        if mine != theirs:
            raise NotComparableError(
                f"{other.variant.label} is not comparable with {baseline.variant.label}:"
                f" {name} differs ({theirs} against {mine})"
            )


def _device(run: Run) -> str:
    return run.environment.device if run.environment else "unknown"


def _row(
    suite: Suite, baseline: Measured, one: Measured, margin: Margin, floor: dict[str, float]
) -> Row:
    metrics: dict[str, Value] = {}
    slices: dict[str, dict[str, Value]] = {}
    message = "; ".join(dict.fromkeys(run.message for run in one.runs if run.message))
    message = message or _incomparable(baseline, one)
    known, base = one.measurements(), baseline.measurements()
    for name, measurement in known.items():
        if "summary" in measurement.details or "aggregation" in measurement.details:
            continue
        if measurement.values:
            metrics[name] = sampled_value(measurement, base.get(name), one is baseline)
        elif "reason" in measurement.details:
            metrics[name] = not_measured(measurement)
    if one.tokens is not None and baseline.tokens is not None:
        specs = [m for m in known.values() if "summary" in m.details]
        metrics |= token_values(specs, baseline.tokens, one.tokens, margin, floor, None)
        if len(suite.texts) > 1:
            for index, text in enumerate(suite.texts):
                slices[text.name] = token_values(
                    specs, baseline.tokens, one.tokens, margin, floor, index
                )
    metrics |= weights_only_values(one)
    answered = alike(baseline.tasks, one.tasks)
    metrics |= task_values(answered, one.tasks, margin, one is baseline)
    metrics |= group_values(one.groups, answered, one.tasks, metrics, margin, one is baseline)
    metrics |= stopped_values(metrics, answered, one.tasks, one.groups, margin)
    if one is not baseline and _same_runs(one, baseline):
        metrics = {name: _unchanged(value) for name, value in metrics.items()}
    return Row(
        variant=one.variant,
        status=one.status,
        message=message,
        kernel=next((run.kernel for run in one.runs if run.kernel), ""),
        verdict=(
            Verdict(Word.BASELINE) if one is baseline else row_verdict(metrics, one.tasks, margin)
        ),
        metrics=metrics,
        slices=slices,
        notes=(
            *dict.fromkeys(note for run in one.runs for note in run.notes),
            *_task_notes(one),
            *stopped_notes(metrics, one.tasks),
            *weights_only_notes(metrics),
            *_refusals(metrics),
        ),
        runs=tuple(run.id for run in one.runs),
        label=one.label,
        decomposition=decomposition(one, floor.get("kl_divergence_mean")),
    )


def _with_versions(row: Row, baseline: Measured, one: Measured, now: Environment | None) -> Row:
    """The row with notes on library versions; speed under other ones is not comparable."""
    notes = quality_notes(baseline.runs, one.runs, now)
    metrics = dict(row.metrics)
    if difference := speed_difference(baseline.runs, one.runs):
        notes = (difference, *notes)
        tied = {m.metric for run in one.runs for m in run.measurements if m.machine}
        for name in tied & metrics.keys():
            metrics[name] = dataclasses.replace(
                metrics[name],
                delta=None,
                delta_low=None,
                delta_high=None,
                verdict=Word.NOT_COMPARABLE,
            )
    return dataclasses.replace(row, metrics=metrics, notes=(*row.notes, *notes))


def _refusals(metrics: Mapping[str, Value]) -> list[str]:
    """Lines naming the task scores that are not comparable, and why, a line for each reason."""
    reasons: dict[str, list[str]] = {}
    for name, value in metrics.items():
        if "." in name and value.verdict == Word.NOT_COMPARABLE:
            reasons.setdefault(str(value.details.get("reason")), []).append(name)
    return [
        f"not comparable with the baseline: {', '.join(names[:_NAMED])}"
        + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        + f": {reason}"
        for reason, names in reasons.items()
    ]


def _task_notes(one: Measured) -> list[str]:
    """What changed the measurement of its tasks, each note with the name of the task."""
    return [
        note
        for run in one.runs
        for measurement in run.measurements
        if measurement.metric == "task"
        for note in measurement.details.get("notes", ())
    ]


def _same_runs(one: Measured, other: Measured) -> bool:
    return [run.id for run in one.runs] == [run.id for run in other.runs]


def _unchanged(value: Value) -> Value:
    """A baseline compared with itself: what is one measurement has no loss."""
    return dataclasses.replace(value, verdict=Word.NO_LOSS)


def _incomparable(baseline: Measured, one: Measured) -> str:
    mine = {run.suite.id: run for run in baseline.runs}
    for run in one.runs:
        if run.suite.id in mine:
            try:
                check_comparable(mine[run.suite.id], run)
            except NotComparableError as error:
                return str(error)
    return ""
