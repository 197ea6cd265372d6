"""Speed, memory and energy of variants."""

from __future__ import annotations

from typing import Unpack

from evalkit.declaration import documented, resolved
from evalkit.options import BenchOptions
from evalkit.progress import Listener, listening
from evalkit.records.bench import Bench


@documented(BenchOptions)
def bench(
    *variants: str, progress: Listener | None = None, **options: Unpack[BenchOptions]
) -> Bench:
    """Measure prefill and decode of `variants`, which take turns in rounds of processes.

    Finished rounds in the store are not measured again unless `fresh`.

    Raises UsageError or ModelError before anything starts; a variant that fails later is a row
    that says so.
    """
    from evalkit.running.bench.run import run_bench

    given = resolved(BenchOptions, options)
    with listening(progress) as listener:
        return run_bench([str(v) for v in variants], given, listener)
