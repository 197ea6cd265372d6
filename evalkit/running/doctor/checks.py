"""Checks of a loaded model, each a function from the variant to findings.

`CHEAP` look at weights and configuration only and run before every measurement; `THOROUGH` run
the model on a short text. A check that finds nothing returns nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from evalkit.backends import LEAST_PACKED, label, run_settings, spec_of
from evalkit.errors import is_out_of_memory
from evalkit.models.layers import linear_modules, packed_share
from evalkit.models.slices import finite_and_some, same_numbers
from evalkit.models.storage import named_tensors
from evalkit.models.text_stack import full_matrices, is_full
from evalkit.records.findings import Finding, Level
from evalkit.running.doctor.loaded_variant import LoadedVariant, mean_loss
from evalkit.scoring.halving import release_memory

# A perplexity this much above the baseline's on 200 tokens is more than rounding does.
MUCH_WORSE, WORSE = 1.5, 1.1
# Differences of logits that the order of additions explains, relative to their spread.
SAME = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
MASKED = -1e4
_SHOWN = 3


Check = Callable[[LoadedVariant], Iterator[Finding]]


def weights_are_finite(loaded: LoadedVariant) -> Iterator[Finding]:
    """No NaN, no infinity, no linear layer whose scales are zero.

    A single infinite number is a bound that does not bind, and what is no linear layer may hold a
    scale that was never trained.
    """
    bad, zero = [], []
    linears = {name for name, _ in linear_modules(loaded.model)}
    for name, tensor in named_tensors(loaded.model, loaded.formats):
        if tensor.device.type == "meta" or not tensor.is_floating_point():
            continue
        finite, some = finite_and_some(tensor)
        layer, _, own = name.rpartition(".")
        if not finite:
            if tensor.numel() > 1 or bool(tensor.isnan().any()):
                bad.append(name)
        elif layer in linears and "scale" in own.lower() and tensor.numel() and not some:
            zero.append(name)
    if bad:
        yield _problem(
            "weights", f"NaN or infinite values in {_listed(bad)}",
            "every output that depends on them is meaningless",
            "make the checkpoint again; in float16 a value above 65504 overflows: try bf16",
        )  # fmt: skip
    if zero:
        yield _problem(
            "scales", f"all scales are zero in {_listed(zero)}",
            "the layers output nothing but their bias",
            "quantize again with other calibration text or a smaller group_size",
        )  # fmt: skip


def layers_are_as_promised(loaded: LoadedVariant) -> Iterator[Finding]:
    """A quantized variant is packed in its text model, a full one holds no quantized layer."""
    promised = (
        loaded.variant.precision.startswith(("int", "nf", "fp4"))
        and not spec_of(loaded.variant).simulates
    )
    full = list(full_matrices(loaded.model))
    if promised and packed_share(loaded.model) < LEAST_PACKED:
        yield _problem(
            "layers", f"left unquantized: {_listed(full)}",
            f"the variant is called {loaded.variant.label} and is larger and better than that",
            "choose a group_size or backend that takes these layers",
        )  # fmt: skip
    packed = [
        name
        for name, module in linear_modules(loaded.model)
        if not isinstance(weight := getattr(module, "weight", None), Tensor) or not is_full(weight)
    ]
    if loaded.variant.backend == "transformers" and packed:
        yield _problem(
            "layers", f"quantized although {loaded.variant.precision} was asked for:"
            f" {_listed(packed)}", "the baseline would not be the unquantized model",
            "give the unquantized checkpoint, or name this directory as the variant",
        )  # fmt: skip


def head_is_tied_as_configured(loaded: LoadedVariant) -> Iterator[Finding]:
    """Where the configuration ties head and embedding, they hold the same values.

    As in transformers the model's own counts, not that of the text model inside it. Of other
    shapes they cannot be tied, whatever the configuration says: then both were loaded.
    """
    head, embedding = loaded.model.get_output_embeddings(), loaded.model.get_input_embeddings()
    if not getattr(loaded.model.config, "tie_word_embeddings", False):
        return
    one, other = getattr(head, "weight", None), getattr(embedding, "weight", None)
    if one is None or other is None or one.data_ptr() == other.data_ptr():
        return
    if one.shape == other.shape and not same_numbers(one, other):
        yield _problem(
            "tied head", "head and embedding differ although the configuration ties them",
            "a head that was not loaded is random: every prediction is noise",
            "load with evalkit's own classes, or set tie_word_embeddings to false in config.json",
        )  # fmt: skip


def everything_is_on_the_device(loaded: LoadedVariant) -> Iterator[Finding]:
    """No module was put on another device or left without memory."""
    if loaded.variant.option("offload", False):
        return
    placed = getattr(loaded.model, "hf_device_map", None) or {}
    kind = loaded.device.partition(":")[0]
    away = [
        f"{name or 'model'} on {place}"
        for name, place in placed.items()
        if str(place) == "disk" or (str(place) == "cpu" and kind != "cpu")
    ]
    if away:
        yield _problem(
            "devices", f"offloaded: {_listed(away)}",
            "speed is that of the bus, not of the card",
            "use a smaller variant, or --offload if that is what you want to measure",
        )  # fmt: skip
    empty = [name for name, t in loaded.model.named_parameters() if t.device.type == "meta"]
    if empty:
        yield _problem(
            "devices", f"without memory: {_listed(empty)}", "these weights were never loaded",
            "check that the checkpoint has all its shards",
        )  # fmt: skip


def tokenizer_fits_the_embedding(loaded: LoadedVariant) -> Iterator[Finding]:
    """Every id of the tokenizer has a row in the embedding."""
    if loaded.tokenizer is None:
        return
    rows = loaded.model.get_input_embeddings().weight.shape[0]
    highest = max(loaded.tokenizer.get_vocab().values(), default=0)
    if highest >= rows:
        yield _problem(
            "tokenizer", f"the tokenizer's ids go up to {highest}, the embedding has {rows} rows",
            "such an id ends in an error, or in another token's vector",
            "give the tokenizer that was saved with the model",
        )  # fmt: skip


def bos_is_added_once(loaded: LoadedVariant) -> Iterator[Finding]:
    """The tokenizer adds BOS never or once, and the id the model expects."""
    tokenizer = loaded.tokenizer
    if tokenizer is None or tokenizer.bos_token_id is None:
        return
    ids = tokenizer("a")["input_ids"]
    if ids[:2] == [tokenizer.bos_token_id] * 2:
        yield _problem(
            "BOS", "the tokenizer begins a text with two BOS tokens",
            "models see one in training; perplexity rises",
            "remove one from the post-processor of tokenizer.json",
        )  # fmt: skip
    expected = getattr(loaded.model.config.get_text_config(), "bos_token_id", None)
    if isinstance(expected, int) and expected != tokenizer.bos_token_id:
        yield _warning(
            "BOS", f"the tokenizer's BOS is id {tokenizer.bos_token_id}, config.json says"
            f" {expected}", "texts begin with a token the model does not know as a beginning",
            "check that tokenizer and model belong together",
        )  # fmt: skip


def chat_template_renders(loaded: LoadedVariant) -> Iterator[Finding]:
    """A chat template that is there can be used."""
    if loaded.tokenizer is None or not getattr(loaded.tokenizer, "chat_template", None):
        return
    try:
        loaded.tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    except Exception as error:  # whatever a template of a checkpoint may raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        yield _warning(
            "chat template", f"it does not render: {first}",
            "--apply-chat-template would fail", "replace chat_template.jinja of the checkpoint",
        )  # fmt: skip


def logits_are_finite(loaded: LoadedVariant) -> Iterator[Finding]:
    """No NaN in the logits of a real text, and ids the model masks stay masked."""
    logits = loaded.logits([loaded.ids])
    if bool(torch.isnan(logits).any()) or bool((logits == math.inf).any()):
        yield _problem(
            "logits", "NaN or infinite logits on an ordinary text", "no score of it is a number",
            "try bf16, or another kernel; activations may overflow float16",
        )  # fmt: skip
    dummies = getattr(loaded.model.config, "dummy_token_indices", None) or ()
    if dummies and float(logits[..., list(dummies)].max()) > MASKED:
        yield _problem(
            "masked ids", f"{len(dummies)} ids that are never text are not masked",
            "probability is lost to them, and generation may produce them",
            "load the model through evalkit or transformers' Auto classes",
        )  # fmt: skip


def perplexity_is_plausible(loaded: LoadedVariant) -> Iterator[Finding]:
    """On 200 tokens the model beats guessing and is not far from the baseline."""
    loss = mean_loss(loaded)
    rows = loaded.model.get_input_embeddings().weight.shape[0]
    if not math.isfinite(loss) or loss > math.log(rows) - 0.5:
        yield _problem(
            "perplexity", f"perplexity {_exp(loss)} on {len(loaded.ids)} tokens, guessing among"
            f" {rows} ids has {rows}", "the model knows nothing of this text",
            "weights may not belong to this architecture, or the tokenizer to this model",
        )  # fmt: skip
        return
    if loaded.baseline is None:
        return
    ratio = math.exp(min(50.0, loss - loaded.baseline))
    if ratio > WORSE:
        level: Level = "problem" if ratio > MUCH_WORSE else "warning"
        yield Finding(
            "perplexity", level, f"perplexity is {ratio:.2f} times the unquantized model's"
            f" ({_exp(loss)} for {_exp(loaded.baseline)})",
            "that is more than this precision usually costs",
            "quantize with a smaller group_size, more calibration text, or more bits",
        )  # fmt: skip


def neighbours_do_not_matter(loaded: LoadedVariant) -> Iterator[Finding]:
    """A text scores the same alone and in a batch with another."""
    half = len(loaded.ids) // 2
    mine, other = loaded.ids[:half], loaded.ids[half : 2 * half]
    alone, together = loaded.logits([mine])[0], loaded.logits([mine, other])[0]
    if (difference := _difference(alone, together)) <= _tolerance(loaded):
        return
    by_design = "batch_tokens" in run_settings(loaded.variant)
    level: Level = "information" if by_design else "warning"
    why = (
        f"by design: {label(loaded.variant)} depends on all tokens of a batch"
        if by_design
        else "scores then depend on what else is in the batch"
    )
    yield Finding(
        "batch neighbours", level,
        f"logits change by {difference:.2g} of their spread with another text in the batch", why,
        "evalkit keeps batches the same for all variants" if by_design
        else "score with batch size 1 (--batch-tokens), and look at the kernel",
    )  # fmt: skip


def passes_repeat(loaded: LoadedVariant) -> Iterator[Finding]:
    """The same pass twice gives the same logits."""
    once, again = loaded.logits([loaded.ids])[0], loaded.logits([loaded.ids])[0]
    if (difference := _difference(once, again)) > _tolerance(loaded):
        yield _warning(
            "determinism", f"two equal passes differ by {difference:.2g} of the logits' spread",
            "no measured difference below that means anything",
            "check that dropout is off (model.eval()) and which kernel runs",
        )  # fmt: skip


def cache_agrees(loaded: LoadedVariant) -> Iterator[Finding]:
    """A pass in two pieces through the cache gives the logits of one pass."""
    half = len(loaded.ids) // 2
    whole = loaded.logits([loaded.ids])[0]
    device = loaded.model.get_input_embeddings().weight.device
    with torch.inference_mode():
        first = loaded.model(
            input_ids=torch.tensor([loaded.ids[:half]], device=device), use_cache=True
        )
    second = loaded.logits([loaded.ids[half:]], past_key_values=first.past_key_values)[0]
    if (difference := _difference(whole[half:], second)) > _tolerance(loaded):
        yield _problem(
            "cache", f"logits through the cache differ by {difference:.2g} of their spread",
            "what is generated is not what is scored",
            "check attention, positions and the cache of this architecture",
        )  # fmt: skip


CHEAP: tuple[Check, ...] = (
    weights_are_finite,
    layers_are_as_promised,
    head_is_tied_as_configured,
    everything_is_on_the_device,
)
THOROUGH: tuple[Check, ...] = (
    *CHEAP,
    tokenizer_fits_the_embedding,
    bos_is_added_once,
    chat_template_renders,
    logits_are_finite,
    perplexity_is_plausible,
    neighbours_do_not_matter,
    passes_repeat,
    cache_agrees,
)


def examine(loaded: LoadedVariant, checks: Sequence[Check]) -> list[Finding]:
    """Findings of all `checks`, in their order; one that runs out of memory is a warning."""
    return [finding for check in checks for finding in _findings(check, loaded)]


def _findings(check: Check, loaded: LoadedVariant) -> list[Finding]:
    try:
        return list(check(loaded))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Only here, outside the handler, are the tensors of the failed check gone.
    release_memory(loaded.device)
    what = check.__name__.replace("_", " ")
    return [
        _warning(
            what, f"the check that {what} ran out of memory", "such a fault would not be noticed",
            "end other programs on the device, or take a smaller variant",
        )
    ]  # fmt: skip


def _tolerance(loaded: LoadedVariant) -> float:
    dtype = loaded.model.get_input_embeddings().weight.dtype
    quantized = loaded.variant.precision.startswith("int")
    return SAME.get(dtype, 0.05) * (2 if quantized else 1)


def _difference(one: Tensor, other: Tensor) -> float:
    """Largest difference of logits over their spread; masked ids and NaN are left out."""
    kept = (one > MASKED) & (other > MASKED)
    if not bool(kept.any()):
        return 0.0
    spread = float(one[kept].std()) or 1.0
    return float((one - other)[kept].abs().max()) / spread


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _exp(loss: float) -> str:
    return f"{math.exp(min(loss, 50.0)):.3g}" if math.isfinite(loss) else "NaN"


def _problem(check: str, what: str, why: str, fix: str) -> Finding:
    return Finding(check, "problem", what, why, fix)


def _warning(check: str, what: str, why: str, fix: str) -> Finding:
    return Finding(check, "warning", what, why, fix)
