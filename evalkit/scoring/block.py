"""What the statistics of a block of tokens share: the softmax of both models and what follows.

PyTorch's softmax sums a row in float32 lanes, which at a vocabulary of 100,000 is off by up to
3e-5; the sum of its output, taken pairwise, measures that error and is divided out.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor


class Distribution:
    """The softmax of float32 logits (n, vocabulary), written to `buffer`, and what follows.

    Attributes of shape (n,) are float64: `lse`, `nll` and the probability `true` of the true
    token, all freed of the softmax's error of summation, whose factor is `total`.
    """

    def __init__(self, logits: Tensor, true: Tensor, buffer: Tensor) -> None:
        self.logits = logits
        self.softmax = torch.softmax(logits, -1, out=buffer)
        self.total = buffer.sum(-1).double()
        # The softmax of the largest logit is 1 / Σ exp(z − max).
        self.lse = logits.amax(-1).double() - torch.log(buffer.amax(-1).double() / self.total)
        self.nll = self.lse - logits.gather(1, true)[:, 0].double()
        self.true = buffer.gather(1, true)[:, 0].double() / self.total

    def probabilities(self) -> Tensor:
        """A new float32 (n, vocabulary): the softmax freed of its error of summation."""
        return self.softmax / self.total[:, None].float()


class Block:
    """Some scored tokens: the distribution `q` of the scored model and `p` of the reference.

    `targets` int64 (n,) are the true tokens. `buffer` float32 (n, vocabulary) is free for every
    statistic to compute in. `infinite_masks` tells that a masked id was seen at -inf. Buffers and
    what was seen are kept from one block to the next.
    """

    q: Distribution
    p: Distribution
    targets: Tensor

    def __init__(self, rows: int, vocabulary: int, device: torch.device, *, two: bool) -> None:
        self._buffers = torch.empty((2 if two else 1, rows, vocabulary), device=device)
        self.infinite_masks = False

    def fill(self, logits: Tensor, targets: Tensor, reference: Tensor | None) -> None:
        """Take up to `rows` tokens; `reference` is None where no statistic needs it."""
        self.targets, true = targets, targets[:, None]
        self.q = Distribution(logits.float(), true, self._buffers[0, : len(true)])
        if reference is not None:
            self.p = Distribution(reference.float(), true, self._buffers[1, : len(true)])

    @property
    def buffer(self) -> Tensor:
        """Scratch of the block's shape; its content is whatever the last statistic left."""
        return self._scratch[: len(self.targets)]

    @cached_property
    def _scratch(self) -> Tensor:
        # Statistics that need no buffer cost none; an ordinary tensor can be used in any mode.
        with torch.inference_mode(False):
            return torch.empty_like(self._buffers[0])
