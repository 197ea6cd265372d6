"""Small random models of every causal architecture that the installed transformers knows."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import shutil
import zlib
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from zoo.settings import BOS, COMMON, INDEXERS, POSITIONS, PROFILES, SPECIAL, VOCABULARY

TYPES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
TEXT = Path(__file__).resolve().parents[2] / "data" / "demo" / "text" / "town_test.txt"
MOST_PARAMETERS = 60e6
# Fields that some configurations refuse beside others; left out one after the other.
_REFUSED = ((), ("head_dim",), ("head_dim", "num_key_value_heads"), ("layer_types",))


def build(model_type: str, out: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write a small random model of `model_type` with a tokenizer into the directory `out`.

    Raises whatever transformers raises where such a model cannot be built.
    """
    torch.manual_seed(0)
    config = small_config(model_type)
    with torch.device("meta"):
        meta = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if (size := sum(p.numel() for p in meta.parameters())) > MOST_PARAMETERS:
        raise ValueError(f"{size / 1e6:.0f} million parameters: {model_type} needs settings")
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out)
    tokenizer().save_pretrained(out)
    return out


def small_config(model_type: str) -> PreTrainedConfig:
    """A configuration of `model_type` with the zoo's sizes; raises ValueError where none fits."""
    profile = PROFILES[zlib.crc32(model_type.encode()) % len(PROFILES)]
    own = SPECIAL.get(model_type)
    errors = []
    for extra in ({}, own) if own else (profile, {}):
        if extra is None or (own and not extra):
            continue
        for refused in _REFUSED:
            try:
                return _built(model_type, extra, refused)
            except Exception as error:  # whatever a configuration makes of sizes it cannot have
                errors.append(error)
    raise errors[0]


def _built(model_type: str, extra: dict[str, Any], refused: tuple[str, ...]) -> PreTrainedConfig:
    chosen = _sizes(CONFIG_MAPPING[model_type], extra)
    config = CONFIG_MAPPING[model_type](**{k: v for k, v in chosen.items() if k not in refused})
    for name, value in INDEXERS.get(model_type, {}).items():
        if hasattr(config, name):
            setattr(config, name, value)
    for one in (config, config.get_text_config()):
        for name, value in (("is_decoder", True), ("add_cross_attention", False)):
            if hasattr(one, name):
                setattr(one, name, value)
    with torch.device("meta"):
        AutoModelForCausalLM.from_config(config)
    return config


def _sizes(kind: Any, extra: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the configuration class `kind`, and of those it holds."""
    names, aliases = _fields(kind), getattr(kind, "attribute_map", {}) or {}
    sizes = {**COMMON, **extra}
    found = {k: v for k, v in sizes.items() if k in names and k not in aliases}
    for name, inner in (getattr(kind, "sub_configs", {}) or {}).items():
        if inner.__name__ != "AutoConfig":
            found[name] = _sizes(inner, SPECIAL.get(inner.model_type, {}))
            if "image_size" in found[name] or "vision" in name:
                found[name] |= {"image_size": 64, "patch_size": 16}
    return found | {k: v for k, v in extra.items() if k not in PROFILES[1] | PROFILES[3]}


def _fields(kind: Any) -> set[str]:
    names: set[str] = set(getattr(kind, "attribute_map", {}) or {})
    if dataclasses.is_dataclass(kind):
        names |= {field.name for field in dataclasses.fields(kind)}
    for base in kind.__mro__:
        if "__init__" in vars(base):
            names |= set(inspect.signature(base.__init__).parameters)
        names |= set(getattr(base, "__annotations__", {}))
    return names


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE over the demo's text, whose first ids are padding, BOS, EOS and unknown."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<bos>", "<eos>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train([str(TEXT)], trainer)
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", model_max_length=POSITIONS, **special
    )


def ids_of(text: str, count: int) -> list[int]:
    """`count` token ids of `text` behind BOS, repeated as often as needed."""
    ids = tokenizer().encode(text, add_special_tokens=False)
    return [BOS, *(ids * (count // len(ids) + 1))][:count]
