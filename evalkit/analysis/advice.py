"""One sentence that says what to do, from the verdicts of a comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from evalkit import numbers
from evalkit.analysis.cache_formats import FORMATS, CacheFormat
from evalkit.analysis.evidence import KL
from evalkit.analysis.names import name_in_words
from evalkit.records import Comparison, Row, Verdict, Word

RANDOM = "random weights"
# A smaller ratio of divergences is not worth a word.
_CLEAR_RATIO = 2.0
# Names of variants of which one thing is said, before the rest is counted.
MOST_NAMED = 3
# Channels of a KV cache that share a scale, and bytes of one that is not quantized.
_GROUP, _FULL_CHANNEL = 32, 2.0


def advise(comparison: Comparison) -> Comparison:
    """The comparison with its sentence filled in, and how far rows are beside the closest one.

    Of random weights nothing is said of quality.
    """
    if comparison.model.weights == "random":
        verdict = Verdict(Word.NOT_MEASURED, evidence=(RANDOM,))
        rows = tuple(dataclasses.replace(row, verdict=verdict) for row in comparison.rows)
        return dataclasses.replace(comparison, rows=rows, sentence=f"Quality: {verdict.text}.")
    rows = tuple(_with_distance(row, comparison.rows[1:]) for row in comparison.rows)
    return dataclasses.replace(comparison, rows=rows, sentence=sentence(comparison))


def sentence(comparison: Comparison) -> str:
    """What to do, in few words: the smallest variant without loss, and what is against the others.

    A variant whose weights and KV cache are no smaller than the baseline's is not advised.

    Says so where nothing was measured, nothing can be concluded, or every variant is worse.
    """
    rows = [row for row in comparison.rows[1:] if row.status == "ok"]
    if not rows:
        if len(comparison.rows) == 1:
            return f"Only the baseline {_baseline(comparison)} was measured: add a variant."
        if comparison.rows[0].status != "ok":
            return "Nothing could be measured: see the messages."
        return f"No variant could be measured beside {_baseline(comparison)}: see the messages."
    most = _channel_bytes(comparison.rows[0])
    harmless = [
        row
        for row in rows
        if Word(row.verdict.word).is_harmless and (_is_smaller(row) or _channel_bytes(row) < most)
    ]
    other = [row for row in rows if row not in harmless]
    margin, words = numbers.spaced(comparison.margin), []
    if harmless:
        best = min(harmless, key=lambda row: (_size(row), _channel_bytes(row)))
        kept = "loses nothing beyond" if best.verdict.word == Word.NO_LOSS else "is better, margin"
        gains = f" ({', '.join(_gains(best))})" if _gains(best) else ""
        words.append(f"Use {name_in_words(best)}: it {kept} {margin}{gains}")
    else:
        words.append(f"Stay with {_baseline(comparison)}")
    said: dict[str, list[str]] = {}
    for row in sorted(other, key=_size):
        said.setdefault(_objection(row, margin), []).append(name_in_words(row))
    words += [_of_all(names, objection) for objection, names in said.items()]
    return "; ".join(words) + "."


def _baseline(comparison: Comparison) -> str:
    return name_in_words(comparison.rows[0])


def _of_all(names: Sequence[str], objection: str) -> str:
    """What is said of one row, or of several at once: the first few by name."""
    shown = ", ".join(names)
    if len(names) > MOST_NAMED:
        shown = f"{', '.join(names[:MOST_NAMED])} and {len(names) - MOST_NAMED} more"
    elif len(names) > 1:
        shown = f"{', '.join(names[:-1])} and {names[-1]}"
    if len(names) > 1:
        objection = objection.replace("{} is ", "{} are ").replace("{} loses", "{} lose")
        objection = objection.replace("but its weights", "but their weights")
    return objection.format(shown)


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
    """What the row buys; empty where it was not measured."""
    gains = []
    size = row.metrics.get("weight_bytes")
    if size is not None and size.details.get("ratio"):
        gains.append(f"weights ÷ {1 / size.details['ratio']:.1f}")
    if cache := _cache(row):
        gains.append(f"KV cache ÷ {_FULL_CHANNEL / cache.channel_bytes(_GROUP):.1f}")
    speed = row.metrics.get("decode_tokens_per_second")
    if speed is not None and speed.details.get("ratio"):
        gains.append(f"decode {numbers.times(speed.details['ratio'])}")
    return gains


def _objection(row: Row, margin: str) -> str:
    """What speaks against a row, or for more data on it, with a place for its name.

    The evidence stands below the table, in the line of the row.
    """
    verdict = row.verdict
    if Word(verdict.word).is_harmless:
        return f"{{}} loses nothing beyond {margin}, but its weights are no smaller"
    if verdict.word == Word.WORSE and verdict.is_beyond_margin:
        return f"{{}} is worse by more than {margin} allows"
    if verdict.word == Word.WORSE:
        return f"{{}} is worse, whether by more than {margin} is undecided"
    if verdict.word == Word.INCONCLUSIVE:
        more = verdict.items_needed
        decide = f", {more:,} more items would decide" if more else ""
        return f"{{}} is undecided at {margin}{decide}"
    if verdict.word == Word.NOT_COMPARABLE:
        return "{} is not comparable"
    return "the quality of {} was not measured"


def _with_distance(row: Row, rows: Sequence[Row]) -> Row:
    """The row with one more line of evidence where others are clearly closer to the baseline."""
    if row.status != "ok" or row not in rows or Word(row.verdict.word).is_harmless:
        return row
    known = [one for one in rows if one.status == "ok" and _kl(one) is not None and one is not row]
    own = _kl(row)
    if own is None or not known:
        return row
    closest = min(known, key=lambda one: _kl(one) or 0.0)
    least = _kl(closest) or 0.0
    if least <= 0 or own < _CLEAR_RATIO * least:
        return row
    words = f"KL {numbers.times(own / least)} that of {name_in_words(closest)}"
    verdict = dataclasses.replace(row.verdict, evidence=(*row.verdict.evidence, words))
    return dataclasses.replace(row, verdict=verdict)


def _kl(row: Row) -> float | None:
    return row.metrics[KL].value if KL in row.metrics else None
