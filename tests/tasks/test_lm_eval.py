"""The engine as an lm-eval model gives the answers of lm-eval's own Hugging Face backend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from prefix_models import model_of, tokenizer_of_words
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from evalkit.errors import DataError, VariantError
from evalkit.tasks.lm_eval_requests import request_seeds
from evalkit.tasks.local_model import LocalLanguageModel

MAX_LENGTH = 40


def tokenizer_with_bos(**options: Any) -> PreTrainedTokenizerFast:
    tokenizer = tokenizer_of_words(**options)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def words(start: int, count: int) -> str:
    return " ".join(f"w{5 + (start * 37 + 11 * step) % 580}" for step in range(count))


def instances(kind: str, arguments: Sequence[tuple[Any, ...]]) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=one, idx=0, metadata=("task", place, 1))
        for place, one in enumerate(arguments)
    ]


def choices() -> list[Instance]:
    """Choices of one and several tokens; blanks at the edge; no context; contexts too long."""
    pairs = [
        (words(context, length), f" {words(100 + choice, choice + 1)}")
        for context, length in ((1, 3), (2, 20), (3, 39), (4, 60))
        for choice in range(4)
    ]
    pairs += [(f"{words(1, 3)} ", words(9, 2)), ("", words(7, 3)), (words(1, 3), f" {words(9, 2)}")]
    return instances("loglikelihood", pairs)


def pair(**options: Any) -> tuple[LocalLanguageModel, HFLM]:
    tokenizer = options.pop("tokenizer", None) or tokenizer_of_words()
    model = model_of(options.pop("name", "phi-3"))
    own = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, max_length=MAX_LENGTH)
    return LocalLanguageModel(model, tokenizer, max_length=MAX_LENGTH, **options), own


def close(one: Sequence[float], other: Sequence[float]) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) < 1e-3


@pytest.mark.parametrize("name", ["phi-3", "gemma-2", "phi-3-small", "sliding window", "recurrent"])
def test_choices_are_scored_as_by_lm_eval(name: str) -> None:
    lm, own = pair(name=name)
    found, wanted = lm.loglikelihood(choices()), own.loglikelihood(choices(), disable_tqdm=True)
    assert close([value for value, _ in found], [value for value, _ in wanted])
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]


def test_a_tokenizer_that_adds_bos_is_treated_alike() -> None:
    lm, own = pair(tokenizer=tokenizer_with_bos())
    found, wanted = lm.loglikelihood(choices()), own.loglikelihood(choices(), disable_tqdm=True)
    assert close([value for value, _ in found], [value for value, _ in wanted])
    assert lm.tok_encode("w9") == [1, 9]
    assert lm.tok_encode("<s> w9") == [1, 9]
    assert lm.tok_encode("w9", add_special_tokens=False) == [9]


def test_whole_texts_are_scored_as_by_lm_eval() -> None:
    texts = [(words(index, count),) for index, count in enumerate((1, 39, 40, 41, 130))]
    lm, own = pair()
    found = lm.loglikelihood_rolling(instances("loglikelihood_rolling", texts))
    wanted = own.loglikelihood_rolling(instances("loglikelihood_rolling", texts))
    assert close(found, wanted)


def test_the_second_bos_of_whole_texts_is_lm_evals_and_can_be_had() -> None:
    requests = instances("loglikelihood_rolling", [(words(1, 30),), (words(2, 90),)])
    lm, own = pair(tokenizer=tokenizer_with_bos(), double_bos=True)
    assert close(lm.loglikelihood_rolling(requests), own.loglikelihood_rolling(requests))

    once, _ = pair(tokenizer=tokenizer_with_bos())
    model = once.model
    tokens = once.tok_encode(words(1, 30))
    with torch.no_grad():
        logits = model(torch.tensor([tokens[:-1]])).logits[0].log_softmax(-1)
    expected = logits.gather(1, torch.tensor(tokens[1:])[:, None]).sum()
    assert close(once.loglikelihood_rolling(requests[:1]), [float(expected)])


def test_an_empty_text_has_no_tokens_to_score() -> None:
    lm, _ = pair()
    assert lm.loglikelihood_rolling(instances("loglikelihood_rolling", [("",)])) == [0]


def test_texts_are_generated_as_by_lm_eval() -> None:
    lm, own = pair()
    first = own.generate_until(
        instances("generate_until", [(words(1, 5), {"until": [], "max_gen_toks": 8})]),
        disable_tqdm=True,
    )[0].split()
    settings = [
        {"until": [first[3]], "max_gen_toks": 10, "do_sample": False, "temperature": 0.0},
        {"until": first[5], "max_gen_toks": 6},
    ]
    prompts = [words(index, count) for index, count in enumerate((3, 5, 12, 30, 60))]
    prompts.append(words(1, 5))
    arguments = [(prompt, dict(one)) for prompt in prompts for one in settings]
    found = lm.generate_until(instances("generate_until", arguments))
    # One by one: in a batch lm-eval's backend runs stopped rows on until all have stopped.
    wanted = [
        own.generate_until(instances("generate_until", [one]), disable_tqdm=True)[0]
        for one in arguments
    ]
    assert found == wanted
    assert found[-2].split() == first[:3]


def test_what_was_cut_is_counted() -> None:
    lm, _ = pair()
    lm.loglikelihood(choices())
    lm.generate_until(instances("generate_until", [(words(1, 50), {"max_gen_toks": 8})]))
    too_long = sum(
        len(lm.tok_encode(context + continuation)) > MAX_LENGTH + 1
        for context, continuation in (request.args for request in choices())
    )
    assert lm.truncated == too_long + 1
    assert any(str(lm.truncated) in note and "from the left" in note for note in lm.notes)


def test_a_continuation_longer_than_the_context_is_named() -> None:
    lm, _ = pair()
    asked = instances("loglikelihood", [("", "w7"), (words(1, 3), f" {words(9, 41)}")])
    with pytest.raises(DataError, match=r"'w.*'… has 41 tokens, .* context is 40: .*limit"):
        lm.loglikelihood(asked)


def test_a_state_that_cannot_be_shared_is_noted() -> None:
    assert not pair()[0].notes
    assert "not shared" in pair(name="recurrent")[0].notes[0]


class Told:
    """A cache hook that keeps what it is told."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, tuple[Any, ...], Any]] = []
        self.batches: list[int] = []

    def flush(self) -> None:
        self.batches.append(len(self.answers))

    def add_partial(self, kind: str, arguments: Any, answer: Any) -> None:
        self.answers.append((kind, tuple(arguments), answer))


REQUESTS = {
    "loglikelihood": choices(),
    "loglikelihood_rolling": instances(
        "loglikelihood_rolling", [(words(index, 45),) for index in range(5)]
    ),
    "generate_until": instances(
        "generate_until",
        [(words(index, 9), {"until": [], "max_gen_toks": 4}) for index in (0, 1, 1, 3)],
    ),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_every_answer_is_told_and_what_is_remembered_is_not_asked_again(kind: str) -> None:
    requests = REQUESTS[kind]
    lm, _ = pair()
    hook = Told()
    lm.set_cache_hook(hook)
    answers = getattr(lm, kind)(requests)
    wanted = [(kind, tuple(r.args), answer) for r, answer in zip(requests, answers, strict=True)]
    assert sorted(hook.answers, key=str) == sorted(wanted, key=str)

    again = Told()
    lm.set_cache_hook(again)
    known = dict(list(enumerate(answers))[1::2])
    lm.remember(kind, known)
    assert getattr(lm, kind)(requests) == answers
    assert len(again.answers) == len(answers) - len(known)

    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    handle = lm.model.model.register_forward_pre_hook(count)
    lm.remember(kind, dict(enumerate(answers)))
    assert getattr(lm, kind)(requests) == answers
    assert passes == 0
    # Only the next list of requests is answered from memory.
    getattr(lm, kind)(requests)
    assert passes
    handle.remove()


@pytest.mark.parametrize("kind", ["loglikelihood", "loglikelihood_rolling"])
def test_a_hook_is_told_of_the_end_of_each_batch(kind: str) -> None:
    lm, _ = pair(batch_tokens=64)
    hook = Told()
    lm.set_cache_hook(hook)
    getattr(lm, kind)(REQUESTS[kind])
    assert len(hook.batches) > 2
    assert hook.batches == sorted(hook.batches)
    assert hook.batches[-1] == len(hook.answers)


def test_equal_requests_are_drawn_differently_and_repeatably() -> None:
    settings = {"until": [], "max_gen_toks": 6, "do_sample": True, "temperature": 1.0}
    requests = instances("generate_until", [(words(1, 5), dict(settings))] * 3)
    first, second = pair(seed=1)[0], pair(seed=1)[0]
    texts = first.generate_until(requests)
    assert len(set(texts)) == 3
    assert second.generate_until(requests) == texts
    assert pair(seed=2)[0].generate_until(requests) != texts
    torch.manual_seed(5)
    assert request_seeds([("a",), ("a",)], None) == request_seeds([("a",), ("a",)], 5)


def test_a_chat_prompt_is_the_tokenizers() -> None:
    template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    lm, own = pair(tokenizer=tokenizer_of_words(chat_template=template))
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "w5"}]
    assert lm.apply_chat_template(chat) == own.apply_chat_template(chat)
    assert lm.chat_template(True) == template
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + (
        template
    )
    without, _ = pair(tokenizer=tokenizer_of_words(chat_template=strict))
    assert without.apply_chat_template(chat) == "user: w5\nassistant:"


def test_a_chat_prompt_without_a_template_is_refused() -> None:
    with pytest.raises(DataError, match="chat template"):
        pair()[0].apply_chat_template([{"role": "user", "content": "w5"}])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"max_gen_toks": MAX_LENGTH}, "no room"), ({"max_length": 9}, "max_gen_toks")],
)
def test_settings_that_cannot_be_honoured_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        pair()[0].generate_until(instances("generate_until", [("w5", settings)]))


def test_a_tokenizer_without_end_of_text_is_named() -> None:
    tokenizer = tokenizer_of_words()
    tokenizer.eos_token = None
    lm = LocalLanguageModel(model_of("phi-3"), tokenizer, max_length=MAX_LENGTH)
    with pytest.raises(DataError, match="eos_token"):
        _ = lm.eot_token_id


def with_broken_word(token: int) -> LocalLanguageModel:
    """A model whose states are NaN from the word `token` on."""
    model = model_of("phi-3")
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = float("nan")
    return LocalLanguageModel(model, tokenizer_of_words(), max_length=MAX_LENGTH)


@pytest.mark.parametrize("kind", REQUESTS)
def test_an_answer_that_is_no_number_names_task_item_and_fix(kind: str) -> None:
    settings = {"until": [], "max_gen_toks": 4}
    asked: dict[str, list[tuple[Any, ...]]] = {
        "loglikelihood": [("w5 w6", " w7"), ("w5 w6 w9", " w7")],
        "loglikelihood_rolling": [("w5 w6 w7",), ("w5 w9 w7",)],
        "generate_until": [("w5 w6", settings), ("w5 w9", settings)],
    }
    lm = with_broken_word(9)
    hook = Told()
    lm.set_cache_hook(hook)
    with pytest.raises(VariantError, match=r"task 'task', item 1: the log.* use bf16 or fp32$"):
        getattr(lm, kind)(instances(kind, asked[kind]))
    assert all(arguments == asked[kind][0] for _, arguments, _ in hook.answers)


def test_an_overflow_of_float16_is_told() -> None:
    model = model_of("phi-3")
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(3e4)
    wide = LocalLanguageModel(model, tokenizer_of_words(), max_length=MAX_LENGTH)
    assert len(wide.loglikelihood(choices())) == len(choices())
    narrow = LocalLanguageModel(model.half(), tokenizer_of_words(), max_length=MAX_LENGTH)
    for kind, requests in REQUESTS.items():
        with pytest.raises(
            VariantError, match=r"item \d+: .* float16 overflows in this model, first in lm_head, "
        ):
            getattr(narrow, kind)(requests)


def test_what_cannot_be_scored_is_skipped_where_that_is_asked_for() -> None:
    scorable = ("w5", " w6")
    pairs = [scorable, ("w5", ""), ("", ""), ("w5", f" {words(1, MAX_LENGTH + 1)}"), scorable]
    lm, _ = pair(skip_unscorable=True)
    told: list[tuple[Any, ...]] = []
    hook = SimpleNamespace(add_partial=lambda kind, asked, answer: told.append(asked))
    lm.set_cache_hook(hook)
    values = [value for value, _ in lm.loglikelihood(instances("loglikelihood", pairs))]
    assert values[0] == values[4]
    assert [math.isnan(value) for value in values] == [False, True, True, True, False]
    assert told == [scorable, scorable]
    lm.remember("loglikelihood", {0: (-1.5, True), 1: (math.nan, False)})
    again = lm.loglikelihood(instances("loglikelihood", pairs))
    assert again[0] == (-1.5, True)
    assert again[4][0] == values[4]
    assert len(told) == 3
    strict, _ = pair()
    for unscorable in pairs[1:4]:
        with pytest.raises(DataError, match=r"cannot be scored|model's context is"):
            strict.loglikelihood(instances("loglikelihood", [scorable, unscorable]))


def test_a_token_that_spans_context_and_continuation_is_encoded_apart() -> None:
    lm, _ = pair()
    spanning, plain = instances("loglikelihood", [("w5", "w6"), ("w5", " w6")])
    assert lm.tok_encode("w5w6") == [3]
    assert lm.loglikelihood([spanning]) == lm.loglikelihood([plain])
    assert "1 requests have a token that spans" in lm.notes[0]
    blank, empty = instances("loglikelihood", [("  ", "w6"), ("", "w6")])
    assert lm.loglikelihood([blank]) == lm.loglikelihood([empty])


def test_text_is_generated_after_an_empty_prompt() -> None:
    lm, _ = pair()
    settings = {"until": ["w9"], "max_gen_toks": 3}
    empty, first = instances("generate_until", [("", settings), ("<s>", settings)])
    assert lm.generate_until([empty]) == lm.generate_until([first])
