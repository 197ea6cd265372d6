"""Small random models of many shapes for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from evalkit.models.phi3_small import Phi3SmallConfig, Phi3SmallForCausalLM

TINY: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "ff_intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "blocksparse_block_size": 8,
    "blocksparse_num_local_blocks": 3,
    "blocksparse_vert_stride": 4,
    "max_position_embeddings": 2048,
    "bos_token_id": 0,
    "eos_token_id": 0,
}

LONGROPE: dict[str, Any] = {
    "type": "longrope",
    "short_factor": [1.0, 1.05, 1.1, 1.15],
    "long_factor": [1.5, 2.4, 3.3, 4.2],
    "original_max_position_embeddings": 64,
    "short_mscale": -1,
    "long_mscale": -1,
}


def tiny_config(**changes: Any) -> Phi3SmallConfig:
    return Phi3SmallConfig(**{**TINY, **changes})


def tiny_model(seed: int = 0, **changes: Any) -> Phi3SmallForCausalLM:
    """A model in evaluation mode whose weights and biases are all random and not small."""
    torch.manual_seed(seed)
    model = Phi3SmallForCausalLM(tiny_config(**changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if name.endswith("layernorm.weight") else 0.0
            parameter.normal_(centre, 0.15)
    return model


def random_ids(length: int, rows: int = 1, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 250, (rows, length), generator=generator)


def weights_of(model: Phi3SmallForCausalLM) -> dict[str, np.ndarray]:
    state = model.state_dict()
    return {name: tensor.double().numpy() for name, tensor in state.items()}
