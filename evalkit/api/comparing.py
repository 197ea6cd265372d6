"""Comparing variants of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from evalkit.declaration import documented, resolved
from evalkit.options import CompareOptions
from evalkit.progress import Listener, ignore, listening
from evalkit.records import Comparison
from evalkit.records.dry_run import DryRun

if TYPE_CHECKING:
    from evalkit.running.compare.plan import ComparePlan


@documented(CompareOptions)
def compare(
    *variants: str, progress: Listener | None = None, **options: Unpack[CompareOptions]
) -> Comparison:
    """Compare `variants` of a model; the first is the baseline.

    What the store already holds is not measured again unless `fresh`. Without `progress` a live
    bar is shown on a terminal or in a notebook.

    Raises UsageError, DataError, ModelError before anything starts; a variant that fails later is
    a row that says so.
    """
    from evalkit.running.compare.run import run_plan
    from evalkit.store.mirror import mirrored

    given = resolved(CompareOptions, options)
    with listening(progress) as listener, mirrored(given["out"]) as folder:
        plan = _plan(variants, given, folder, listener)
        return run_plan(plan, listener, fresh=given["fresh"])


@documented(CompareOptions)
def dry_run(
    *variants: str, progress: Listener | None = None, **options: Unpack[CompareOptions]
) -> DryRun:
    """What `compare` with the same options would do, in which memory and time; loads no model."""
    from evalkit.running.compare.describe import describe
    from evalkit.store.mirror import mirrored

    given = resolved(CompareOptions, options)
    listener = progress or ignore
    with mirrored(given["out"]) as folder:
        return describe(_plan(variants, given, folder, listener), listener)


def _plan(
    variants: tuple[str, ...], options: CompareOptions, folder: Path | None, listener: Listener
) -> ComparePlan:
    from evalkit.running.compare.plan import make_plan

    return make_plan([str(v) for v in variants], options, folder=folder, send=listener)
