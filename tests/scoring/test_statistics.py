"""Statistics of given logits against their definitions in float64, down to the noise floor."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from scoring_models import direct

from evalkit import plugins
from evalkit.errors import EvalkitError, UsageError
from evalkit.scoring.block import Block, Distribution
from evalkit.scoring.statistics import Statistic, find_statistic, statistic
from evalkit.scoring.token_statistics import TokenStatistics

STATISTICS = ("nll", "ref_nll", "kl", "tv", "delta_p", "same_top1")

CPU = torch.device("cpu")


def logits_like_a_model(rows: int, vocabulary: int, scale: float = 3.0) -> torch.Tensor:
    """A wide spread with one dominant id a row, as language models have it."""
    generator = torch.Generator().manual_seed(vocabulary)
    logits = scale * torch.randn(rows, vocabulary, generator=generator)
    best = torch.randint(vocabulary, (rows, 1), generator=generator)
    return logits.scatter_add(1, best, torch.full((rows, 1), 4 * scale))


def disturb(logits: torch.Tensor, noise: float, offset: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return logits + noise * torch.randn(logits.shape, generator=generator) + offset


def compute(
    q: torch.Tensor, targets: torch.Tensor, p: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    names = STATISTICS if p is not None else {"nll"}
    return TokenStatistics(names, q.shape[1], CPU)(q, targets, p)


@pytest.mark.parametrize("vocabulary", [50, 300, 32064, 100352])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_statistics_equal_their_definitions(vocabulary: int, dtype: torch.dtype) -> None:
    p = logits_like_a_model(48, vocabulary).to(dtype)
    q = disturb(p, 0.3, offset=5.0).to(dtype)
    targets = torch.arange(48)
    found, expected = compute(q, targets, p), direct(q, targets, p)
    for name in STATISTICS:
        torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            found[name].double().mean(), expected[name].mean(), rtol=1e-4, atol=1e-9
        )


@pytest.mark.parametrize("vocabulary", [512, 100352])
@pytest.mark.parametrize(("noise", "relative"), [(1e-2, 5e-3), (1e-3, 0.2)])
def test_tiny_divergences_are_resolved(vocabulary: int, noise: float, relative: float) -> None:
    """KL divergences of 1e-5 and 1e-7, where a naive difference of sums is off by 1e-6 to 1e-5."""
    p = logits_like_a_model(64, vocabulary)
    q = disturb(p, noise, offset=0.7)
    targets = torch.arange(64)
    found, expected = compute(q, targets, p), direct(q, targets, p)
    assert expected["kl"].mean() < 1e-4
    assert (found["kl"] - expected["kl"]).abs().max() < 1e-6
    torch.testing.assert_close(
        found["kl"].double().mean(), expected["kl"].mean(), rtol=relative, atol=0.0
    )
    torch.testing.assert_close(
        found["tv"].double().mean(), expected["tv"].mean(), rtol=1e-3, atol=0.0
    )


def test_nll_is_exact_at_a_large_vocabulary() -> None:
    """float32 softmax alone is off by 3e-5 here."""
    p = logits_like_a_model(64, 100352)
    targets = torch.arange(64)
    expected = torch.nn.functional.cross_entropy(p.double(), targets, reduction="none")
    found = compute(p, targets)["nll"]
    assert (found - expected).abs().max() < 2e-6


def test_equal_logits_have_no_divergence() -> None:
    p = logits_like_a_model(16, 5000)
    found = compute(p.clone(), torch.arange(16), p)
    assert found["kl"].abs().max() == 0.0
    assert found["tv"].max() == 0.0
    assert found["delta_p"].abs().max() == 0.0


@pytest.mark.parametrize("low", [torch.finfo(torch.float32).min, float("-inf")])
def test_masked_ids_are_left_out(low: float) -> None:
    p = logits_like_a_model(20, 1000)
    q = disturb(p, 0.3)
    targets = torch.arange(20)
    kept = torch.ones(1000, dtype=torch.bool)
    kept[[400, 998, 999]] = False
    expected = direct(q[:, kept], targets, p[:, kept])
    p[:, ~kept] = low
    q[:, ~kept] = low
    found = compute(q, targets, p)
    for name in STATISTICS:
        assert torch.isfinite(found[name]).all()
        torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-4, atol=1e-6)


def test_ids_masked_only_in_the_reference_add_nothing_to_the_divergence() -> None:
    p = logits_like_a_model(20, 1000)
    q = disturb(p, 0.3)
    p[:, 5] = float("-inf")
    targets = torch.arange(20) + 100
    found, expected = compute(q, targets, p), direct(q, targets, p)
    torch.testing.assert_close(found["kl"].double(), expected["kl"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["tv"].double(), expected["tv"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("vocabulary", [100, 512, 513, 1000, 32064])
def test_first_of_equal_maxima_is_the_top_token(vocabulary: int) -> None:
    """16-bit logits often tie at the top."""
    generator = torch.Generator().manual_seed(0)
    p = torch.randint(0, 3, (64, vocabulary), generator=generator).float()
    q = torch.randint(0, 3, (64, vocabulary), generator=generator).float()
    q[::2] = p[::2]
    p[5], p[5, -1] = 0.0, 1.0
    q[5] = p[5]
    found = compute(q, torch.zeros(64, dtype=torch.long), p)
    torch.testing.assert_close(found["same_top1"], (p.argmax(-1) == q.argmax(-1)).float())
    assert 0 < found["same_top1"].mean() < 1


def test_every_file_is_a_statistic_and_only_the_likelihood_needs_no_reference() -> None:
    found = {name: find_statistic(name) for name in plugins.names("statistics")}
    assert set(found) == set(STATISTICS)
    assert [name for name, one in found.items() if not one.needs_reference] == ["nll"]


def test_a_mistyped_statistic_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"unknown statistic 'delta'.*did you mean 'delta_p'"):
        find_statistic("delta")


def test_declaring_a_statistic_imports_no_torch() -> None:
    code = (
        "import sys; from evalkit import plugins; from evalkit.scoring.statistics import"
        " find_statistic; [find_statistic(name) for name in plugins.names('statistics')];"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_statistic_of_one_function_sees_what_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    @statistic(needs_reference=False)
    def entropy(block: Block) -> torch.Tensor:
        return torch.special.entr(torch.mul(block.q.probabilities(), 1, out=block.buffer)).sum(-1)

    add(monkeypatch, "entropy", entropy)
    p = logits_like_a_model(40, 3000)
    found = TokenStatistics({"entropy"}, 3000, CPU)(p, torch.arange(40))
    expected = torch.distributions.Categorical(logits=p.double()).entropy()
    torch.testing.assert_close(found["entropy"].double(), expected, rtol=1e-5, atol=1e-6)


def test_a_statistic_of_another_shape_or_without_declaration_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add(monkeypatch, "whole", Statistic(lambda block: block.q.softmax, needs_reference=False))
    p = logits_like_a_model(4, 100)
    with pytest.raises(EvalkitError, match=r"shape \(4, 100\) for 4 tokens: give one number a"):
        TokenStatistics({"whole"}, 100, CPU)(p, torch.arange(4))
    add(monkeypatch, "plain", lambda block: block.q.nll)
    with pytest.raises(EvalkitError, match=r"'plain' is not declared: decorate it with @statistic"):
        find_statistic("plain")


def test_probabilities_sum_to_one() -> None:
    p = logits_like_a_model(8, 100352)
    one = Distribution(p, torch.arange(8)[:, None], torch.empty_like(p))
    sums = one.probabilities().double().sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=2e-7)


def add(monkeypatch: pytest.MonkeyPatch, name: str, function: object) -> None:
    """Let `name` be a statistic of another package."""
    known = plugins.function
    monkeypatch.setattr(
        plugins, "function", lambda group, one: function if one == name else known(group, one)
    )
