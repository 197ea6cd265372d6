"""The union of the statistics that metrics need, in one pass over blocks of tokens, in float32."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from evalkit.scoring.block import Block
from evalkit.scoring.statistics import find_statistic

# Blocks of rows that stay in a core's cache through all passes over them.
_BLOCK_BYTES = 2**20
_CUDA_BLOCK_BYTES = 2**27


class TokenStatistics:
    """Computes the statistics `names`; buffers are kept from call to call."""

    def __init__(self, names: Iterable[str], vocabulary: int, device: torch.device) -> None:
        self.statistics = {name: find_statistic(name) for name in sorted(set(names))}
        size = _CUDA_BLOCK_BYTES
        if device.type == "cpu":
            size = _BLOCK_BYTES * torch.get_num_threads()
        self.rows = max(1, size // (4 * vocabulary))
        self.needs_reference = any(one.needs_reference for one in self.statistics.values())
        self._block = Block(self.rows, vocabulary, device, two=self.needs_reference)

    def __call__(
        self, logits: Tensor, targets: Tensor, reference: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One float32 (n,) tensor a statistic.

        Args:
            logits: (n, vocabulary) of the scored model, any floating dtype.
            targets: int64 (n,), the true tokens.
            reference: (n, vocabulary) of the reference, where a statistic needs it.
        """
        found: dict[str, list[Tensor]] = {name: [] for name in self.statistics}
        for start in range(0, len(targets), self.rows):
            rows = slice(start, start + self.rows)
            theirs = None if reference is None else reference[rows]
            self._block.fill(logits[rows], targets[rows], theirs)
            for name, statistic in self.statistics.items():
                found[name].append(statistic(self._block))
        return {name: torch.cat(values).float() for name, values in found.items()}
