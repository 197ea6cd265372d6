"""Intervals hold what they claim: benchmarks/interval_coverage.py in small, and its record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evalkit.records import Claim

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "interval-coverage.json"


@pytest.mark.parametrize(
    ("claim", "documents", "windows"),
    [
        (Claim.DOCUMENTS, 1, 1),
        (Claim.DOCUMENTS, 1, 3),
        (Claim.DOCUMENTS, 5, 1),
        (Claim.TEXTS, 5, 1),
    ],
)
def test_an_interval_covers_what_it_claims(
    claim: Claim, documents: int, windows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import interval_coverage

    # Of 250 repetitions at 95 %, nine in ten thousand leave these bounds.
    assert 0.90 <= interval_coverage.coverage(claim, documents, windows, 250) <= 0.992


def test_the_record_covers_every_claim_and_holds() -> None:
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    assert {row["claim"] for row in rows} == {Claim.TOKENS, Claim.DOCUMENTS, Claim.TEXTS}
    assert all(0.93 <= row["coverage"] <= 0.97 for row in rows)
