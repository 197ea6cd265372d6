"""Checkpoints of eight families laid out as on the hub, with what lies beside the weights there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from evalkit.inference.decoding import Chooser, Decoding
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.identity import checkpoint_identity, copy_tokenizer
from evalkit.models.loading import load_causal_lm, load_tokenizer
from evalkit.models.resolve import resolve_model
from evalkit.tasks.prompts import ChatFormatter

WORDS, POSITIONS, WIDTH = 64, 48, 16
SIZES = {
    "vocab_size": WORDS, "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    "max_position_embeddings": POSITIONS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
THINKING = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """What a family has on the hub: its type, how its sizes are called, what lies beside them."""

    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    tokenizer_files: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    shards: int = 1
    generation: dict[str, Any] = field(default_factory=dict)
    template: str = ""


VISION = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
FAMILIES = {
    "mistral": Family(
        "mistral", SIZES, ("tekken.json", "tokenizer.model", "tokenizer.model.v3"),
        ("consolidated.safetensors", "params.json", "SYSTEM_PROMPT.txt"), shards=2,
    ),
    "llama-3": Family(
        "llama", SIZES | {"rope_parameters": LLAMA3}, ("special_tokens_map.json",),
        ("original/consolidated.00.pth", "original/params.json"),
        generation={"do_sample": True, "temperature": 0.6, "top_p": 0.9},
    ),
    "qwen-3": Family(
        "qwen3", SIZES, ("vocab.json", "merges.txt"),
        generation={"do_sample": True, "top_k": 20, "repetition_penalty": 1.05},
        template=THINKING,
    ),
    "gemma-3": Family(
        "gemma3",
        {"text_config": SIZES, "vision_config": VISION, "mm_tokens_per_image": 4},
        ("tokenizer.model", "added_tokens.json"), ("preprocessor_config.json",),
    ),
    "phi-3": Family(
        "phi3", SIZES, ("tokenizer.model", "added_tokens.json"),
        ("sample_finetune.py", "CODE_OF_CONDUCT.md"), shards=2,
        generation={"eos_token_id": [2, 3]},
    ),
    "gpt-2": Family(
        "gpt2",
        {"vocab_size": WORDS, "n_embd": WIDTH, "n_layer": 1, "n_head": 2, "n_positions": POSITIONS},
        ("vocab.json", "merges.txt"),
        ("pytorch_model.bin", "tf_model.h5", "rust_model.ot", "64.tflite"),
    ),
    "xglm": Family(
        "xglm",
        {"vocab_size": WORDS, "d_model": WIDTH, "num_layers": 1, "attention_heads": 2,
         "ffn_dim": 32, "max_position_embeddings": POSITIONS},
        ("sentencepiece.bpe.model",), ("flax_model.msgpack",),
        generation={"repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    ),
    "olmo-2": Family("olmo2", SIZES, ("vocab.json", "merges.txt"), ("model.fp32.safetensors",)),
}  # fmt: skip


def lay_out(family: Family, path: Path) -> None:
    """Write a random model of the family into `path`, as its repository has it."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family.model_type, **family.config)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    for name, value in family.generation.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(path)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w1", eos_token="w2")
    fast.chat_template = family.template or None
    fast.save_pretrained(path)
    if family.shards > 1:
        _cut(path)
    for name in (*family.tokenizer_files, *family.others):
        (path / name).parent.mkdir(exist_ok=True)
        if not (path / name).exists():
            (path / name).write_bytes(b"{}" if name.endswith(".json") else b"of another format")


def _cut(path: Path) -> None:
    tensors = load_file(path / "model.safetensors")
    names = sorted(tensors)
    placed = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, path / file, {"format": "pt"})
        placed |= dict.fromkeys(part, file)
    (path / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": placed}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture(scope="module", params=FAMILIES)
def laid_out(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Family, Checkpoint]:
    family, path = FAMILIES[request.param], tmp_path_factory.mktemp("hub")
    lay_out(family, path)
    return family, resolve_model(str(path))


def test_its_weights_are_those_that_transformers_reads(laid_out: Any) -> None:
    family, found = laid_out
    assert len(found.weight_files) == family.shards
    assert all(file.name.startswith("model") for file in found.weight_files)
    assert not {file.name for file in found.weight_files} & set(family.others)
    for name in family.others:
        (found.path / name).write_bytes(b"changed")
    again = checkpoint_identity(found.path, found.weight_files)
    assert again.weights == found.identity.weights


def test_its_limits_are_those_of_the_text_model(laid_out: Any) -> None:
    _, found = laid_out
    assert (found.positions, found.hidden_size) == (POSITIONS, WIDTH)
    assert found.text_config["vocab_size"] == WORDS


def test_it_loads_as_in_plain_transformers(laid_out: Any) -> None:
    _, found = laid_out
    ids = torch.arange(3, 12)[None]
    model = load_causal_lm(found.path, dtype=torch.float32, device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(found.path).float()
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, plain(ids).logits)


def test_its_tokenizer_is_copied_whole(laid_out: Any, tmp_path: Path) -> None:
    family, found = laid_out
    copy_tokenizer(found.path, tmp_path)
    copied = {file.name for file in tmp_path.iterdir()}
    known = set(family.tokenizer_files) - {"tokenizer.model.v3"}
    assert {"tokenizer.json", *known} <= copied
    assert not copied & set(family.others)
    assert load_tokenizer(tmp_path).encode("w5 w6") == load_tokenizer(found.path).encode("w5 w6")


def test_its_settings_of_decoding_are_honoured(laid_out: Any) -> None:
    family, found = laid_out
    chooser = Chooser(AutoModelForCausalLM.from_pretrained(found.path), Decoding(4))
    assert chooser.samples is family.generation.get("do_sample", False)
    names = {type(one).__name__ for one in chooser._shared}
    expected = {
        "repetition_penalty": "RepetitionPenaltyLogitsProcessor",
        "no_repeat_ngram_size": "NoRepeatNGramLogitsProcessor",
        "top_k": "TopKLogitsWarper",
        "top_p": "TopPLogitsWarper",
    }
    assert {expected[name] for name in family.generation if name in expected} <= names
    ends = family.generation.get("eos_token_id", chooser.end_tokens)
    assert chooser.end_tokens == frozenset(ends)


def test_a_thinking_template_is_told_to_answer_at_once(laid_out: Any) -> None:
    family, found = laid_out
    if not family.template:
        assert not load_tokenizer(found.path).chat_template
        return
    asked = [{"role": "user", "content": "w5"}]
    tokenizer = load_tokenizer(found.path)
    assert ChatFormatter(tokenizer).thinks
    at_once = ChatFormatter(tokenizer, ["enable_thinking=false"])
    assert not at_once.thinks
    assert at_once(asked) == f"{ChatFormatter(tokenizer)(asked)}<think></think>"
