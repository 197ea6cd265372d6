"""What the doctor checks: a loaded variant, a short text, and the loss of its baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evalkit.models.layer_format import LayerFormat
from evalkit.records import Variant

if TYPE_CHECKING:
    from evalkit.running.session import LoadedSession


@dataclass(frozen=True)
class LoadedVariant:
    """A loaded variant and what it is compared with.

    `ids` are about 200 tokens of real text, empty for the cheap checks; `baseline` is the mean
    negative log-likelihood of the unquantized model on them. `formats` are the kinds of quantized
    layers that `model` may hold.
    """

    model: Any
    variant: Variant
    device: str
    kernel: str
    tokenizer: Any = None
    ids: tuple[int, ...] = ()
    baseline: float | None = None
    formats: tuple[LayerFormat, ...] = ()

    def logits(self, rows: Sequence[Sequence[int]], **more: Any) -> Tensor:
        """Float32 logits (rows, length, vocabulary) of one pass over rows of one length."""
        device = self.model.get_input_embeddings().weight.device
        with torch.inference_mode():
            output = self.model(input_ids=torch.tensor(rows, device=device), **more)
        found: Tensor = output.logits.float()
        return found


def loaded_variant(session: LoadedSession) -> LoadedVariant:
    """What the cheap checks look at."""
    return LoadedVariant(
        session.model,
        session.job.variant,
        session.job.device,
        session.kernel,
        formats=session.loaded.formats,
    )


def mean_loss(loaded: LoadedVariant) -> float:
    """Mean negative log-likelihood of `loaded.ids` after the first, in nats."""
    logits = loaded.logits([loaded.ids])[0, :-1]
    targets = torch.tensor(loaded.ids[1:], device=logits.device)
    return float(torch.nn.functional.cross_entropy(logits, targets))
