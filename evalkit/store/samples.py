"""Sample records: what became of every item, joined across variants by hash.

One row per item and filter, in Parquet; needs neither lm-eval nor torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evalkit.errors import StoreError, UsageError
from evalkit.store.files import replacing

SCHEMA = "evalkit.samples/1"
TEXT_LIMIT = 4000
_MISSING = float("nan")

# How lm-eval turns the mean a = Σ value / Σ weight of the items into the score.
STATISTICS: dict[str, Callable[[float], float]] = {
    "mean": lambda a: a,
    "nanmean": lambda a: a,
    "perplexity": lambda a: math.exp(-a),
    "weighted_perplexity": lambda a: math.exp(-a),
    "bits_per_byte": lambda a: -a / math.log(2),
}
# The columns that tell what an item is and how it was asked.
JOINED = ("doc_hash", "prompt_hash", "target")


@dataclass(frozen=True)
class TaskScore:
    """One score of a task, as lm-eval aggregates it; `n` items carry a value."""

    metric: str
    filter: str
    value: float
    n: int
    aggregation: str
    higher_is_better: bool | None


@dataclass(frozen=True)
class ItemValues:
    """Per-item values of one metric: score = statistic(Σ values · used / Σ weights · used).

    values float64[n] and weights float64[n] (words or bytes; 1 for plain means) in the order of
    `doc_ids` int32[n]; `clusters` int32[n] numbers items that belong together. Only metrics whose
    `statistic` is a key of STATISTICS have them.
    """

    metric: str
    filter: str
    statistic: str
    higher_is_better: bool | None
    doc_ids: NDArray[np.int32]
    clusters: NDArray[np.int32]
    values: NDArray[np.float64]
    weights: NDArray[np.float64]

    def score(self, places: NDArray[np.intp] | None = None) -> float:
        """The score, equal to lm-eval's, over all items or those at `places`."""
        chosen = slice(None) if places is None else places
        ratio = self.values[chosen].sum() / self.weights[chosen].sum()
        return STATISTICS[self.statistic](float(ratio))


@dataclass(frozen=True)
class SampleHead:
    """What a file of sample records is about.

    `requests` is the id of the TaskRequests that were answered, `lm_eval` the version that made
    and scored them ("" where it is not known).
    """

    task: str
    version: str
    requests: str
    output_type: str
    shots: int
    split: str
    source: str
    chat: str
    random_seeds: dict[str, int]
    notes: tuple[str, ...]
    scores: tuple[TaskScore, ...] = field(default=())
    lm_eval: str = ""


@dataclass(frozen=True)
class SampleRecords:
    """The sample records of one task and one variant.

    `table` has a row per filter and item: filter, doc_id, doc_hash, prompt_hash, target, gold,
    choice_lengths (characters), cluster, loglikelihoods (per request, nats), greedy (per request),
    generated and filtered (text, at most TEXT_LIMIT characters), correct (by the first metric that
    is right or wrong), and a column "metric:NAME" per metric.
    """

    head: SampleHead
    table: pa.Table

    @cached_property
    def filters(self) -> tuple[str, ...]:
        """Names of the filters, in the task's order; the first is the one reported first."""
        return tuple(dict.fromkeys(score.filter for score in self.head.scores))

    @cached_property
    def primary(self) -> TaskScore:
        """The score that stands for the task: acc_norm, else acc, else exact_match, else the
        first; of the first filter."""
        scores = [score for score in self.head.scores if score.filter == self.filters[0]]
        for name in ("acc_norm", "acc", "exact_match"):
            for score in scores:
                if score.metric == name:
                    return score
        return scores[0]

    def key(self, score: TaskScore) -> str:
        """Name of a score among a run's measurements: TASK.METRIC, for further filters
        TASK.METRIC.FILTER."""
        name = f"{self.head.task}.{score.metric}"
        further = score.filter != self.filters[0]
        return f"{name}.{score.filter.replace('-', '_')}" if further else name

    def rows(self, name: str | None = None) -> pa.Table:
        """The rows of filter `name` (the first by default), one per item, by doc_id."""
        rows = self.table.filter(pc.field("filter") == (name or self.filters[0]))
        return rows.sort_by("doc_id")

    def score(self, metric: str, name: str | None = None) -> TaskScore:
        """The score of `metric` under filter `name` (the first by default)."""
        wanted = (metric, name or self.filters[0])
        for score in self.head.scores:
            if (score.metric, score.filter) == wanted:
                return score
        known = ", ".join(f"{score.metric} ({score.filter})" for score in self.head.scores)
        raise UsageError(f"task {self.head.task} has no {metric} ({wanted[1]}): it has {known}")

    def items(self, metric: str, name: str | None = None) -> ItemValues:
        """Per-item values of `metric` under filter `name`.

        Items the task gave no value are left out (weight 0). Raises UsageError for an unknown
        metric and for one that is no ratio of sums (f1, bleu …).
        """
        score = self.score(metric, name)
        if score.aggregation not in STATISTICS:
            raise UsageError(
                f"{self.head.task}.{metric} is aggregated by {score.aggregation}, "
                f"not one of {', '.join(STATISTICS)}: it has no per-item values to resample"
            )
        rows = self.rows(score.filter)
        pairs = _pairs(rows[f"metric:{metric}"].to_pylist(), score.aggregation == "nanmean")
        return ItemValues(
            metric=metric,
            filter=score.filter,
            statistic=score.aggregation,
            higher_is_better=score.higher_is_better,
            doc_ids=rows["doc_id"].to_numpy(),
            clusters=rows["cluster"].to_numpy(),
            values=pairs[:, 0],
            weights=pairs[:, 1],
        )

    def margins(self, metric: str = "acc", name: str | None = None) -> NDArray[np.float64]:
        """By how many nats the right choice beats the best wrong one, float64[n].

        For acc_norm the log-likelihoods are per character, as lm-eval compares them. NaN where an
        item has no single right choice. The item is right where the margin is positive.
        """
        return margins_of(self.rows(name), metric)

    def save(self, path: Path) -> None:
        """Write as one Parquet file, whole or not at all."""
        head = json.dumps({"schema": SCHEMA, **asdict(self.head)})
        table = self.table.replace_schema_metadata({"evalkit": head})
        with replacing(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> SampleRecords:
        """Read what `save` wrote; raises StoreError for anything else."""
        try:
            table = pq.read_table(path)
            head = json.loads(table.schema.metadata[b"evalkit"])
            if head.pop("schema") != SCHEMA:
                raise StoreError(f"{path} is not of the schema {SCHEMA}; run again with --fresh")
            head["scores"] = tuple(TaskScore(**score) for score in head["scores"])
            return cls(SampleHead(**{**head, "notes": tuple(head["notes"])}), table)
        except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
            line = (str(error) or type(error).__name__).splitlines()[0]
            raise StoreError(f"{path} holds no sample records ({line}); use --fresh") from error


def margins_of(rows: pa.Table, metric: str = "acc") -> NDArray[np.float64]:
    """The margins of some of the rows of records, see `SampleRecords.margins`."""
    found = np.full(len(rows), _MISSING)
    gold = rows["gold"].to_numpy()
    sizes, answers = (_list_lengths(rows[n]) for n in ("choice_lengths", "loglikelihoods"))
    known = ~np.isnan(gold.astype(np.float64)) & (sizes >= 2)
    # Rows with as many choices and answers are one matrix.
    for size, count in set(zip(sizes[known], answers[known], strict=True)):
        places = np.flatnonzero(known & (sizes == size) & (answers == count))
        some = rows.take(places)
        values = _matrix(some["loglikelihoods"])[:, : int(size)]
        if metric == "acc_norm":
            values = values / _matrix(some["choice_lengths"])
        right = (np.arange(len(places)), gold[places].astype(np.intp))
        others = values.copy()
        others[right] = -np.inf
        found[places] = values[right] - others.max(1)
    return found


def _list_lengths(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Entries of each list, NaN where there is none."""
    found: NDArray[np.float64] = pc.list_value_length(column).to_numpy().astype(np.float64)
    return found


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Equally long lists of numbers as float64 (rows, entries)."""
    flat: NDArray[np.float64] = pc.list_flatten(column).to_numpy().astype(np.float64)
    return flat.reshape(len(column), -1)


def _pairs(values: Sequence[Any], skip_nan: bool) -> NDArray[np.float64]:
    """float64[n, 2], value and weight: of numbers (number, 1); (0, 0) where there is no value."""
    pairs = []
    for value in values:
        one, weight = value if isinstance(value, list) else (value, 1.0)
        absent = one is None or (skip_nan and math.isnan(one))
        pairs.append((0.0, 0.0) if absent else (float(one), float(weight)))
    return np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
