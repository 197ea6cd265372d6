"""Bad input: one line each, with the value, what is allowed and the fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from phi3_tiny import LONGROPE, random_ids, tiny_config, tiny_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from evalkit.errors import UsageError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 7}, "num_attention_heads 7: must divide hidden_size 64"),
        ({"num_attention_heads": 0}, "num_attention_heads 0"),
        ({"num_attention_heads": 64}, "heads of even width"),
        ({"head_dim": 16}, "head_dim 16: hidden_size 64 over num_attention_heads 8 is 8"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3: must divide num_attention_heads 8"),
        ({"num_key_value_heads": 0}, "num_key_value_heads 0"),
        ({"blocksparse_block_size": 0}, "blocksparse_block_size 0: must be at least 1"),
        (
            {"blocksparse_block_size": 100},
            "blocksparse_block_size 100: must divide max_position_embeddings 2048",
        ),
        ({"blocksparse_block_size": 4096}, "blocksparse_block_size 4096"),
        ({"blocksparse_num_local_blocks": 0}, "blocksparse_num_local_blocks 0"),
        ({"blocksparse_vert_stride": 0}, "blocksparse_vert_stride 0"),
        ({"dense_attention_every_n_layers": 0}, "dense_attention_every_n_layers 0"),
        ({"hidden_act": "silu"}, "hidden_act 'silu': Phi-3 Small has only 'gegelu'"),
        ({"rope_scaling": {**LONGROPE, "type": "yarn"}}, "rope_scaling type 'yarn'"),
        ({"rope_scaling": {**LONGROPE, "long_factor": [1.0]}}, "long_factor has 1 numbers"),
        (
            {"rope_scaling": {**LONGROPE, "original_max_position_embeddings": None}},
            "rope_scaling without original_max_position_embeddings",
        ),
        ({"dummy_token_indices": [256]}, "dummy_token_indices 256: ids go up to 255"),
    ],
)
def test_configurations_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        tiny_config(**changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_head_counts_that_the_weights_do_not_have(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    change_config(tmp_path, num_key_value_heads=4)
    with pytest.raises(UsageError, match=r"query_key_value.*\(96.*\(128.*config\.json"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_a_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    renamed = {name.replace("query_key_value", "qkv_proj"): w for name, w in weights.items()}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"4 weights of Phi-3 Small are missing.*architecture"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_a_configuration_of_another_architecture(tmp_path: Path) -> None:
    llama = {"model_type": "phi3small", "hidden_act": "silu", "intermediate_size": 11008}
    (tmp_path / "config.json").write_text(json.dumps(llama))
    with pytest.raises(UsageError, match="hidden_act 'silu'"):
        AutoConfig.from_pretrained(tmp_path)


def test_more_tokens_than_the_context() -> None:
    model = tiny_model(max_position_embeddings=64)
    ids, cache = random_ids(65), DynamicCache(config=model.config)
    expected = r"^65 tokens: the model's context is 64 \(max_position_embeddings\); shorten.*$"
    with torch.inference_mode():
        model(ids[:, :64], past_key_values=cache)
        with pytest.raises(UsageError, match=expected):
            model(ids[:, 64:], past_key_values=cache)
        with pytest.raises(UsageError, match=expected):
            model(ids)
        with pytest.raises(UsageError, match=expected):
            model.generate(ids[:, :60], max_new_tokens=10, pad_token_id=0, eos_token_id=None)


def test_padding_does_not_count_as_context() -> None:
    model, ids = tiny_model(max_position_embeddings=64), random_ids(70)
    mask = torch.ones_like(ids)
    mask[:, :6] = 0
    with torch.inference_mode():
        logits = model(ids, attention_mask=mask).logits[0, 6:]
        torch.testing.assert_close(logits, model(ids[:, 6:]).logits[0], rtol=1e-4, atol=1e-5)


def test_a_mask_of_the_new_tokens_only() -> None:
    model, ids, cache = tiny_model(), random_ids(20), DynamicCache()
    with torch.inference_mode():
        model(ids[:, :12], past_key_values=cache)
        with pytest.raises(UsageError, match="covers 8 tokens: 20 are needed"):
            model(ids[:, 12:], attention_mask=torch.ones(1, 8), past_key_values=cache)


def test_neither_or_both_inputs() -> None:
    model, ids = tiny_model(), random_ids(4)
    with pytest.raises(UsageError, match="exactly one"):
        model()
    with pytest.raises(UsageError, match="exactly one"):
        model(ids, inputs_embeds=model.get_input_embeddings()(ids))


def test_a_prepared_mask_on_a_sparse_text() -> None:
    model, ids = tiny_model(), random_ids(40)
    prepared = torch.ones(1, 1, 40, 40, dtype=torch.bool).tril()
    short = random_ids(20)
    with torch.inference_mode():
        found = model(short, attention_mask=prepared[..., :20, :20]).logits
        torch.testing.assert_close(found, model(short).logits, rtol=1e-4, atol=1e-5)
        with pytest.raises(UsageError, match="4-dimensional attention_mask"):
            model(ids, attention_mask=prepared)
