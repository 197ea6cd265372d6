"""The front of divergence and bytes: its order rests on paired differences."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from evalkit.analysis.compare import Measured
from evalkit.analysis.equal_bytes import equal_bytes
from evalkit.analysis.summaries import TokenTable
from evalkit.records import Row, Value, Variant
from evalkit.records.equal_bytes import EqualBytes

WINDOWS, TOKENS = 40, 64
DRAW = np.random.default_rng(0)
# How hard each token is, alike for all formats: much wider than what they differ by.
HARD = DRAW.lognormal(-1, 1.5, WINDOWS * TOKENS)


def table(kl: NDArray[np.float64]) -> TokenTable:
    window = np.repeat(np.arange(WINDOWS, dtype=np.int32), TOKENS)
    columns = {"window": window, "kl": kl.astype(np.float32)}
    windows = {
        "slice": np.zeros(WINDOWS, np.int32),
        "document": np.arange(WINDOWS, dtype=np.int32),
        "scored": np.full(WINDOWS, TOKENS),
    }
    return TokenTable(windows, lambda name: columns[name])


def compared(*formats: tuple[Variant, float, NDArray[np.float64]]) -> EqualBytes:
    """The formats, each with its bytes and divergence of each token, behind a baseline."""
    base = Variant("fp16", "transformers", asked="fp16")
    rows, measured = [Row(base, "ok")], [Measured(base, ())]
    for variant, size, kl in formats:
        metrics = {
            "weight_bytes": Value(size, "bytes"), "bits_per_weight": Value(8.0, "bits"),
            "kl_divergence_mean": Value(float(kl.mean()), "nats"),
        }  # fmt: skip
        rows.append(Row(variant, "ok", metrics=metrics, label=variant.label))
        measured.append(Measured(variant, (), tokens=table(kl)))
    return equal_bytes(rows, measured, noise=0.0)


def method(name: str, seed: int = 0) -> Variant:
    options = (("calibration_seed", seed),) if seed else ()
    return Variant("int4", name, options, asked=f"{name} {seed}" if seed else name)


def noise(scale: float) -> NDArray[np.float64]:
    return scale * HARD * DRAW.standard_normal(len(HARD))


def test_formats_of_overlapping_intervals_are_told_apart_by_their_tokens() -> None:
    small = compared(
        (method("rtn"), 100.0, HARD), (method("gptq"), 110.0, 0.95 * HARD + noise(0.05))
    )
    rtn, gptq = small.rows
    assert gptq.high > rtn.low, "each alone does not tell them apart"
    assert [row.place for row in small.rows] == ["front", "front"]
    (pair,) = small.pairs
    assert (pair.variant, pair.other) == ("gptq", "rtn")
    assert pair.high < 0 and not pair.is_tied


def test_what_a_smaller_one_equals_is_tied_and_what_it_beats_is_dominated() -> None:
    found = compared(
        (method("worse"), 120.0, 1.1 * HARD),
        (method("same"), 110.0, HARD + noise(0.2)),
        (method("small"), 100.0, HARD),
        (method("best"), 200.0, 0.1 * HARD),
    )
    assert [(row.label, row.place, row.other) for row in found.rows] == [
        ("small", "front", ""), ("same", "tied", "small"), ("worse", "dominated", "small"),
        ("best", "front", ""),
    ]  # fmt: skip
    assert [row.words for row in found.rows[:3]] == [
        "front", "not told from small", "small is closer",
    ]  # fmt: skip
    assert len(found.pairs) == 6
    assert [pair.is_tied for pair in found.pairs].count(True) == 1


def test_seeds_of_calibration_are_one_format_that_differs_only_where_all_do() -> None:
    seeds = [(method("gptq", seed), 110.0, (0.9 + 0.04 * seed) * HARD) for seed in range(3)]
    better, mixed = (
        compared((method("rtn"), 100.0, level * HARD), *seeds).rows for level in (1.0, 0.95)
    )
    for _, gptq in (better, mixed):
        assert gptq.variants == ("gptq", "gptq 1", "gptq 2")
        assert gptq.kl == pytest.approx(0.94 * HARD.mean(), rel=1e-6)
        assert gptq.kl_most / gptq.kl_least == pytest.approx(0.98 / 0.9)
    assert better[1].place == "front"
    assert (mixed[1].place, mixed[1].other) == ("tied", "rtn")


def test_what_has_no_bytes_or_no_divergence_has_no_place() -> None:
    assert compared() == EqualBytes()
    variant = method("gptq")
    row = Row(variant, "ok", metrics={"kl_divergence_mean": Value(0.1, "nats")})
    base = Row(method("fp16"), "ok")
    measured = [Measured(base.variant, ()), Measured(variant, (), tokens=table(HARD))]
    assert equal_bytes([base, row], measured, 0.0) == EqualBytes()
