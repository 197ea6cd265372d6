"""Speculative decoding gives the tokens of plain decoding, whatever is drafted, on every cache."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from prefix_models import LONGROPE_LIMIT, model_of
from scoring_models import VOCABULARY, disturbed
from transformers import PreTrainedModel

from evalkit.errors import VariantError
from evalkit.inference.speculative import (
    Decoded,
    ModelDraft,
    PromptLookup,
    decode,
    first_difference,
    sampled_acceptance,
)

KINDS = ["llama-tied", "gemma-2", "sliding window", "block-sparse", "learned positions", "alibi"]
LONG = ["block-sparse longrope", "longrope"]
COUNT = 40


def prompt_of(length: int = 20) -> list[int]:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(4, VOCABULARY - 20, (length,), generator=generator).tolist()


class Oracle:
    """Drafts the plain tokens themselves, every `wrong`-th of them replaced."""

    def __init__(self, tokens: Sequence[int], wrong: int) -> None:
        self.tokens, self.wrong = tokens, wrong

    def begin(self) -> None:
        pass

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        places = range(len(tokens), min(len(tokens) + count, len(self.tokens)))
        return [
            (self.tokens[i] + 1) % VOCABULARY if self.wrong and i % self.wrong == 0
            else self.tokens[i]
            for i in places
        ]  # fmt: skip


def in_float64(name: str) -> PreTrainedModel:
    """So exact that there are no ties: tokens must be equal."""
    return model_of(name).double()


@pytest.mark.parametrize("name", [*KINDS, *LONG])
@pytest.mark.parametrize("wrong", [2, 3, 4])
def test_refused_tokens_leave_no_trace(name: str, wrong: int) -> None:
    model, prompt = in_float64(name), prompt_of()
    plain = decode(model, prompt, COUNT)
    draft = Oracle([*prompt, *plain.tokens], wrong)
    found = decode(model, prompt, COUNT, draft=draft, draft_tokens=4)
    assert found.tokens == plain.tokens
    assert 0 < found.kept < found.drafted
    assert found.passes < plain.passes


@pytest.mark.parametrize("name", [*KINDS, *LONG])
def test_another_model_drafts(name: str) -> None:
    model, prompt = in_float64(name), prompt_of()
    plain = decode(model, prompt, COUNT)
    draft = ModelDraft(disturbed(model, 0.03))
    for _ in range(2):  # the second prompt begins with an empty cache
        found = decode(model, prompt, COUNT, draft=draft, draft_tokens=3)
        assert found.tokens == plain.tokens
    assert found.kept > 0


def test_plain_decoding_is_that_of_transformers() -> None:
    model, prompt = in_float64("block-sparse"), prompt_of()
    wanted = model.generate(
        torch.tensor([prompt]), max_new_tokens=COUNT, min_new_tokens=COUNT, do_sample=False,
        eos_token_id=None,
    )  # fmt: skip
    assert decode(model, prompt, COUNT).tokens == wanted[0, len(prompt) :].tolist()


def test_the_model_itself_as_draft_is_always_right() -> None:
    model, prompt = in_float64("llama-tied"), prompt_of()
    found = decode(model, prompt, 41, draft=ModelDraft(model), draft_tokens=4)
    assert found.kept == found.examined == found.drafted
    # 40 tokens behind the prompt's own, five a pass.
    assert found.passes == 8


def test_proposals_never_cross_into_long_factors() -> None:
    model = in_float64("longrope")
    prompt = prompt_of(LONGROPE_LIMIT - 6)
    plain = decode(model, prompt, COUNT)
    seen: list[tuple[int, int]] = []

    class Watched(Oracle):
        def propose(self, tokens: Sequence[int], count: int) -> list[int]:
            seen.append((len(tokens), count))
            return super().propose(tokens, count)

    draft = Watched([*prompt, *plain.tokens], 0)
    assert decode(model, prompt, COUNT, draft=draft, draft_tokens=5).tokens == plain.tokens
    before = [length + count for length, count in seen if length <= LONGROPE_LIMIT]
    assert max(before) == LONGROPE_LIMIT


def test_prompt_lookup_takes_the_newest_longest_match() -> None:
    tokens = [1, 2, 3, 7, 2, 3, 8, 9, 2, 3]
    assert PromptLookup().propose(tokens, 2) == [8, 9]
    assert PromptLookup().propose([1, 2, 3, 4], 2) == []
    assert PromptLookup().propose([5, 1, 2, 3, 6, 2, 3, 7, 1, 2, 3], 1) == [6]


def test_prompt_lookup_decodes_the_same_text() -> None:
    model, prompt = in_float64("llama-tied"), prompt_of(6) * 3
    plain = decode(model, prompt, COUNT)
    found = decode(model, prompt, COUNT, draft=PromptLookup(), draft_tokens=4)
    assert found.tokens == plain.tokens


def test_margins_are_those_of_one_pass_over_everything() -> None:
    model, prompt = in_float64("llama-tied"), prompt_of()
    draft = Oracle([*prompt, *decode(model, prompt, COUNT).tokens], 3)
    found = decode(model, prompt, COUNT, draft=draft, draft_tokens=4, margins=True)
    ids = torch.tensor([[*prompt, *found.tokens]])
    logits = model(ids).logits[0, len(prompt) - 1 : -1]
    best = logits.topk(2).values
    assert found.margins == pytest.approx((best[:, 0] - best[:, 1]).tolist(), abs=1e-5)


def test_the_first_difference_and_the_rounding_before_it() -> None:
    one = Decoded([5, 6, 7, 8], 0.0, 3, margins=(1.0, 0.5, 0.02, 9.0))
    two = Decoded([5, 6, 9, 1], 0.0, 3, margins=(1.1, 0.5, 0.03, 9.0))
    at, gap, noise = first_difference(one, two)
    assert (at, gap, noise) == (2, pytest.approx(0.05), pytest.approx(0.1))
    assert first_difference(one, one) == (None, 0.0, 0.0)


def test_sampled_acceptance_is_one_minus_total_variation() -> None:
    model = in_float64("llama-tied")
    other = disturbed(model, 0.05)
    prompt = prompt_of()
    generator = torch.Generator().manual_seed(1)
    total, count = sampled_acceptance(model, other, prompt, 5, generator)
    # The same five tokens drawn again, the distributions taken from whole passes.
    generator = torch.Generator().manual_seed(1)
    tokens, wanted = list(prompt), 0.0
    for _ in range(5):
        ids = torch.tensor([tokens])
        p, q = (m(ids).logits[0, -1].softmax(-1) for m in (model, other))
        wanted += 1 - float((p - q).detach().abs().sum()) / 2
        tokens.append(int(torch.multinomial(p.float(), 1, generator=generator)))
    assert count == 5
    assert total == pytest.approx(wanted, abs=1e-5)
    assert 0.3 < total / count < 1


def test_a_recurrent_state_is_refused_in_one_line() -> None:
    with pytest.raises(VariantError, match="cannot be taken back"):
        decode(model_of("recurrent"), prompt_of(), 4)


def test_nothing_beyond_the_count_is_made() -> None:
    model, prompt = in_float64("llama-tied"), prompt_of()
    for count, drafted in itertools.product((1, 2, 3, 7), (1, 4)):
        found = decode(model, prompt, count, draft=ModelDraft(model), draft_tokens=drafted)
        assert len(found.tokens) == count
