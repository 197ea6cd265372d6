"""The engine against direct float64 computation, and what it promises about batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scoring_models import CONFIGS, build, disturbed, oracle, ragged_windows, windows_of
from transformers import PreTrainedModel

from evalkit import plugins
from evalkit.errors import OutOfMemoryError, UsageError, VariantError
from evalkit.scoring.engine import ScoredBatch, score_windows
from evalkit.scoring.reference import Reference, ReferenceWriter
from evalkit.texts.windows import Windows

STATISTICS = plugins.names("statistics")


def record(model: PreTrainedModel, windows: Windows, path: Path, batch_tokens: int = 64) -> Any:
    writer = ReferenceWriter.open(path, model, windows)
    batches = list(
        score_windows(model, windows, batch_tokens=batch_tokens, statistics={"nll"}, record=writer)
    )
    writer.complete()
    return joined(batches)


def compare(
    model: PreTrainedModel, windows: Windows, path: Path, batch_tokens: int = 64
) -> dict[str, np.ndarray]:
    reference = Reference.open(path, model, windows)
    return joined(
        score_windows(
            model,
            windows,
            batch_tokens=batch_tokens,
            statistics=STATISTICS,
            reference=reference,
        )
    )


def joined(batches: Any) -> dict[str, np.ndarray]:
    """Columns of all batches in the order of windows and positions."""
    parts = [batch.columns for batch in batches]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((columns["position"], columns["window"]))
    return {name: values[order] for name, values in columns.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_statistics_equal_direct_float64_computation(name: str, tmp_path: Path) -> None:
    model, windows = build(name), ragged_windows()
    variant = disturbed(model, 0.03)
    baseline = record(model, windows, tmp_path / "r")
    found = compare(variant, windows, tmp_path / "r")
    expected = oracle(variant, windows, model)
    np.testing.assert_allclose(baseline["nll"], expected["ref_nll"], rtol=1e-4)
    assert expected["kl"].mean() > 1e-3
    assert 0 < expected["same_top1"].mean() < 1
    for column in STATISTICS:
        absolute = 2e-6 if column in ("kl", "delta_p", "tv") else 0.0
        np.testing.assert_allclose(found[column], expected[column], 1e-4, absolute, err_msg=column)
        np.testing.assert_allclose(
            found[column].mean(dtype=np.float64), expected[column].mean(), 1e-4, err_msg=column
        )


def test_every_scored_token_has_one_row(tmp_path: Path) -> None:
    windows = ragged_windows()
    found = record(build("phi-3"), windows, tmp_path / "r")
    expected = [
        (window, position)
        for window in range(len(windows))
        for position in range(int(windows.score_from[window]), int(windows.lengths[window]))
    ]
    assert list(zip(found["window"], found["position"], strict=True)) == expected


@pytest.mark.parametrize("name", ["llama-tied", "gemma-2", "phi-3-small"])
def test_a_model_compared_with_itself_differs_in_nothing(name: str, tmp_path: Path) -> None:
    model, windows = build(name), ragged_windows()
    record(model, windows, tmp_path / "r")
    found = compare(model, windows, tmp_path / "r")
    assert np.abs(found["kl"]).max() < 1e-6
    assert found["tv"].max() < 1e-6
    assert found["same_top1"].min() == 1.0
    np.testing.assert_array_equal(found["nll"], found["ref_nll"])


def test_batch_size_changes_rounding_only(tmp_path: Path) -> None:
    model, windows = build("phi-3"), ragged_windows()
    one = record(model, windows, tmp_path / "a", batch_tokens=1)
    other = record(model, windows, tmp_path / "b", batch_tokens=10_000)
    np.testing.assert_allclose(one["nll"], other["nll"], rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_baseline_is_kept_in_two_bytes_and_compared_exactly(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    windows = ragged_windows()
    model = build("llama-tied").to(dtype)
    record(model, windows, tmp_path / "r")
    size = (tmp_path / "r" / "rows.bin").stat().st_size
    assert size == len(windows) + windows.scored.sum() * 32 * 2
    found = compare(model, windows, tmp_path / "r")
    np.testing.assert_array_equal(found["kl"], 0.0)
    # Against the float32 model, whose own head differs in dtype.
    wide = build("llama-tied")
    mixed = compare(wide, windows, tmp_path / "r")
    np.testing.assert_array_equal(mixed["ref_nll"], found["nll"])
    assert 0 < mixed["kl"].mean() < 0.1


def test_finished_windows_are_not_scored_again(tmp_path: Path) -> None:
    model, windows = build("phi-3"), ragged_windows()
    whole = record(model, windows, tmp_path / "a")
    writer = ReferenceWriter.open(tmp_path / "b", model, windows)
    options: dict[str, Any] = {"batch_tokens": 64, "statistics": {"nll"}}
    stopped = score_windows(model, windows, record=writer, **options)
    first = [next(stopped), next(stopped)]
    stopped.close()
    done = {int(window) for batch in first for window in batch.windows}
    again = ReferenceWriter.open(tmp_path / "b", model, windows)
    rest = list(score_windows(model, windows, record=again, done=done, **options))
    again.complete()
    assert done.isdisjoint(int(window) for batch in rest for window in batch.windows)
    np.testing.assert_array_equal(joined(first + rest)["nll"], whole["nll"])
    rows = [(tmp_path / name / "rows.bin").read_bytes() for name in "ab"]
    assert rows[0] == rows[1]


class SmallMemory:
    """A model that runs out of memory beyond `limit` tokens a batch."""

    def __init__(self, model: PreTrainedModel, limit: int, error: Exception) -> None:
        self.sizes: list[int] = []

        def refuse(module: Any, args: Any, kwargs: Any) -> None:
            self.sizes.append(kwargs["input_ids"].numel())
            if self.sizes[-1] > limit:
                raise error

        model.base_model.register_forward_pre_hook(refuse, with_kwargs=True)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_halves_the_batch_and_says_so(error: Exception, tmp_path: Path) -> None:
    windows = ragged_windows([33] * 16)
    expected = record(build("phi-3"), windows, tmp_path / "r", batch_tokens=64)
    model = build("phi-3")
    memory = SmallMemory(model, 100, error)
    halved: list[int] = []
    batches = list(
        score_windows(
            model,
            windows,
            batch_tokens=512,
            statistics={"nll"},
            on_batch_halved=halved.append,
        )
    )
    assert halved == [256, 128, 64]
    assert [note for batch in batches for note in batch.notes] == [
        f"out of memory: the batch was halved to {tokens} tokens" for tokens in halved
    ]
    # Once it is known what fits, nothing larger is tried.
    assert sum(size > 100 for size in memory.sizes) == 3
    np.testing.assert_allclose(joined(batches)["nll"], expected["nll"], rtol=1e-5)


def test_a_window_that_does_not_fit_ends_in_one_line() -> None:
    windows = ragged_windows([80, 80])
    model = build("phi-3")
    SmallMemory(model, 70, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(OutOfMemoryError, match="one window of 79 tokens does not fit"):
        list(score_windows(model, windows, batch_tokens=64, statistics={"nll"}))


def test_a_batch_that_may_not_be_halved_ends_in_one_line() -> None:
    model = build("phi-3")
    memory = SmallMemory(model, 100, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(OutOfMemoryError, match="a batch of 16 rows, the longest a window of 32"):
        list(
            score_windows(
                model,
                ragged_windows([33] * 16),
                batch_tokens=512,
                statistics={"nll"},
                halve=False,
            )
        )
    assert sum(size > 100 for size in memory.sizes) == 1


def test_other_errors_of_a_model_are_not_taken_for_memory() -> None:
    model = build("phi-3")
    SmallMemory(model, 70, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(score_windows(model, ragged_windows([80]), batch_tokens=64, statistics={"nll"}))


def test_a_window_longer_than_the_budget_is_a_batch_of_its_own() -> None:
    windows = ragged_windows([70, 9, 9])
    batches = list(score_windows(build("phi-3"), windows, batch_tokens=20, statistics={"nll"}))
    assert [list(batch.windows) for batch in batches] == [[0], [1, 2]]


def test_nan_logits_are_refused() -> None:
    model = build("phi-3")
    with torch.no_grad():
        model.get_output_embeddings().weight[5] = float("nan")
    with pytest.raises(VariantError, match=r"not numbers .*, first in lm_head, .* use bf16"):
        list(score_windows(model, ragged_windows(), batch_tokens=64, statistics={"nll"}))


def test_divergences_need_a_reference() -> None:
    with pytest.raises(UsageError, match="kl, tv need the baseline's reference"):
        list(
            score_windows(
                build("phi-3"), ragged_windows(), batch_tokens=64, statistics={"kl", "tv"}
            )
        )
    with pytest.raises(UsageError, match="did you mean 'nll'"):
        list(score_windows(build("phi-3"), ragged_windows(), batch_tokens=9, statistics={"nl"}))


def test_a_model_without_separable_head_is_stored_by_its_logits(tmp_path: Path) -> None:
    windows = ragged_windows()
    model = build("phi-3")
    with torch.no_grad():
        scale = torch.linspace(0.5, 1.5, model.config.vocab_size)
    own = model.forward

    def forward(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        logits = own(input_ids=input_ids, **kwargs).logits
        return SimpleNamespace(logits=logits + torch.sin(input_ids[..., None] * scale))

    model.forward = forward
    writer = ReferenceWriter.open(tmp_path / "r", model, windows)
    batches: list[ScoredBatch] = list(
        score_windows(model, windows, batch_tokens=64, statistics={"nll"}, record=writer)
    )
    writer.complete()
    notes = [note for batch in batches for note in batch.notes]
    assert len(notes) == 1
    assert "is scored by its whole logits" in notes[0]
    assert writer.layout.kind == "logits"
    with torch.inference_mode():
        ids = torch.from_numpy(windows.window(1).astype(np.int64))
        logits = model(input_ids=ids[None]).logits[0, :-1]
    expected = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
    found = joined(batches)
    np.testing.assert_allclose(found["nll"][found["window"] == 1], expected, rtol=1e-4)
    same = compare(model, windows, tmp_path / "r")
    np.testing.assert_array_equal(same["kl"], 0.0)


def test_model_is_left_as_it_was(tmp_path: Path) -> None:
    model, windows = build("phi-3"), ragged_windows()
    head = model.get_output_embeddings()
    other = disturbed(model, 0.1)
    record(other, windows, tmp_path / "r")
    compare(model, windows, tmp_path / "r")
    assert model.get_output_embeddings() is head
    assert "forward" not in model.base_model.__dict__


def test_longrope_batches_do_not_mix_short_and_long_factors(tmp_path: Path) -> None:
    model = build("phi-3")
    rope = {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [8.0] * 4,
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 24,
    }
    config = type(model.config)(**{**model.config.to_dict(), "rope_parameters": rope})
    config.original_max_position_embeddings = 24
    torch.manual_seed(0)
    model = type(model)(config).eval()
    windows = ragged_windows([29, 24, 28, 23, 25])
    alone = record(model, windows, tmp_path / "a", batch_tokens=1)
    together = record(model, windows, tmp_path / "b", batch_tokens=1000)
    np.testing.assert_allclose(together["nll"], alone["nll"], rtol=1e-4)


def test_windows_of_one_scored_token() -> None:
    windows = windows_of([[5, 6], [7, 8, 9]], [1, 2])
    model = build("llama-tied")
    found = joined(score_windows(model, windows, batch_tokens=64, statistics={"nll"}))
    np.testing.assert_allclose(found["nll"], oracle(model, windows)["nll"], rtol=1e-4)


def test_masked_padding_changes_nothing(tmp_path: Path) -> None:
    model, windows = build("phi-3"), ragged_windows([9, 8, 40, 35, 31])
    options: dict[str, Any] = {"batch_tokens": 200, "statistics": {"nll"}}
    writer = ReferenceWriter.open(tmp_path / "r", model, windows)
    assert not writer.forward.masked
    bare = joined(score_windows(model, windows, record=writer, **options))
    writer.forward = dataclasses.replace(writer.forward, masked=True)
    masked = joined(score_windows(model, windows, record=writer, **options))
    np.testing.assert_allclose(masked["nll"], bare["nll"], rtol=1e-5)
    np.testing.assert_allclose(masked["nll"], oracle(model, windows)["nll"], rtol=1e-4)
