"""A simulated KV cache: formats against ggml's own, and the same damage however a text is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from prefix_models import ALL, model_of, runner_of, tokenizer_of_words
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, QuantizedCache, StaticCache

from evalkit.analysis.cache_formats import FORMATS
from evalkit.errors import VariantError
from evalkit.inference.compiled_step import CompiledStep
from evalkit.inference.decoding import Decoding
from evalkit.inference.engines import Compiled, Eager, generate
from evalkit.inference.generate import generate_texts
from evalkit.inference.prefix import PrefixRunner
from evalkit.inference.prefix_scores import Request, score_requests
from evalkit.inference.speculative import ModelDraft, decode
from evalkit.models.kv_cache import full_kv_cache, hadamard, quantize_kv_cache, quantized
from evalkit.models.step_cache import StepCache

TEXT = torch.arange(60).mul(37).remainder(500)[None] + 5
KEPT = [name for name in ALL if name != "recurrent"]
# A value between two steps may be rounded to the other where sums differ in their last bits.
ROUNDING = 2e-3


def far(one: Tensor, other: Tensor) -> float:
    """How far logits lie apart, as a part of what they vary by."""
    # A masked id has the least number there is.
    shown = other > -1e4
    return float((one - other)[shown].norm() / other[shown].std() / shown.sum() ** 0.5)


def quantized_model(name: str, cache: str = "int4", **options: Any) -> PreTrainedModel:
    model = model_of(name)
    quantize_kv_cache(model, FORMATS[cache], **options)
    return model


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return quantized_model("llama-tied")


@torch.inference_mode()
def logits(model: PreTrainedModel, ids: Tensor = TEXT, **options: Any) -> Tensor:
    found: Tensor = model(input_ids=ids, **{"use_cache": False, **options}).logits
    return found


@pytest.mark.parametrize(("name", "kind"), [("int8", "Q8_0"), ("int4", "Q4_0")])
def test_integer_formats_are_those_of_ggml_bit_for_bit(name: str, kind: str) -> None:
    quants = pytest.importorskip("gguf.quants")
    states = torch.randn(400, 64) * torch.logspace(-6, 3, 400)[:, None]
    states[3], states[4, ::2], states[5] = 0, -1.5, torch.arange(64) - 31.5
    kind = quants.GGMLQuantizationType[kind]
    expected = quants.dequantize(quants.quantize(states.numpy(), kind), kind)
    np.testing.assert_array_equal(quantized(states, FORMATS[name]).numpy(), expected)


def test_fp8_saturates_and_keeps_what_is_no_number() -> None:
    states = torch.tensor([[1.0, 1.06, -1000.0, 500.0, 2.0**-11, float("nan")]])
    found = quantized(states, FORMATS["fp8"])
    assert found[0, :5].tolist() == [1.0, 1.0, -448.0, 448.0, 0.0]
    assert found[0, 5].isnan()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("channels", [64, 80, 8])
def test_what_came_out_of_a_cache_goes_through_it_unchanged(name: str, channels: int) -> None:
    once = quantized(torch.randn(2, 3, 5, channels), FORMATS[name])
    assert once.shape == (2, 3, 5, channels)
    torch.testing.assert_close(quantized(once, FORMATS[name]), once)


@pytest.mark.parametrize(("channels", "most"), [(64, None), (128, 64), (96, None), (80, 64)])
def test_hadamard_is_orthonormal_and_its_own_inverse(channels: int, most: int | None) -> None:
    states = torch.randn(3, 7, channels)
    turned = hadamard(states, most)
    torch.testing.assert_close(turned.norm(dim=-1), states.norm(dim=-1))
    torch.testing.assert_close(hadamard(turned, most), states)
    block = min(channels & -channels, most or channels)
    one = torch.zeros(channels)
    one[0] = 1
    assert hadamard(one, most).count_nonzero() == block


def test_rotation_spreads_a_channel_that_stands_out() -> None:
    states = torch.randn(100, 64)
    states[:, 5] *= 30
    plain = quantized(states, FORMATS["int4"]) - states
    turned = hadamard(quantized(hadamard(states), FORMATS["int4"])) - states
    assert turned.norm() < 0.8 * plain.norm()


@pytest.mark.parametrize("name", KEPT)
def test_damage_is_the_same_in_one_pass_with_and_without_a_cache(name: str) -> None:
    model = model_of(name)
    plain = logits(model)
    quantize_kv_cache(model, FORMATS["int4"])
    found = logits(model)
    assert far(found, plain) > 0.01
    assert far(logits(model, use_cache=True), found) < ROUNDING
    with full_kv_cache(model):
        torch.testing.assert_close(logits(model), plain)


def test_formats_are_ordered_and_rotation_counts() -> None:
    plain = logits(model_of("llama-tied"))
    found = {name: logits(quantized_model("llama-tied", name)) for name in FORMATS}
    damage = {name: far(one, plain) for name, one in found.items()}
    assert 0 < damage["int8"] < damage["fp8"] < damage["int4"]
    turned = logits(quantized_model("llama-tied", rotates=True))
    assert far(turned, found["int4"]) > 0.01


@pytest.mark.parametrize("name", KEPT)
def test_chunks_attend_to_what_one_pass_attends_to(name: str) -> None:
    model = quantized_model(name)
    # Behind its limit a longrope model reads everything anew.
    text = TEXT[:, :40]
    whole, cache, found = logits(model, text), None, []
    for chunk in text.split([17, 1, 13, 9], 1):
        with torch.inference_mode():
            output = model(input_ids=chunk, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        found.append(output.logits)
    assert far(torch.cat(found, 1), whole) < ROUNDING


def test_every_kind_of_cache_is_filled_with_the_same(llama: PreTrainedModel) -> None:
    whole = logits(llama, TEXT[:, :40])
    steps = StepCache(llama.config, 64)
    for cache in (steps, StaticCache(config=llama.config, max_cache_len=64), DynamicCache()):
        with torch.inference_mode(), steps.reading():
            first = logits(llama, TEXT[:, :39], past_key_values=cache, use_cache=True)
        last = logits(llama, TEXT[:, 39:40], past_key_values=cache, use_cache=True)
        assert far(torch.cat([first, last], 1), whole) < ROUNDING


def requests() -> list[Request]:
    words = TEXT[0].tolist()
    beginnings = [words[:30], words[:30], words[:30], words[:12], words[:12], words[20:50]]
    return [
        Request(beginning, words[30 + 3 * index : 34 + 4 * index])
        for index, beginning in enumerate(beginnings)
    ]


@pytest.mark.parametrize("name", ["llama-tied", "sliding window", "block-sparse", "longrope"])
def test_shared_prefixes_score_as_texts_alone(name: str) -> None:
    runner = runner_of(quantized_model(name))
    shared, _ = score_requests(runner, requests(), max_length=100)
    assert runner.shares
    alone = [score_requests(runner, [one], max_length=100)[0][0] for one in requests()]
    for one, other in zip(shared, alone, strict=True):
        assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=ROUNDING)
    plain, _ = score_requests(runner_of(model_of(name)), requests(), max_length=100)
    assert any(
        abs(a.log_likelihood - b.log_likelihood) > 0.05 for a, b in zip(shared, plain, strict=True)
    )


def test_packed_lines_score_as_texts_alone(llama: PreTrainedModel) -> None:
    seen = []
    runner = runner_of(llama)
    line_step: Callable[..., Any] = runner.line_step
    runner.line_step = lambda *args: (seen.append(1), line_step(*args))[1]  # type: ignore[method-assign]
    score_requests(runner, requests(), max_length=100)
    assert seen and runner._packs


def greedy(model: PreTrainedModel, prompt: list[int], count: int) -> list[int]:
    """Tokens of passes over the whole text, without any cache."""
    words = list(prompt)
    for _ in range(count):
        words.append(int(logits(model, torch.tensor([words]))[0, -1].argmax()))
    return words[len(prompt) :]


def test_every_way_to_generate_makes_the_tokens_of_whole_passes(llama: PreTrainedModel) -> None:
    prompt = TEXT[0, :20].tolist()
    expected = greedy(llama, prompt, 12)
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        assert generate(Eager(llama), ids, 12)[0].tolist() == expected
        own = llama.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert own[0, 20:].tolist() == expected
    draft = ModelDraft(quantized_model("llama-tied", "int8"))
    found = decode(llama, prompt, 12, draft=draft, draft_tokens=3)
    assert found.tokens == expected
    assert decode(llama, prompt, 12).tokens == expected


@pytest.mark.slow
def test_a_compiled_step_is_one_graph_and_makes_the_same_tokens(llama: PreTrainedModel) -> None:
    prompt = TEXT[0, :20].tolist()
    engine = Compiled(llama, 30)
    # As it was traced: what Inductor makes of it is its own matter.
    engine._compiled = CompiledStep(engine._whole_step, backend="eager")
    with torch.inference_mode():
        found = generate(engine, torch.tensor([prompt]), 4)[0].tolist()
    assert found == greedy(llama, prompt, 4)


def test_the_batching_engine_makes_the_tokens_of_whole_passes(llama: PreTrainedModel) -> None:
    prompts = [TEXT[0, :20].tolist(), TEXT[0, :11].tolist(), TEXT[0, 5:30].tolist()]
    decoding = Decoding(max_new_tokens=8, stop=(), options={"eos_token_id": None})
    runner: PrefixRunner = runner_of(llama)
    tokenizer = tokenizer_of_words()
    texts = generate_texts(runner, tokenizer, prompts, decoding, seeds=[0, 0, 0])
    for prompt, text in zip(prompts, texts, strict=True):
        assert text == tokenizer.decode(greedy(llama, prompt, 8), skip_special_tokens=True)


def test_transformers_quantized_cache_shows_no_damage_in_one_pass() -> None:
    model = model_of("llama-tied")
    plain = logits(model)
    cache = QuantizedCache("fp8", model.config)
    theirs = logits(model, past_key_values=cache, use_cache=True)
    torch.testing.assert_close(theirs, plain)
    quantize_kv_cache(model, FORMATS["fp8"])
    assert far(logits(model), plain) > 0.001


def test_a_model_without_keys_and_values_is_refused_in_one_line() -> None:
    with pytest.raises(VariantError, match="FalconMambaForCausalLM: its layers keep a state"):
        quantize_kv_cache(model_of("recurrent"), FORMATS["int4"])


def test_a_layer_that_does_not_update_its_cache_is_named(llama: PreTrainedModel) -> None:
    model = quantized_model("llama-tied")
    attention = model.get_decoder().layers[0].self_attn
    attention.forward = lambda hidden_states, **kwargs: (hidden_states, None)
    with pytest.raises(VariantError, match="LlamaAttention attends without updating"):
        logits(model)
