"""Comparing variants of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evalkit.errors import unknown
from evalkit.progress import Event, Listener, ignore, live
from evalkit.records import Comparison


def compare(
    *variants: str,
    progress: Listener | None = None,
    fresh: bool = False,
    **words: Any,
) -> Comparison:
    """Compare `variants` of a model; the first is the baseline.

    `words` are those of the command line: model, suite, text, tasks, shots, limit, margin,
    convention, context, baseline, weights, device, seed, data, offline, serve, out, ray,
    batch_tokens, allow_overlap, allow_pickle, trust_remote_code. What the store already holds is
    not measured again unless `fresh`; `out` is a directory, or a URL of an object store. Without
    `progress` a live bar is shown on a terminal or in a notebook.

    Raises UsageError, DataError, ModelError before anything starts; a variant that fails later is
    a row that says so.
    """
    from evalkit.running.compare.run import run_plan

    with _placed(words):
        if progress is None:
            with live() as listener:
                return run_plan(_plan(variants, words, listener), listener, fresh=fresh)
        return run_plan(_plan(variants, words, progress), progress, fresh=fresh)


def dry_run(*variants: str, progress: Listener | None = None, **words: Any) -> str:
    """What `compare` with the same words would do, in lines; loads no model."""
    from evalkit.running.compare.describe import describe

    words.pop("fresh", None)
    with _placed(words):
        return describe(_plan(variants, words, progress), progress or ignore)


@contextmanager
def _placed(words: dict[str, Any]) -> Iterator[None]:
    """Make `out` of the words a directory; of a URL its copy, kept in step meanwhile."""
    from evalkit.store.mirror import is_url, mirrored

    if is_url(words.get("out")):
        words["mirror"] = str(words["out"])
    with mirrored(words.get("out")) as words["out"]:
        yield


def _plan(variants: Sequence[str], words: dict[str, Any], progress: Listener | None) -> Any:
    from evalkit.running.compare.plan import Request, make_plan

    known = {field.name for field in dataclasses.fields(Request)} - {"variants"}
    for word in words:
        if word not in known:
            raise unknown("argument", word, known)
    for name in ("text", "tasks"):
        value = words.get(name) or ()
        if isinstance(value, str | Path):
            value = str(value).split(",") if name == "tasks" else (value,)
        words[name] = tuple(str(item) for item in value)
    if isinstance(words.get("serve"), str):
        words["serve"] = (words["serve"],)
    words["serve"] = tuple(words.get("serve") or ())
    for name in ("out", "data", "include_path"):
        if words.get(name) is not None:
            words[name] = Path(words[name])
    plan = make_plan(Request(variants=tuple(str(v) for v in variants), **words))
    if progress is not None:
        for note in plan.notes:
            progress(Event("evalkit", "", message=note))
    return plan
