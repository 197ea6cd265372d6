"""The ways a text can go through the model; each returns float32 logits (length, vocabulary)."""

from __future__ import annotations

import numpy as np
import torch
from transformers import DynamicCache, StaticCache

from evalkit.models.phi3_small import Phi3SmallForCausalLM

Model = Phi3SmallForCausalLM


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@torch.inference_mode()
def one_pass(model: Model, ids: torch.Tensor) -> np.ndarray:
    return model(ids).logits[0].numpy()


@torch.inference_mode()
def in_chunks(model: Model, ids: torch.Tensor, size: int, cache: object = None) -> np.ndarray:
    cache = DynamicCache(config=model.config) if cache is None else cache
    parts = [model(part, past_key_values=cache).logits for part in ids.split(size, dim=1)]
    return torch.cat(parts, dim=1)[0].numpy()


def token_by_token(model: Model, ids: torch.Tensor) -> np.ndarray:
    return in_chunks(model, ids, 1)


def static_cache(model: Model, ids: torch.Tensor, size: int = 64) -> np.ndarray:
    room = ids.shape[1] + 40
    return in_chunks(model, ids, size, StaticCache(config=model.config, max_cache_len=room))


def left_padded(ids: torch.Tensor, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch whose first row is longer by `padding` random tokens, with its mask."""
    generator = torch.Generator().manual_seed(5)
    longer = torch.randint(1, 250, (1, ids.shape[1] + padding), generator=generator)
    shorter = torch.nn.functional.pad(ids, (padding, 0), value=7)
    mask = torch.ones(2, longer.shape[1], dtype=torch.long)
    mask[1, :padding] = 0
    return torch.cat((longer, shorter)), mask


@torch.inference_mode()
def second_row(
    model: Model, ids: torch.Tensor, padding: int = 37, size: int | None = None
) -> np.ndarray:
    """Logits as the second row of a left-padded batch, in one pass or in chunks of `size`."""
    batch, mask = left_padded(ids, padding)
    if size is None:
        return model(batch, attention_mask=mask).logits[1, padding:].numpy()
    cache, parts, seen = DynamicCache(config=model.config), [], 0
    for part in batch.split(size, dim=1):
        seen += part.shape[1]
        parts.append(model(part, attention_mask=mask[:, :seen], past_key_values=cache).logits[1])
    return torch.cat(parts)[padding:].numpy()
