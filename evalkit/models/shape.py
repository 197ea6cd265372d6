"""The sizes of an architecture for the planner, exact through the meta device.

Any causal language model that transformers knows, and Phi-3 Small natively, from its config.json
alone: no weights, no hub and no memory are needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch

from evalkit.analysis.architecture import Attention, Linear, ModelShape, Moment, SparseMask
from evalkit.errors import ModelError
from evalkit.models.activations import cast, keep_kinds_of_layers, moments, short_cache
from evalkit.models.phi3_small.configuration import Phi3SmallConfig
from evalkit.models.phi3_small.layout import MASK_BUDGET
from evalkit.models.phi3_small.sparse import BlockPattern
from evalkit.models.shapes import decoder_linears, meta_model

# Any type of these sizes would do; fused experts run in no other of 2 bytes.
DTYPES = {2: torch.bfloat16, 4: torch.float32}
# Long enough that constants do not hide the growth, short enough to be quick.
TRACED_TOKENS = 384
# While a sparse mask is made, its visible keys and their negation are held as booleans.
_MASK_BOOLEANS = 2
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")


def model_shape(name: str, config: dict[str, Any], elements: Iterable[int] = (2,)) -> ModelShape:
    """The shape of the architecture of config.json `config`.

    `elements` are the bytes of an unquantized element (2 or 4) that will be planned for.
    Raises ModelError for a configuration that transformers cannot build or run.
    """
    model = meta_model(config)
    model.eval()
    own = model.config.get_text_config()
    linears = decoder_linears(model)
    embedding = model.get_input_embeddings().weight
    output = model.get_output_embeddings()
    if output is None:
        raise ModelError(f"{name} has no output head: give a causal language model")
    head, tied = output.weight.numel(), output.weight is embedding
    experts = sum(p.numel() for p in model.parameters() if p.dim() > 2)
    counted = sum(o * i for o, i in linears.values()) + embedding.numel() + experts
    total = sum(p.numel() for p in model.parameters())
    cast(model, DTYPES[2])
    attention = _attention(model)
    keep_kinds_of_layers(model)
    traced = {size: _moments(model, size) for size in sorted(set(elements))}
    return ModelShape(
        name=name,
        layers=own.num_hidden_layers,
        hidden=own.hidden_size,
        vocab=own.vocab_size,
        heads=own.num_attention_heads,
        kv_heads=_first(own, ("num_key_value_heads",), own.num_attention_heads),
        head_dim=_first(own, ("head_dim",), own.hidden_size // own.num_attention_heads),
        intermediate=_first(own, ("intermediate_size", "ffn_dim", "n_inner"), 4 * own.hidden_size),
        max_context=_first(own, ("max_position_embeddings", "max_seq_len"), 0),
        linears=tuple(Linear(name, *widths) for name, widths in linears.items()),
        embedding=embedding.numel(),
        head=head,
        tied=tied,
        other=total - counted - (0 if tied else head),
        attention=attention,
        experts=experts,
        expert_share=_expert_share(own),
        prefill={size: found[0] for size, found in traced.items()},
        decode={size: found[1] for size, found in traced.items()},
        sparse_mask=_sparse_mask(own),
    )


def _moments(model: Any, size: int) -> tuple[tuple[Moment, ...], tuple[Moment, ...]]:
    own = model.config.get_text_config()
    longest = min(TRACED_TOKENS, _first(own, ("max_position_embeddings",), TRACED_TOKENS) - 1)
    if isinstance(own, Phi3SmallConfig):
        # Beyond it the sparse layers compute chunk by chunk, which needs less than the MLP does.
        longest = min(longest, BlockPattern.from_config(own).local_span - 1)
    window = _first(own, ("sliding_window",), 0)
    if window:
        longest = min(longest, window - 1)
    cast(model, DTYPES[size])
    return moments(model, longest)


def _attention(model: Any) -> tuple[Attention, ...]:
    """What each layer caches, read off the cache of a run over a few tokens."""
    own = model.config.get_text_config()
    cache = short_cache(model)
    kinds: Counter[tuple[int, int, int]] = Counter()
    for index, layer in enumerate(cache.layers[: own.num_hidden_layers]):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        cached = 0
        if keys is not None and values is not None:
            cached = (keys.numel() + values.numel()) // keys.shape[-2]
        kinds[(cached, *_window(own, index, layer))] += 1
    return tuple(Attention(count, *kind) for kind, count in kinds.items())


def _window(config: Any, index: int, layer: Any) -> tuple[int, int]:
    """Window and stride of the attention of layer `index`; 0 where it attends to everything."""
    if isinstance(config, Phi3SmallConfig):
        if config.is_dense(index):
            return 0, 0
        pattern = BlockPattern.from_config(config)
        return pattern.local_span, pattern.vert_stride
    if getattr(layer, "is_sliding", False):
        return int(layer.sliding_window), 0
    return 0, 0


def _sparse_mask(config: Any) -> SparseMask | None:
    if not isinstance(config, Phi3SmallConfig):
        return None
    pattern = BlockPattern.from_config(config)
    return SparseMask(config.num_attention_heads, pattern.local_span, MASK_BUDGET, _MASK_BOOLEANS)


def _expert_share(config: Any) -> float:
    count = _first(config, _EXPERT_COUNTS, 0)
    return _first(config, ("num_experts_per_tok",), count) / count if count else 1.0


def _first(config: Any, names: tuple[str, ...], default: int) -> int:
    """The first of the attributes `names` that is a number, else `default`."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return default
