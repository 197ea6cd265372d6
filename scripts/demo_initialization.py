"""Initial weights of the demo model: ordinary normal weights, and a head start for retrieval.

Looking things up in the text needs two attention layers that work together: heads that copy each
token to its right neighbour, and heads that look for the current token among those copies and
fetch what followed ("induction heads", Olsson et al. 2022). Left to themselves they form late and
suddenly, later than a CPU has time for. So layer 0 begins with heads that look one, two and three
tokens back, and each later layer with two heads that match and copy, in the spirit of mimetic
initialization (Trockman and Kolter 2023): "Anna" fetches what followed "Anna", and "lamp in the"
what stood three tokens behind "lamp". These are starting values only: all of them are trained.
"""

from __future__ import annotations

import torch

from evalkit.models.phi3_small import Phi3SmallForCausalLM

DEVIATION = 0.04
# Distance of each head of layer 0, by group of heads that share keys and values.
DISTANCES = ((2, 3), (1,))
POSITION_BIAS = 5.0
MATCH_SCALE = 2.0


def _frames(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """(rows, columns) with orthonormal rows."""
    return torch.linalg.qr(torch.randn(columns, rows, generator=generator)).Q.T


def _packed(model: Phi3SmallForCausalLM, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of query_key_value: weight (groups, slots, head_dim, hidden), bias without hidden."""
    attention = model.model.layers[layer].self_attn
    shape = (attention.num_key_value_heads, attention.num_key_value_groups + 2, attention.head_dim)
    linear = attention.query_key_value
    return linear.weight.data.view(*shape, -1), linear.bias.data.view(*shape)


def _slow_dimensions(head_dim: int) -> torch.Tensor:
    """Dimensions that RoPE hardly turns within a document: content is compared in these."""
    half = head_dim // 2
    slow = torch.arange(half // 2, half)
    return torch.cat((slow, slow + half))


def look_back(model: Phi3SmallForCausalLM, subspace: torch.Tensor) -> dict[int, torch.Tensor]:
    """Make heads of layer 0 look DISTANCES tokens back; return where each writes, by distance.

    Constant queries and keys, turned against each other by RoPE, score highest at that distance.

    Args:
        model: changed in place.
        subspace: (content dimensions, hidden) directions of the token that are copied.

    Returns:
        (content dimensions, hidden) orthonormal directions of the residual stream by distance.
    """
    weight, bias = _packed(model, 0)
    config = model.config
    half, queries = config.head_dim // 2, weight.shape[1] - 2
    angles = config.rope_embedding_base ** (-torch.arange(half) / half)
    content = len(subspace)
    output = model.model.layers[0].self_attn.dense.weight.data
    generator = torch.Generator().manual_seed(1)
    written = {}
    for group, distances in enumerate(DISTANCES):
        weight[group, : queries + 1] *= 0.25
        weight[group, -1, :content] = subspace
        bias[group, queries, :half] = POSITION_BIAS
        for slot, distance in enumerate(distances):
            bias[group, slot, :half] = POSITION_BIAS * torch.cos(distance * angles)
            bias[group, slot, half:] = -POSITION_BIAS * torch.sin(distance * angles)
            written[distance] = _frames(content, config.hidden_size, generator)
            first = (group * queries + slot) * config.head_dim
            output[:, first : first + content] = 0.5 * written[distance].T
    return written


def match_and_copy(
    model: Phi3SmallForCausalLM, layer: int, group: int, query: torch.Tensor, key: torch.Tensor
) -> None:
    """Make a head find where `key` holds what `query` holds here, and copy the token there."""
    weight, _ = _packed(model, layer)
    config = model.config
    dimensions = _slow_dimensions(config.head_dim)
    weight[group, 0, dimensions] = MATCH_SCALE * query
    weight[group, -2, dimensions] = MATCH_SCALE * key
    generator = torch.Generator().manual_seed(2 + 10 * layer + group)
    copied = _frames(config.head_dim, config.hidden_size, generator)
    weight[group, -1] = 0.5 * copied
    output = model.model.layers[layer].self_attn.dense.weight.data
    first = group * (weight.shape[1] - 2) * config.head_dim
    output[:, first : first + config.head_dim] = 0.5 * copied.T


@torch.no_grad()
def initialize(model: Phi3SmallForCausalLM, seed: int) -> None:
    """Set all weights of a freshly made model in place."""
    generator = torch.Generator().manual_seed(seed)
    depth = (2 * model.config.num_hidden_layers) ** 0.5
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            writes = name.endswith(("dense.weight", "down_proj.weight"))
            deviation = DEVIATION / depth if writes else DEVIATION
            parameter.normal_(0.0, deviation, generator=generator)
    content = len(_slow_dimensions(model.config.head_dim))
    subspace = _frames(content, model.config.hidden_size, generator)
    written = look_back(model, subspace)
    for layer in range(1, model.config.num_hidden_layers):
        match_and_copy(model, layer, 0, subspace, written[1])
        match_and_copy(model, layer, 1, written[2], written[3])
