import random

import pytest

from evalkit.analysis.speculation import expected_speedup, expected_tokens_per_pass


def test_the_formula_of_the_paper() -> None:
    assert expected_tokens_per_pass(0.8, 4) == pytest.approx((1 - 0.8**5) / (1 - 0.8))
    assert expected_tokens_per_pass(1.0, 4) == 5
    assert expected_tokens_per_pass(0.0, 4) == 1


def test_it_is_the_mean_of_independent_draws() -> None:
    generator = random.Random(0)

    def one_pass() -> int:
        made = 1
        while made < 5 and generator.random() < 0.7:
            made += 1
        return made

    mean = sum(one_pass() for _ in range(20000)) / 20000
    assert expected_tokens_per_pass(0.7, 4) == pytest.approx(mean, abs=0.04)


def test_a_draft_as_slow_as_its_target_never_pays() -> None:
    assert expected_speedup(1.0, 4, 1.0) == pytest.approx(1.0)
    assert expected_speedup(0.9, 4, 1.0) < 1
    assert expected_speedup(0.9, 4, 0.25) == pytest.approx(expected_tokens_per_pass(0.9, 4) / 2)
