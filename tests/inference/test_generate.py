"""Generated text equals that of a loop without cache, batch or shared prefix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from prefix_models import ALL, LONGROPE_LIMIT, model_of, runner_of, tokenizer_of_words
from scipy.stats import chisquare
from scoring_models import VOCABULARY
from transformers import PreTrainedModel

from evalkit.errors import DataError, NotFiniteError
from evalkit.inference.budget import Budget
from evalkit.inference.decoding import Chooser, Decoding
from evalkit.inference.generate import generate_texts

TOKENIZER = tokenizer_of_words()
GREEDY = {"do_sample": False}


def prompts(seed: int = 0) -> list[list[int]]:
    """Few-shot prompts with shared examples, one that others begin with, one twice."""
    random = np.random.default_rng(seed)

    def tokens(count: int) -> list[int]:
        return [int(token) for token in random.integers(4, VOCABULARY, count)]

    examples = tokens(25)
    found = [examples + tokens(count) for count in (4, 11, 16, 19)]
    found += [tokens(count) for count in (1, 7, 20, LONGROPE_LIMIT + 2)]
    return [*found, examples, found[1], [*found[5], 9]]


def by_whole_passes(
    model: PreTrainedModel, prompt: Sequence[int], count: int, ends: Sequence[int] = (2,)
) -> list[int]:
    """Greedy tokens, each from a forward pass over everything before it."""
    tokens = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] in ends:
            break
    return tokens[len(prompt) :]


def generate(model: PreTrainedModel, texts: Sequence[Sequence[int]], **options: Any) -> list[str]:
    budget = options.pop("budget", Budget(256, 4096))
    decoding = Decoding(options.pop("count", 8), tuple(options.pop("stop", ())), options or GREEDY)
    seeds = list(range(len(texts)))
    return generate_texts(runner_of(model, budget), TOKENIZER, texts, decoding, seeds=seeds)


def words(tokens: Sequence[int]) -> str:
    return str(TOKENIZER.decode(tokens, skip_special_tokens=True))


@pytest.mark.parametrize("name", ALL)
def test_greedy_text_equals_that_of_whole_passes(name: str) -> None:
    model = model_of(name)
    found = generate(model, prompts())
    assert found == [words(by_whole_passes(model, prompt, 8)) for prompt in prompts()]


@pytest.mark.parametrize("budget", [Budget(1, 2), Budget(64, 300), Budget(4096, 65536)])
@pytest.mark.parametrize("name", ["phi-3", "block-sparse", "longrope"])
def test_rows_that_wait_and_join_get_the_same_text(name: str, budget: Budget) -> None:
    model = model_of(name)
    found = generate(model, prompts(), budget=budget, count=6)
    assert found == [words(by_whole_passes(model, prompt, 6)) for prompt in prompts()]


def test_a_stop_string_ends_a_row_and_is_cut_off() -> None:
    model, texts = model_of("phi-3"), prompts()[:6]
    whole = [words(by_whole_passes(model, prompt, 20)).split() for prompt in texts]
    # A string over the edge of two words stops the first row after three words.
    stop = f"{whole[0][2]} {whole[0][3][:2]}"
    found = generate(model, texts, count=20, stop=[stop, "never"])
    for text, expected in zip(found, whole, strict=True):
        assert text == " ".join(expected).split(stop)[0]
    assert len(found[0].split()) == 2


def test_stopped_rows_are_not_run_on() -> None:
    model, texts = model_of("phi-3"), prompts()[:6]
    rows = 0

    def count(_module: Any, _arguments: Any, keywords: dict[str, Any]) -> None:
        nonlocal rows
        if keywords.get("use_cache") and keywords["input_ids"].shape[1] == 1:
            rows += len(keywords["input_ids"])

    model.model.register_forward_pre_hook(count, with_kwargs=True)
    generate(model, texts, count=20, stop=["w"])
    assert rows == 0
    generate(model, texts, count=20)
    assert rows == 6 * 19


def test_the_models_own_end_tokens_end_a_text() -> None:
    model, texts = model_of("llama-tied"), prompts()[:6]
    third = by_whole_passes(model, texts[0], 3)[2]
    model.generation_config.eos_token_id = [2, third]
    found = generate(model, texts, count=10)
    expected = [by_whole_passes(model, prompt, 10, ends=(2, third)) for prompt in texts]
    assert found == [words(tokens) for tokens in expected]
    assert len(expected[0]) <= 3


def test_options_that_look_at_the_text_equal_those_of_transformers() -> None:
    model, texts = model_of("phi-3"), prompts()[:6]
    options = {"do_sample": False, "repetition_penalty": 1.8, "min_new_tokens": 4}
    found = generate(model, texts, count=12, **options)
    for text, prompt in zip(found, texts, strict=True):
        ids = torch.tensor([prompt])
        own = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, **options)
        assert text == words(own[0, len(prompt) :].tolist())


def test_settings_are_prepared_once_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model, texts = model_of("phi-3"), prompts()[:4]
    prepared: list[int] = []
    own = Chooser._prepare

    def prepare(chooser: Chooser, prompt: Sequence[int]) -> Any:
        prepared.append(len(prompt))
        return own(chooser, prompt)

    monkeypatch.setattr(Chooser, "_prepare", prepare)
    generate(model, texts, count=12, do_sample=False, repetition_penalty=1.8)
    assert sorted(prepared) == sorted([1, *map(len, texts)])


def test_drawn_tokens_follow_the_probabilities() -> None:
    model, prompt, draws = model_of("phi-3"), prompts()[0], 3000
    options = {"do_sample": True, "temperature": 2.0, "top_k": 5}
    found = Counter(generate(model, [prompt] * draws, count=1, **options))
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1].double()
    top = logits.topk(5)
    expected = (top.values / 2.0).softmax(-1).numpy()
    seen = [found[words([token])] for token in top.indices.tolist()]
    assert sum(seen) == draws
    assert chisquare(seen, expected * draws).pvalue > 1e-4


@pytest.mark.parametrize("name", ["phi-3", "recurrent"])
def test_a_drawn_text_depends_on_its_seed_not_on_its_neighbours(name: str) -> None:
    model, texts = model_of(name), prompts()[:5]
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0}
    together = generate(model, texts, count=6, **options)
    runner, decoding = runner_of(model), Decoding(6, (), options)
    for index, text in enumerate(texts):
        alone = generate_texts(runner, TOKENIZER, [text], decoding, seeds=[index])
        assert alone == [together[index]]
    again = generate_texts(runner, TOKENIZER, texts[:1], decoding, seeds=[99])
    assert again != together[:1]


def test_texts_are_told_as_they_come() -> None:
    model, texts = model_of("phi-3"), prompts()
    told: dict[int, str] = {}
    found = generate_texts(
        runner_of(model), TOKENIZER, texts, Decoding(4, (), GREEDY), seeds=[0] * len(texts),
        on_generated=lambda index, text: told.update({index: text}),
    )  # fmt: skip
    assert [told[index] for index in range(len(texts))] == found


@pytest.mark.parametrize(
    ("options", "words_of_error"),
    [({"num_beams": 3, "do_sample": False}, "num_beams"), ({"heat": 2}, "heat")],
)
def test_options_that_cannot_be_honoured_are_refused(
    options: dict[str, Any], words_of_error: str
) -> None:
    with pytest.raises(DataError, match=words_of_error) as caught:
        generate(model_of("phi-3"), prompts()[:1], **options)
    assert "\n" not in str(caught.value)


def test_no_prompts_no_texts() -> None:
    assert generate(model_of("phi-3"), []) == []


@pytest.mark.parametrize("name", ["phi-3", "recurrent"])
def test_logits_that_are_no_numbers_name_the_prompt(name: str) -> None:
    model, texts = model_of(name), [[5, 6], [5, 9, 7], [5, 8]]
    with torch.no_grad():
        own = model.get_input_embeddings().weight
        model.get_output_embeddings().weight = torch.nn.Parameter(own.clone())
        own[9] = float("nan")
    with pytest.raises(NotFiniteError, match="prompt 1") as caught:
        generate(model, texts, count=3)
    assert caught.value.index == 1
