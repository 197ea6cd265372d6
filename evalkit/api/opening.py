"""Opening and showing stored results; none of it needs torch."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from evalkit import plugins
from evalkit.errors import StoreError, UsageError, unknown
from evalkit.metrics import table_columns
from evalkit.paths import called, called_words
from evalkit.plain_text import clean_columns
from evalkit.records import Comparison, Flip, Run
from evalkit.records.answers import Answers
from evalkit.records.bench import Bench
from evalkit.records.sensitivity import Sensitivity
from evalkit.store.store import (
    Store,
    read_answers,
    read_bench,
    read_comparison,
    read_run,
    read_sensitivity,
)

LISTS = ("models", "backends", "metrics", "suites", "gpus", "runs", "comparisons")


def load_run(run: str | Path, store: str | Path | None = None) -> Run:
    """A stored run by its id, the start of its id, or its file; needs no torch.

    Raises StoreError where there is none, or more than one that begins so.
    """
    if Path(run).suffix == ".json":
        return read_run(Path(run))
    return read_run(_one(Store(store).root / "runs", str(run)))


def load_comparison(
    comparison: str | Path | None = None, store: str | Path | None = None
) -> Comparison:
    """A stored comparison by its id or file, the newest one by default; needs no torch.

    The newest is one that was not interrupted and did not fail, where there is any.
    """
    if comparison is not None and Path(comparison).suffix == ".json":
        file = Path(comparison)
    else:
        file = _stored_comparison(comparison, Store(store))
    found = read_comparison(file)
    # Stored before comparisons kept their columns.
    return found if found.columns else dataclasses.replace(found, columns=table_columns())


def load_bench(bench: str | Path | None = None, store: str | Path | None = None) -> Bench:
    """A stored bench by its id or file, the newest one by default; needs no torch."""
    return read_bench(_stored_file(bench, store, "benches", "bench"))


def load_sensitivity(
    sensitivity: str | Path | None = None, store: str | Path | None = None
) -> Sensitivity:
    """A stored damage map by its id or file, the newest one by default; needs no torch."""
    return read_sensitivity(_stored_file(sensitivity, store, "sensitivity", "sensitivity"))


def load_answers(answers: str | Path | None = None, store: str | Path | None = None) -> Answers:
    """Stored answers by their id or file, the newest ones by default; needs no torch."""
    return read_answers(_stored_file(answers, store, "answers", "answers"))


def flips(
    comparison: Comparison | str | Path | None = None,
    task: str | None = None,
    store: str | Path | None = None,
) -> list[Flip]:
    """The task items that changed between right and wrong, real damage first, coin flips last.

    `comparison` is a Comparison, the id or file of a stored one, or None for the newest.
    """
    from evalkit.results.flips import flips as ledger

    comparison = _comparison(comparison, store)
    return ledger(comparison, Store(comparison.store or store), task)


def chart(
    name: str,
    out: Path | str,
    result: Comparison | Bench | Sensitivity | str | Path | None = None,
    store: str | Path | None = None,
) -> Path:
    """Draw the chart `name` of a result into the file `out` (.svg, .png or .pdf).

    `result` is the record, the id or file of a stored one, or None for the newest of the kind that
    has such a chart. Raises UsageError for an unknown chart, EvalkitError where its data is
    missing.
    """
    from evalkit.view import charts
    from evalkit.view.charts.canvas import write

    known = {kind: charts.chart_names(kind) for kind in ("comparison", "bench", "sensitivity")}
    kinds = [kind for kind, names in known.items() if name in names]
    if not kinds:
        raise unknown("chart", name, [one for names in known.values() for one in names])
    if isinstance(result, Comparison | Bench | Sensitivity):
        kind = charts.kind_of(result)
        if kind not in kinds:
            raise UsageError(f"a {kind} has no chart {name}: allowed are {', '.join(known[kind])}")
    if isinstance(result, Bench | Sensitivity):
        drawn = charts.draw(name, result)
    elif isinstance(result, Comparison) or kinds[0] == "comparison":
        drawn = charts.draw(name, *_opened(result, store))
    else:
        load = load_bench if kinds[0] == "bench" else load_sensitivity
        drawn = charts.draw(name, load(result, store))
    return write(drawn, Path(out))


def report(
    comparison: Comparison | str | Path | None = None,
    form: str = "html",
    store: str | Path | None = None,
) -> str:
    """A comparison as a self-contained HTML page, table, Markdown, JSON, CSV or model card."""
    from evalkit.metrics import definitions
    from evalkit.view import check_format, render
    from evalkit.view.report import stored_report

    check_format(Comparison, form)
    opened = _comparison(comparison, store)
    if form == "html":
        return stored_report(opened, definitions(), store)
    return render(opened, form)


def _comparison(comparison: Comparison | str | Path | None, store: str | Path | None) -> Comparison:
    if isinstance(comparison, Comparison):
        return comparison
    return load_comparison(comparison, store)


def _opened(
    comparison: Comparison | str | Path | None, store: str | Path | None
) -> tuple[Comparison, Any]:
    """A comparison and the raw values behind it."""
    from evalkit.results.load_measured import reopen

    found = _comparison(comparison, store)
    return found, reopen(found, Store(found.store or store))


def listing(what: str, out: str | Path | None = None) -> list[str]:
    """Lines of `evalkit list`: models, backends, metrics, suites, gpus, runs or comparisons.

    What stands in them came from files: control characters are taken out.
    """
    return list(map(clean_columns, _lines(what, out)))


def _lines(what: str, out: str | Path | None) -> list[str]:
    if what not in LISTS:
        raise unknown("list", what, LISTS)
    if what == "models":
        from evalkit.models.resolve import ALIASES, DEMO

        return [f"{DEMO}: the embedded demo model", *(f"{k}: {v}" for k, v in ALIASES.items())]
    if what == "suites":
        from evalkit.texts.presets import load_preset, preset_names

        return [f"{name}: {load_preset(name).summary}" for name in preset_names()]
    if what == "gpus":
        from evalkit.view.plan import card_lines

        return card_lines()
    if what == "runs":
        return [_run_line(run) for run in Store(out).runs()]
    if what == "comparisons":
        return [_comparison_line(*one) for one in Store(out).comparisons()]
    lines = []
    for name in plugins.names(what):
        module = plugins.load(what, name)
        if what == "backends":
            precisions = ", ".join(module.SPEC.precisions)
            lines.append(f"{name}: {module.SPEC.summary} ({precisions})")
        else:
            lines += [f"{spec.name} [{spec.unit}]: {spec.definition}" for spec in module.SPECS]
    return lines


def _stored_comparison(comparison: str | Path | None, store: Store) -> Path:
    folder = store.root / "comparisons"
    if comparison is not None:
        return _one(folder, str(comparison))
    for file in reversed(_by_age(folder)):
        found = store.comparison(file.stem)
        if found is not None and not found.is_partial:
            return file
    return _newest(folder, "compare")


def _stored_file(
    given: str | Path | None, store: str | Path | None, kind: str, command: str
) -> Path:
    """The file `given`, else the stored one of that id, else the newest of its `kind`."""
    if given is not None and Path(given).suffix == ".json":
        return Path(given)
    folder = Store(store).root / kind
    return _newest(folder, command) if given is None else _one(folder, str(given))


def _newest(folder: Path, command: str) -> Path:
    files = _by_age(folder)
    if not files:
        raise StoreError(f"{folder} holds no result: run evalkit {command} first")
    return files[-1]


def _by_age(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)


def _one(folder: Path, start: str) -> Path:
    files = [file for file in folder.glob("*.json") if file.stem.startswith(start)]
    if len(files) == 1:
        return files[0]
    found = "none begins so" if not files else f"{len(files)} begin so"
    if not folder.is_dir():
        found = "there is no store; give its directory"
    raise UsageError(f"{start!r} is not one entry of {folder}: {found}")


def _comparison_line(file: Path, one: Comparison) -> str:
    """Id, when, model, suite, and the verdict of each variant."""
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(file.stat().st_mtime))
    rows = ", ".join(
        f"{called_words(row.variant.label)}"
        f" ({row.verdict.text if row.status == 'ok' else row.status})"
        for row in one.rows
    )
    partial = "  partial" if one.is_partial else ""
    return f"{file.stem}  {when}  {called(one.model.name)}  {one.suite.name}  {rows}{partial}"


def _run_line(run: Run) -> str:
    parts = [run.suite.name, *(task.name for task in run.suite.tasks)]
    return f"{run.id}  {run.created}  {run.status:<13}  {run.model.name}  {run.variant.text}  " + (
        ", ".join(parts)
    )
