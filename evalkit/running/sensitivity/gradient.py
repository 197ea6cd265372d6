"""What squared gradients predict of each piece: a second-order screen, one backward pass a window.

Putting a small error Δ into the weights costs about ½ Δᵀ F Δ nats, F being the Fisher information,
of which the diagonal is kept: ½ Σ E[g²] Δ². The gradients g are those of the log-likelihood of
tokens drawn from the baseline's own distribution. Drawn so, they are uncorrelated from token to
token, and the squared gradient of a window's sum is the sum of the tokens' squares.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from evalkit.models.kv_cache import full_kv_cache
from evalkit.models.plain_weights import exchanged
from evalkit.progress import Event, Listener
from evalkit.running.process import stop_if_asked
from evalkit.running.sensitivity.pieces import Differences
from evalkit.running.sensitivity.result import Found


def measure_gradients(found: Found, differences: Differences, send: Listener) -> None:
    """Store what is predicted of every piece, window by window, where the store lacks it."""
    values, windows, seed = found.values, found.values.windows, found.work.baseline.seed
    pieces = [one for one in found.pieces if not one.cache]
    done = set.intersection(*(values.done(one.gradient_key(seed)) for one in pieces))
    left = sorted(found.chosen - done)
    label = found.work.variant.variant.label
    # Gradients of the weights that differ, and of no others.
    differences.model.requires_grad_(False)
    with full_kv_cache(differences.model):
        for index, window in enumerate(left):
            send(Event(label, "reading gradients", index, len(left), "windows"))
            stop_if_asked()
            ids = torch.from_numpy(windows.window(window)[:-1].astype(np.int64))[None]
            scored = int(windows.scored[window])
            predicted = _squared_errors(differences, ids, scored, seed + window)
            for piece in pieces:
                total = sum(predicted.get(name, 0.0) for name in piece.parameters)
                columns = {"window": np.array([window]), "predicted": np.array([total])}
                values.add(piece.gradient_key(seed), columns)


def _squared_errors(found: Differences, ids: Tensor, scored: int, seed: int) -> dict[str, float]:
    """½ Σ g² Δ² of each weight that differs, in nats over the `scored` last tokens of `ids`."""
    model = found.model
    predicted: dict[str, float] = {}
    # As parameters of its own each, so that a tied head and its embedding are told apart.
    with exchanged(model, found.own(found.names)), torch.enable_grad():
        for name in found.names:
            parameter = model.get_parameter(name).requires_grad_(True)
            parameter.register_post_accumulate_grad_hook(_folding(found, name, predicted))
        logits = model(input_ids=ids.to(model.device), use_cache=False).logits[0, -scored:]
        torch.autograd.backward(_log_likelihood_of_drawn(logits.float(), seed))
    return predicted


def _folding(
    found: Differences, name: str, predicted: dict[str, float]
) -> Callable[[Tensor], None]:
    """What takes the gradient of a weight when it is there, and frees it: none is held longer."""

    def fold(parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        theirs = found.theirs([name])[name].to(device=parameter.device)
        error = theirs.float() - parameter.detach().float()
        predicted[name] = 0.5 * float((gradient.float() * error).square().sum(dtype=torch.float64))

    return fold


def _log_likelihood_of_drawn(logits: Tensor, seed: int) -> Tensor:
    """Σ ln p of tokens drawn from `logits` (tokens, vocabulary) themselves."""
    logarithms = nn.functional.log_softmax(logits, -1)
    generator = torch.Generator(logits.device).manual_seed(seed)
    drawn = torch.multinomial(logarithms.detach().exp(), 1, generator=generator)
    return logarithms.gather(-1, drawn).sum()
