"""The samples that a quantizer is calibrated on: slices of a text, or what the model writes itself.

Made in the process that quantizes.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from evalkit import plugins
from evalkit.errors import VariantError, is_out_of_memory
from evalkit.models.checkpoint import Checkpoint
from evalkit.progress import Event, Listener
from evalkit.records import Variant
from evalkit.running.calibration import (
    SELF,
    calibration_identity,
    calibration_seed,
    calibration_source,
    load_calibration,
    sample_shape,
)

if TYPE_CHECKING:
    from evalkit.backends._artifacts import Calibration

_STAGE = "writing calibration text"


def calibration_samples(
    checkpoint: Checkpoint,
    variant: Variant,
    device: str,
    *,
    seed: int,
    offline: bool,
    allow_pickle: bool,
    trust_remote_code: bool,
    send: Listener,
) -> Calibration | None:
    """The calibration samples of `variant`, or None for a method that needs none."""
    from evalkit.backends._artifacts import Calibration
    from evalkit.models.loading import load_tokenizer
    from evalkit.texts.calibration import calibration_samples as slices
    from evalkit.texts.encoding import text_encoder

    source = calibration_source(variant, checkpoint)
    if not source:
        return None
    seed = calibration_seed(variant, seed)
    samples, length = sample_shape(variant, checkpoint)
    tokenizer = load_tokenizer(checkpoint.path, trust_remote_code=trust_remote_code)
    text = None
    if source == SELF:
        model = _model(checkpoint, variant, device, allow_pickle, trust_remote_code)
        made = written_samples(model, tokenizer, samples, length, seed, variant, send)
    else:
        text = load_calibration(source, variant, offline=offline)
        encode = text_encoder(tokenizer).encode
        made = slices(encode, text.documents, samples=samples, length=length, seed=seed)
    return Calibration(made, calibration_identity(text, seed, checkpoint.identity.tokenizer))


def written_samples(
    model: Any,
    tokenizer: Any,
    samples: int,
    length: int,
    seed: int,
    variant: Variant,
    send: Listener,
) -> list[list[int]]:
    """What `model` itself writes, drawn by `seed`: `samples` of `length` tokens."""
    begin = _first_tokens(tokenizer, model, samples, seed)
    return _written(model, begin, length, seed, variant, send)


def _model(
    checkpoint: Checkpoint,
    variant: Variant,
    device: str,
    allow_pickle: bool,
    trust_remote_code: bool,
) -> Any:
    """The unquantized model, in the dtype in which its quantizer will run it."""
    import torch

    from evalkit.models.loading import load_causal_lm

    backend = plugins.load("backends", variant.backend)
    return load_causal_lm(
        checkpoint.path,
        dtype=getattr(torch, backend.arithmetic(variant, device)),
        device=device,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )


def _first_tokens(tokenizer: Any, model: Any, samples: int, seed: int) -> list[int]:
    """The token that each sample begins with: BOS, else EOS, else one drawn by `seed`."""
    own = model.config.get_text_config()
    for token in (tokenizer.bos_token_id, own.bos_token_id, tokenizer.eos_token_id):
        if isinstance(token, int) and 0 <= token < own.vocab_size:
            return [token] * samples
    drawn = random.Random(seed)
    return [drawn.randrange(own.vocab_size) for _ in range(samples)]


def _written(
    model: Any, begin: list[int], length: int, seed: int, variant: Variant, send: Listener
) -> list[list[int]]:
    """What `model` writes behind each token of `begin`; it says beforehand how long that takes."""
    from evalkit.inference.own_text import own_text

    label, tokens = variant.label, len(begin) * length
    send(Event(label, _STAGE))

    def tell(seconds: float) -> None:
        line = f"the model writes its own calibration text of {tokens:,} tokens"
        send(Event(label, "", message=f"{line}: about {max(1.0, seconds):.0f} s"))

    def advance(done: int, total: int) -> None:
        send(Event(label, _STAGE, done, total, "tokens"))

    try:
        return own_text(model, begin, length=length, seed=seed, advance=advance, expected=tell)
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        first = (str(error).splitlines() or [repr(error)])[0]
        raise VariantError(
            f"{label}: the model cannot write its own calibration text ({first}); give a file as "
            "calibration=FILE"
        ) from error
