"""What tools rely on: loading, heads, batches, gradients, and layers called one by one."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from phi3_tiny import random_ids, tiny_config, tiny_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, StaticCache

from evalkit.models.phi3_small import Phi3SmallConfig, Phi3SmallForCausalLM, layout


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_released_model_has_7_392_272_384_parameters() -> None:
    with torch.device("meta"):
        model = Phi3SmallForCausalLM(Phi3SmallConfig())
    assert sum(p.numel() for p in model.parameters()) == 7_392_272_384
    linear = [m.weight.numel() for m in model.model.modules() if isinstance(m, torch.nn.Linear)]
    assert sum(linear) == 6_979_321_856
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert len(model.config.dummy_token_indices) == 91


def test_a_configuration_as_on_the_hub(tmp_path: Path) -> None:
    hub = {
        "architectures": ["Phi3SmallForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_phi3_small.Phi3SmallConfig"},
        "ff_dim_multiplier": None,
        "gegelu_pad_to_256": True,
        "head_dim": 128,
        "max_position_embeddings": 131_072,
        "model_type": "phi3small",
        "original_max_position_embeddings": 8192,
        "pad_sequence_to_multiple_of_64": True,
        "rope_scaling": {
            "long_factor": [2.0] * 64,
            "long_mscale": 1.19,
            "short_factor": [1.0] * 64,
            "short_mscale": 1.0,
            "type": "su",
        },
        "torch_dtype": "bfloat16",
    }
    (tmp_path / "config.json").write_text(json.dumps(hub))
    config = AutoConfig.from_pretrained(tmp_path, trust_remote_code=False)
    assert isinstance(config, Phi3SmallConfig)
    assert (config.short_context, config.head_dim) == (8192, 128)
    assert config.rope_magnitude(long=True) == 1.19
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert model.generation_config.eos_token_id == [100257, 100266]


def test_saved_and_loaded_by_the_auto_classes(tmp_path: Path) -> None:
    model, ids = tiny_model(vocab_size=100_352, hidden_size=32), random_ids(40)
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert AutoConfig.from_pretrained(tmp_path).to_dict()["model_type"] == "phi3small"
    again = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=False).eval()
    with torch.inference_mode():
        assert torch.equal(again(ids).logits, model(ids).logits)


def test_buffers_are_refilled_when_weights_are_loaded(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    with torch.device("meta"):
        garbage = Phi3SmallForCausalLM(tiny_config())
    garbage.to_empty(device="cpu").init_weights()
    again = Phi3SmallForCausalLM.from_pretrained(tmp_path)
    fresh = Phi3SmallForCausalLM(tiny_config())
    for model in (garbage, again):
        for name, buffer in fresh.named_buffers():
            assert torch.equal(model.get_buffer(name), buffer), name


def test_half_precision_keeps_exact_frequencies() -> None:
    model = tiny_model()
    exact = model.model.rotary_emb.inv_freq.clone()
    assert torch.equal(model.to(torch.bfloat16).model.rotary_emb.inv_freq, exact)


def test_stored_frequencies_are_ignored_and_unknown_keys_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
    weights["model.layers.0.mystery.weight"] = torch.zeros(4)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    again, info = Phi3SmallForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    logger.removeHandler(caplog.handler)
    assert info["unexpected_keys"] == {"model.layers.0.mystery.weight"}
    assert "mystery" in caplog.text
    assert "inv_freq" not in caplog.text
    with torch.inference_mode():
        assert torch.equal(again.eval()(random_ids(30)).logits, model(random_ids(30)).logits)


def test_logits_are_float32_scaled_and_never_predict_dummies() -> None:
    model = tiny_model(vocab_size=100_352, hidden_size=32).to(torch.bfloat16)
    ids = random_ids(12, rows=2)
    with torch.inference_mode():
        logits = model(ids).logits
        hidden = model.model(ids).last_hidden_state
        unmasked = model.lm_head(hidden).float() / model.config.mup_width_multiplier
    dummies = torch.zeros(100_352, dtype=torch.bool)
    dummies[model.config.dummy_token_indices] = True
    assert logits.dtype == torch.float32
    assert (logits[..., dummies] == torch.finfo(torch.float32).min).all()
    assert torch.equal(logits[..., ~dummies], unmasked[..., ~dummies])
    assert torch.isfinite(model(ids, labels=ids).loss)


def test_logits_to_keep() -> None:
    model, ids = tiny_model(), random_ids(20)
    with torch.inference_mode():
        every = model(ids).logits
        close(model(ids, logits_to_keep=3).logits, every[:, -3:])
        chosen = torch.tensor([2, 9])
        close(model(ids, logits_to_keep=chosen).logits, every[:, chosen])


def test_inputs_embeds_equal_ids() -> None:
    model, ids = tiny_model(), random_ids(40)
    with torch.inference_mode():
        embeds = model.get_input_embeddings()(ids)
        close(model(inputs_embeds=embeds).logits, model(ids).logits)


@pytest.mark.parametrize("budget", [layout.MASK_BUDGET, 0])
def test_rows_do_not_depend_on_their_neighbours(
    monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    monkeypatch.setattr(layout, "MASK_BUDGET", budget)
    model, ids = tiny_model(), random_ids(90, rows=3)
    lengths = [90, 61, 17]
    with torch.inference_mode():
        for side in ("left", "right"):
            mask = torch.zeros_like(ids)
            for row, length in enumerate(lengths):
                mask[row, -length:] = 1
                if side == "right":
                    mask[row] = mask[row].flip(0)
            logits = model(ids, attention_mask=mask).logits
            for row in range(3):
                real = mask[row].bool()
                close(logits[row, real], model(ids[row : row + 1, real]).logits[0])


@pytest.mark.parametrize("budget", [layout.MASK_BUDGET, 0])
def test_padding_between_cached_and_new_tokens(
    monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    """Prompts padded on the right, then continued: the hole is no token and no position."""
    monkeypatch.setattr(layout, "MASK_BUDGET", budget)
    model, ids = tiny_model(), random_ids(80, rows=2)
    mask = torch.ones_like(ids)
    mask[1, 33:50] = 0
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(ids[:, :50], attention_mask=mask[:, :50], past_key_values=cache)
        logits = model(ids[:, 50:], attention_mask=mask, past_key_values=cache).logits
        for row in range(2):
            alone = model(ids[row : row + 1, mask[row].bool()]).logits[0, -30:]
            close(logits[row], alone)


def test_a_prefix_scored_once_for_several_continuations() -> None:
    model, prefix, ends = tiny_model(), random_ids(50), random_ids(12, rows=3, seed=2)
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model.model(input_ids=prefix, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(3)
        mask = torch.ones(3, 62, dtype=torch.long)
        mask[1, 58:] = 0
        hidden = model.model(
            input_ids=ends, attention_mask=mask, past_key_values=cache, use_cache=True
        ).last_hidden_state
        logits = model.lm_head(hidden) / model.config.mup_width_multiplier
        whole = torch.cat((prefix.expand(3, -1), ends), dim=1)
        expected = model(whole).logits[:, 50:]
    close(logits[[0, 2]], expected[[0, 2]])
    close(logits[1, :8], expected[1, :8])


@pytest.mark.parametrize("budget", [layout.MASK_BUDGET, 0])
def test_gradients_do_not_depend_on_the_way(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    """Masks and chunks in float32, with and without checkpointing, against eager in float64."""
    monkeypatch.setattr(layout, "MASK_BUDGET", budget)
    ids = random_ids(70, rows=2)
    model = tiny_model(embedding_dropout_prob=0.0, ffn_dropout_prob=0.0).train()
    exact = copy.deepcopy(model).double()
    exact.set_attn_implementation("eager")
    exact(ids, labels=ids, use_cache=False).loss.backward()
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.zero_grad()
        model(ids, labels=ids, use_cache=False).loss.backward()
        for (name, found), expected in zip(
            model.named_parameters(), exact.parameters(), strict=True
        ):
            error = (found.grad - expected.grad).abs().max() / expected.grad.abs().max()
            assert error < 1e-3, name


def test_layers_called_with_captured_arguments() -> None:
    """Calibration stores what the first layer was called with and replays it layer by layer."""
    model, captured = tiny_model(num_hidden_layers=4), {}

    def store(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        captured.update(kwargs, hidden_states=args[0])

    hook = model.model.layers[0].register_forward_pre_hook(store, with_kwargs=True)
    ids = random_ids(70, rows=2)
    with torch.inference_mode():
        expected = model.model(ids, use_cache=False).last_hidden_state
        hook.remove()
        states = captured.pop("hidden_states")
        captured |= {"attention_mask": None, "use_cache": False}
        for layer in model.model.layers:
            states = layer(states, **captured)
        close(model.model.final_layernorm(states), expected)


def test_a_sparse_layer_called_with_the_least() -> None:
    model, ids = tiny_model(), random_ids(70)
    model_states = []
    hook = model.model.layers[0].register_forward_hook(
        lambda module, args, output: model_states.append(output)
    )
    with torch.inference_mode():
        model(ids)
        hook.remove()
        embeds = model.model.embed_tokens(ids) * model.config.mup_embedding_multiplier
        positions = torch.arange(70)[None]
        rotary = model.model.rotary_emb(positions, False, torch.float32)
        close(model.model.layers[0](embeds, position_embeddings=rotary), model_states[0])


def test_hidden_states_and_attentions_are_returned_on_request() -> None:
    model, ids = tiny_model(), random_ids(40)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        outputs = model(ids, output_hidden_states=True, output_attentions=True)
    assert len(outputs.hidden_states) == 3
    assert [tuple(a.shape) for a in outputs.attentions] == [(1, 8, 40, 40)] * 2
    sparse, dense = outputs.attentions
    assert (dense[0, :, -1] > 0).all()
    assert (sparse[0, :, -1] == 0).any()


@pytest.mark.parametrize("implementation", ["dynamic", "static"])
def test_left_padded_generation_equals_each_row_alone(implementation: str) -> None:
    model, ids = tiny_model(), random_ids(30, rows=2)
    mask = torch.ones_like(ids)
    mask[1, :11] = 0
    options = {
        "max_new_tokens": 25,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
        "cache_implementation": None if implementation == "dynamic" else "static",
    }
    together = model.generate(ids, attention_mask=mask, **options)
    alone = [model.generate(ids[:1], **options), model.generate(ids[1:, 11:], **options)]
    assert torch.equal(together[0], alone[0][0])
    assert torch.equal(together[1, 11:], alone[1][0])
    whole = model(together[:1]).logits.argmax(-1)[0]
    assert torch.equal(whole[29:-1], together[0, 30:])


@pytest.mark.parametrize("masked", [False, True])
def test_compiled_decode_with_a_static_cache(masked: bool) -> None:
    torch.compiler.reset()
    model, ids = tiny_model(), random_ids(60)
    with torch.inference_mode():
        expected = model(ids).logits[0, 50:]
        cache = StaticCache(config=model.config, max_cache_len=64)
        model(ids[:, :50], past_key_values=cache)
        step = torch.compile(model.forward, backend="eager", fullgraph=True)
        mask = torch.ones(1, 64, dtype=torch.long) if masked else None
        found = [
            step(ids[:, at : at + 1], attention_mask=mask, past_key_values=cache).logits[0, 0]
            for at in range(50, 60)
        ]
    close(torch.stack(found), expected)


def test_bitsandbytes_replaces_the_linear_layers(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    model, ids = tiny_model(hidden_size=128, ff_intermediate_size=256), random_ids(40)
    model.save_pretrained(tmp_path)
    with torch.inference_mode():
        expected = model(ids).logits
        for config in (
            BitsAndBytesConfig(load_in_8bit=True),
            BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
        ):
            quantized = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)
            logits = quantized.eval()(ids).logits
            error = (logits - expected).norm() / expected.norm()
            assert 1e-4 < error < 0.3
