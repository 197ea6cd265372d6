"""Speed, memory and energy of variants."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evalkit.errors import UsageError, unknown
from evalkit.progress import Listener, live
from evalkit.records.bench import Bench


def bench(*variants: str, progress: Listener | None = None, **words: Any) -> Bench:
    """Measure prefill and decode of `variants`, which take turns in rounds of processes.

    `words` are those of the command line: model, batch_sizes ("auto" or numbers), prompt, generate,
    contexts, engine, rounds, repetitions, soak (seconds, or "10m"), weights ("checkpoint" or
    "random"), device, seed, out, offline, serve, fresh, allow_pickle, trust_remote_code. Finished
    rounds in the store are not measured again unless `fresh`.

    Raises UsageError or ModelError before anything starts; a variant that fails later is a row
    that says so.
    """
    from evalkit.running.bench.plan import BenchRequest
    from evalkit.running.bench.run import run_bench

    known = {field.name for field in dataclasses.fields(BenchRequest)} - {"variants"}
    for word in words:
        if word not in known:
            raise unknown("argument", word, known)
    words["contexts"] = _numbers(words.get("contexts") or ())
    if not isinstance(words.get("batch_sizes", ""), str):
        words["batch_sizes"] = tuple(words["batch_sizes"])
    words["soak"] = seconds(words.get("soak") or 0)
    if isinstance(words.get("serve"), str):
        words["serve"] = (words["serve"],)
    if words.get("out") is not None:
        words["out"] = Path(words["out"])
    request = BenchRequest(variants=tuple(map(str, variants)), **words)
    if progress is not None:
        return run_bench(request, progress)
    with live() as listener:
        return run_bench(request, listener)


def seconds(text: str | float) -> float:
    """A time such as "10m", "90s", "1h" or a number of seconds."""
    if not isinstance(text, str):
        return float(text)
    factors = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in factors else (text, "s")
    try:
        found = float(number) * factors[unit]
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise UsageError(f"time {text!r}: write seconds, minutes or hours such as 90s, 10m, 1h")
    return found


def _numbers(words: str | int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(words, int):
        return (words,)
    parts = words.split(",") if isinstance(words, str) else words
    try:
        return tuple(int(part) for part in parts)
    except ValueError:
        allowed = "write numbers of tokens such as 512,2048"
        raise UsageError(f"--contexts {words!r}: {allowed}") from None
