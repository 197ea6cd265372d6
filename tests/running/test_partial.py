"""A failed or interrupted comparison replaces no good one, is not the newest, and says so."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

import evalkit
from evalkit import cli
from evalkit.records import Comparison, Model, Row, Status, Suite, Variant, Verdict
from evalkit.running.compare.run import _partial, _save
from evalkit.store.store import Store


def comparison(*statuses: Status, name: str = "m", runs: str = "r") -> Comparison:
    variants = [Variant("fp32", "transformers"), Variant("int8", "bitsandbytes")]
    rows = tuple(
        Row(variant, status, verdict=Verdict("no loss"), runs=(f"{runs}{variant.text}",))
        for variant, status in zip(variants, statuses, strict=True)
    )
    return Comparison(Model(name, "i"), Suite("custom"), "fp32", "1pp", rows)


def test_what_lost_rows_lies_beside_what_it_would_replace(tmp_path: Path) -> None:
    store = Store(tmp_path).prepare()
    _save(store, comparison("ok", "ok"))
    _save(store, _partial(comparison("ok", "interrupted")))
    _save(store, comparison("failed", "failed"))
    assert evalkit.load_comparison(store=tmp_path).rows == comparison("ok", "ok").rows
    # Both share the place beside it, and a better one takes its own.
    assert len(store.comparisons()) == 2
    again = dataclasses.replace(comparison("ok", "ok"), sentence="again")
    _save(store, again)
    assert evalkit.load_comparison(store=tmp_path).sentence == "again"


@pytest.mark.parametrize(
    ("statuses", "partial"),
    [
        (("ok", "ok"), False),
        # A variant that cannot be made is a result.
        (("ok", "failed"), True),
        (("failed", "ok"), True),
        (("ok", "interrupted"), True),
        (("ok", "running"), True),
    ],
)
def test_the_newest_is_a_whole_one(
    statuses: tuple[Status, Status], partial: bool, tmp_path: Path
) -> None:
    store = Store(tmp_path).prepare()
    _save(store, comparison("ok", "ok"))
    later = comparison(*statuses, runs="other")
    _save(store, later)
    for number, (file, _) in enumerate(store.comparisons()):
        os.utime(file, (number, number + 10 * ("other" in file.read_text())))
    assert later.is_partial is partial
    assert (evalkit.load_comparison(store=tmp_path).rows == later.rows) is not partial


def test_partial_results_are_opened_where_there_are_no_others(tmp_path: Path) -> None:
    _save(Store(tmp_path).prepare(), _partial(comparison("ok", "interrupted")))
    found = evalkit.load_comparison(store=tmp_path)
    assert found.sentence.startswith("Partial results: 1 of 2 variants")
    assert "Partial results" in evalkit.report(found)


def test_comparisons_are_listed_with_ids_that_open_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path).prepare()
    _save(store, comparison("ok", "ok", name="evil\x1b[2J\nname"))
    _save(store, comparison("ok", "failed", runs="other"))
    (store.root / "comparisons" / "broken.json").write_text("{")
    with pytest.raises(SystemExit):
        cli.main(["list", "comparisons", "--out", str(tmp_path)])
    lines = sorted(capsys.readouterr().out.splitlines(), key=lambda line: "evil" in line)
    assert len(lines) == 2
    assert lines[0].endswith(
        "m  custom  fp32@transformers (no loss), int8@bitsandbytes (failed)  partial"
    )
    assert "evil name  custom  fp32@transformers (no loss), int8@bitsandbytes (no" in lines[1]
    found = evalkit.load_comparison(lines[1].split()[0][:8], store=tmp_path)
    assert found.rows[1].status == "ok"
