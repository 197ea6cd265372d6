"""Per-token statistics of logits over the full vocabulary, in float32.

With z the logits of a model, lse = ln Σ exp z and the true token t:

nll         lse − z[t], the negative log-likelihood of the true token, in nats
ref_nll     the same under the reference
kl          Σ p (ln p − ln q), the Kullback-Leibler divergence of the model q from the reference p
tv          ½ Σ |p − q|, the total variation
delta_p     q[t] − p[t]
same_top1   1 where both give the same token the highest probability (the first of equals), else 0

Two details keep small divergences exact. PyTorch's softmax sums a row in float32 lanes, which at
a vocabulary of 100,000 is off by up to 3e-5; the sum of its output, taken pairwise, measures that
error and is divided out. And the differences of logits in `kl` are taken before weighting, about
their expected offset lse_p − lse_q, so nothing of the size of the logits cancels. What is left is
about 3e-7 a token, without bias.

Ids that the reference masks have p = 0 and add nothing to `kl`; a masked id's logit may be -inf.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

NEEDS_REFERENCE = frozenset({"ref_nll", "kl", "tv", "delta_p", "same_top1"})
STATISTICS = frozenset({"nll"}) | NEEDS_REFERENCE

# Blocks of rows that stay in a core's cache through all passes over them.
_BLOCK_BYTES = 2**20
_CUDA_BLOCK_BYTES = 2**27
_TOP_BLOCK = 256


class TokenStatistics:
    """Computes the statistics `names`; buffers are kept from call to call."""

    def __init__(self, names: Iterable[str], vocabulary: int, device: torch.device) -> None:
        self.names = frozenset(names)
        size = _CUDA_BLOCK_BYTES
        if device.type == "cpu":
            size = _BLOCK_BYTES * torch.get_num_threads()
        self.block = max(1, size // (4 * vocabulary))
        count = 3 if self.names & NEEDS_REFERENCE else 1
        self._buffers = torch.empty((count, self.block, vocabulary), device=device)
        self._infinite_masks = False

    def __call__(
        self, logits: Tensor, targets: Tensor, reference: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One float32 (n,) tensor a statistic.

        Args:
            logits: (n, vocabulary) of the scored model, any floating dtype.
            targets: int64 (n,), the true tokens.
            reference: (n, vocabulary) of the reference; needed by all statistics but nll.
        """
        blocks = []
        for start in range(0, len(targets), self.block):
            rows = slice(start, start + self.block)
            true = targets[rows, None]
            buffers = self._buffers[:, : len(true)]
            q = _Distribution(logits[rows].float(), true, buffers[0])
            if reference is None:
                blocks.append({"nll": q.nll})
                continue
            p = _Distribution(reference[rows].float(), true, buffers[1])
            blocks.append(self._compared(p, q, buffers[2]))
        return {
            name: torch.cat([block[name] for block in blocks]).float()
            for name in blocks[0]
            if name in self.names
        }

    def _compared(self, p: _Distribution, q: _Distribution, buffer: Tensor) -> dict[str, Tensor]:
        found = {"nll": q.nll, "ref_nll": p.nll, "delta_p": q.true - p.true}
        if "same_top1" in self.names:
            found["same_top1"] = _top1(q.logits) == _top1(p.logits)
        if "kl" in self.names:
            found["kl"] = self._divergence(p, q, buffer)
        if "tv" in self.names:
            found["tv"] = torch.sub(p.softmax, q.softmax, out=buffer).abs_().sum(-1) / 2
        return found

    def _divergence(self, p: _Distribution, q: _Distribution, buffer: Tensor) -> Tensor:
        offset = (p.lse - q.lse).float()
        difference = torch.sub(p.logits, q.logits, out=buffer).sub_(offset[:, None])
        if self._infinite_masks:
            difference.masked_fill_(p.softmax == 0, 0.0)
        weighted = difference.mul_(p.softmax).sum(-1)
        if not self._infinite_masks and not torch.isfinite(weighted).all():
            # Masked ids at -inf make inf − inf; from now on they are left out beforehand.
            self._infinite_masks = True
            return self._divergence(p, q, buffer)
        return weighted.double() / p.total - (p.lse - q.lse - offset.double())


class _Distribution:
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


def _top1(logits: Tensor) -> Tensor:
    """Index (n,) of the largest logit of each row, the first of equals.

    On the CPU argmax takes longer than a softmax; the maximum of blocks, then a search in one
    block, is five times as fast.
    """
    count = logits.shape[1] // _TOP_BLOCK
    if logits.device.type != "cpu" or count < 2:
        return logits.argmax(-1)
    whole = logits[:, : count * _TOP_BLOCK].unflatten(1, (count, _TOP_BLOCK))
    value, block = whole.amax(-1).max(-1)
    inside = whole[torch.arange(len(logits)), block].argmax(-1)
    best = block * _TOP_BLOCK + inside
    rest = logits[:, count * _TOP_BLOCK :]
    if rest.shape[1]:
        other, place = rest.max(-1)
        best = torch.where(other > value, count * _TOP_BLOCK + place, best)
    return best
