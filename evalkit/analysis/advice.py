"""One sentence that says what to do, from the verdicts of a comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from evalkit import numbers
from evalkit.analysis.cache_formats import FORMATS, CacheFormat
from evalkit.analysis.evidence import KL
from evalkit.records import Comparison, Row, Verdict, Word

RANDOM = "random weights"
# A smaller ratio of divergences is not worth a word.
_CLEAR_RATIO = 2.0
# Channels of a KV cache that share a scale, and bytes of one that is not quantized.
_GROUP, _FULL_CHANNEL = 32, 2.0


def advise(comparison: Comparison) -> Comparison:
    """The comparison with its sentence filled in; of random weights none of quality."""
    if comparison.model.weights == "random":
        verdict = Verdict(Word.NOT_MEASURED, evidence=(RANDOM,))
        rows = tuple(dataclasses.replace(row, verdict=verdict) for row in comparison.rows)
        return dataclasses.replace(comparison, rows=rows, sentence=f"Quality: {verdict.text}.")
    return dataclasses.replace(comparison, sentence=sentence(comparison))


def sentence(comparison: Comparison) -> str:
    """What to do: the smallest variant without loss, and what is known against the others.

    A variant whose weights and KV cache are no smaller than the baseline's is not advised.

    Says so where nothing was measured, nothing can be concluded, or every variant is worse.
    """
    rows = [row for row in comparison.rows[1:] if row.status == "ok"]
    if not rows:
        if len(comparison.rows) == 1:
            return f"Only the baseline {comparison.baseline} was measured: add a variant."
        return f"No variant could be measured beside {comparison.baseline}: see the messages."
    most = _channel_bytes(comparison.rows[0])
    harmless = [
        row
        for row in rows
        if Word(row.verdict.word).is_harmless and (_is_smaller(row) or _channel_bytes(row) < most)
    ]
    other = [row for row in rows if row not in harmless]
    words = []
    if harmless:
        best = min(harmless, key=lambda row: (_size(row), _channel_bytes(row)))
        kept = "loses nothing beyond" if best.verdict.word == Word.NO_LOSS else "is better, margin"
        words.append(
            f"Use {best.variant.label}: it {kept} {comparison.margin}"
            f"{_told([*_gains(best), *best.verdict.evidence[:1]])}"
        )
    else:
        words.append(f"Stay with {comparison.baseline}")
    words += [_objection(row, rows, comparison.margin) for row in sorted(other, key=_size)]
    return "; ".join(words) + "."


def _size(row: Row) -> float:
    value = row.metrics.get("weight_bytes")
    return value.value if value is not None and value.value is not None else float("inf")


def _channel_bytes(row: Row) -> float:
    """Bytes of a channel of its KV cache, scales included."""
    cache = _cache(row)
    return cache.channel_bytes(_GROUP) if cache else _FULL_CHANNEL


def _cache(row: Row) -> CacheFormat | None:
    return FORMATS.get(str(row.variant.option("kv_cache", "")))


def _is_smaller(row: Row) -> bool:
    """Whether its weights take less than the baseline's; also where that was not measured."""
    size = row.metrics.get("weight_bytes")
    return size is None or float(size.details.get("ratio") or 0.0) < 1


def _gains(row: Row) -> list[str]:
    """What the row buys, as one line; empty where it was not measured."""
    gains = []
    size = row.metrics.get("weight_bytes")
    if size is not None and size.details.get("ratio"):
        gains.append(f"weights ÷ {1 / size.details['ratio']:.1f}")
    if cache := _cache(row):
        gains.append(f"KV cache ÷ {_FULL_CHANNEL / cache.channel_bytes(_GROUP):.1f}")
    speed = row.metrics.get("decode_tokens_per_second")
    if speed is not None and speed.details.get("ratio"):
        gains.append(f"decode {numbers.times(speed.details['ratio'])}")
    return [", ".join(gains)] if gains else []


def _objection(row: Row, rows: Sequence[Row], margin: str) -> str:
    """What speaks against a row, or for more data on it."""
    name, verdict = row.variant.label, row.verdict
    # The strongest evidence, and how much changed; what lies between stands below the table.
    strongest = dict.fromkeys((*verdict.evidence[:1], *verdict.evidence[-1:]))
    told = _told([*strongest, *_beside(row, rows)])
    if Word(verdict.word).is_harmless:
        return f"{name} loses nothing beyond {margin}, but its weights are no smaller"
    if verdict.word == Word.WORSE and verdict.is_beyond_margin:
        return f"{name} is worse by more than {margin} allows{told}"
    if verdict.word == Word.WORSE:
        return f"{name} is worse, whether by more than {margin} is undecided{told}"
    if verdict.word == Word.INCONCLUSIVE:
        more = verdict.items_needed
        decide = f", {more:,} more items would decide" if more else ""
        return f"{name} is undecided at {margin}{told}{decide}"
    if verdict.word == Word.NOT_COMPARABLE:
        return f"{name} is not comparable"
    return f"the quality of {name} was not measured"


def _beside(row: Row, rows: Sequence[Row]) -> list[str]:
    """How many times further than the closest other row its predictions are, where it is clear."""
    known = {one.variant.label: one.metrics[KL].value or 0.0 for one in rows if KL in one.metrics}
    own = known.pop(row.variant.label, 0.0)
    if not known:
        return []
    closest = min(known, key=lambda label: known[label])
    if known[closest] <= 0 or own < _CLEAR_RATIO * known[closest]:
        return []
    return [f"KL {numbers.times(own / known[closest])} that of {closest}"]


def _told(words: Sequence[str]) -> str:
    return f" ({'; '.join(words)})" if words else ""
