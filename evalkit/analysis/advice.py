"""One sentence that says what to do, from the verdicts of a comparison."""

from __future__ import annotations

import dataclasses

from evalkit.records import Comparison, Row

RANDOM = "not measured: random weights"
HARMLESS = ("no loss", "better")


def advise(comparison: Comparison) -> Comparison:
    """The comparison with its sentence filled in; of random weights none of quality."""
    if comparison.model.weights == "random":
        rows = tuple(dataclasses.replace(row, verdict=RANDOM) for row in comparison.rows)
        return dataclasses.replace(comparison, rows=rows, sentence=f"Quality: {RANDOM}.")
    return dataclasses.replace(comparison, sentence=sentence(comparison))


def sentence(comparison: Comparison) -> str:
    """What to do: the smallest variant without loss, and what is known against smaller ones.

    Says so where nothing was measured, nothing can be concluded, or every variant is worse.
    """
    rows = [row for row in comparison.rows[1:] if row.status == "ok"]
    if not rows:
        if len(comparison.rows) == 1:
            return f"Only the baseline {comparison.baseline} was measured: add a variant."
        return f"No variant could be measured beside {comparison.baseline}: see the messages."
    harmless = [row for row in rows if _finding(row) in HARMLESS]
    other = [row for row in rows if _finding(row) not in HARMLESS]
    words = []
    if harmless:
        best = min(harmless, key=_size)
        kept = "loses nothing beyond" if _finding(best) == "no loss" else "is better, margin"
        words.append(f"Use {best.variant.label}: it {kept} {comparison.margin}{_gain(best)}")
    else:
        words.append(f"Stay with {comparison.baseline}")
    words += [_objection(row, comparison.margin) for row in sorted(other, key=_size)]
    return "; ".join(words) + "."


def _finding(row: Row) -> str:
    return row.verdict.partition(":")[0]


def _size(row: Row) -> float:
    value = row.metrics.get("weight_bytes")
    return value.value if value is not None and value.value is not None else float("inf")


def _gain(row: Row) -> str:
    gains = []
    size = row.metrics.get("weight_bytes")
    if size is not None and size.details.get("ratio"):
        gains.append(f"weights ÷ {1 / size.details['ratio']:.1f}")
    speed = row.metrics.get("decode_tokens_per_second")
    if speed is not None and speed.details.get("ratio"):
        gains.append(f"decode × {speed.details['ratio']:.2g}")
    return f" ({', '.join(gains)})" if gains else ""


def _objection(row: Row, margin: str) -> str:
    name, finding = row.variant.label, _finding(row)
    if finding == "worse":
        return f"{name} is worse by more than {margin} allows{_loss(row)}"
    if finding == "inconclusive":
        more = row.verdict.partition(":")[2].strip()
        return f"{name} is undecided at {margin}{_loss(row)}" + (
            f", {more} would decide" if more else ""
        )
    return f"the quality of {name} was not measured"


def _loss(row: Row) -> str:
    tasks = row.metrics.get("tasks_mean")
    if tasks is not None and tasks.delta is not None:
        return f" (tasks {100 * tasks.delta:+.1f} pp)"
    perplexity = row.metrics.get("perplexity")
    if perplexity is None or perplexity.delta is None or perplexity.value is None:
        return ""
    relative = perplexity.delta / (perplexity.value - perplexity.delta)
    return f" (perplexity {100 * relative:+.1f} %)"
