"""LLM.int8() and 4-bit NF4 or FP4 by bitsandbytes: fast to make, no calibration data.

LLM.int8() (Dettmers et al. 2022) quantizes activations as well as weights to 8 bit and computes
columns of activations beyond `threshold` in 16 bit. NF4 and FP4 (Dettmers et al. 2023) hold
weights in 4 bit with one scale for 64 weights and compute in 16 bit.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.backends import _schemes
from evalkit.backends._checks import (
    DTYPES,
    check_quantized,
    check_unquantized,
    refuse,
    too_much_left,
)
from evalkit.backends._kernels import Capability, KernelChoice
from evalkit.backends._spec import (
    BackendSpec,
    Option,
    check_device,
    method_label,
    resolved_options,
)
from evalkit.errors import VariantError
from evalkit.progress import Event, Listener, ignore
from evalkit.records import Variant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel

    from evalkit.analysis.footprint import Scheme
    from evalkit.models.checkpoint import Checkpoint
    from evalkit.models.loading import Loaded
    from evalkit.models.shapes import Shape

SPEC = BackendSpec(
    name="bitsandbytes",
    summary="LLM.int8(), and 4-bit NF4 or FP4; no calibration",
    precisions=("int8", "int4"),
    options=(
        Option(
            "threshold",
            6.0,
            "activation columns beyond it are computed in 16 bit; 0 quantizes all columns",
            minimum=0.0,
            precisions=("int8",),
        ),
        Option(
            "quant_type",
            "nf4",
            "the 4-bit data type",
            allowed=("nf4", "fp4"),
            shown=True,
            precisions=("int4",),
        ),
        Option("double_quant", False, "quantize the scales as well", precisions=("int4",)),
        Option("dtype", "fp16", "of activations and unquantized weights", allowed=("fp16", "bf16")),
    ),
    requires=("bitsandbytes", "accelerate"),
    install="pip install bitsandbytes accelerate",
    quantizes=True,
    formats=("int4,quant_type=fp4", "int4,double_quant=true"),
)
# Integer products need tensor cores for 8 bit.
_INT8_CAPABILITY = (7, 5)


def check(checkpoint: Checkpoint, variant: Variant) -> None:
    """Raise VariantError for a checkpoint that is already quantized, or of too few matrices."""
    check_unquantized(checkpoint, variant)
    if reason := problem(checkpoint, variant):
        refuse(checkpoint, reason, *_by_gptq(variant))


def problem(checkpoint: Checkpoint, variant: Variant) -> str:
    """Why the variant cannot be made of an unquantized checkpoint; any layer width is taken."""
    return too_much_left(checkpoint, variant)


def _by_gptq(variant: Variant) -> list[str]:
    gptq = f"{variant.precision}@gptq"
    return [gptq, f"{gptq},group_size=64", f"{gptq},group_size=32"]


def label(variant: Variant) -> str:
    """The method's own name: LLM.int8(), NF4 or FP4."""
    if variant.precision == "int8":
        return method_label(variant, "LLM.int8()")
    method = str(resolved_options(SPEC, variant)["quant_type"]).upper()
    others = tuple(one for one in variant.options if one[0] != "quant_type")
    return method_label(dataclasses.replace(variant, options=others), method)


def run_settings(variant: Variant) -> tuple[str, ...]:
    """LLM.int8() chooses its 16-bit columns from all tokens of a batch, unless there are none."""
    mixes = variant.precision == "int8" and resolved_options(SPEC, variant)["threshold"] != 0.0
    return ("batch_tokens",) if mixes else ()


def scheme(variant: Variant) -> Scheme:
    """How a linear layer is stored, for the planner."""
    if variant.precision == "int8":
        return _schemes.llm_int8()
    options = resolved_options(SPEC, variant)
    return _schemes.four_bit(str(options["quant_type"]), bool(options["double_quant"]))


def kernel_for(
    variant: Variant, shapes: Mapping[str, Shape], capability: Capability
) -> KernelChoice:
    """The layer's class, whose kernels come compiled and take any width."""
    if variant.precision == "int4":
        return KernelChoice("Linear4bit")
    if capability is not None and capability < _INT8_CAPABILITY:
        raise VariantError(
            f"{variant.text} needs compute capability 7.5, and this card has {capability[0]}."
            f"{capability[1]}: use int8@gptq or int4@bitsandbytes"
        )
    return KernelChoice("Linear8bitLt")


def prepare() -> None:
    """Import bitsandbytes and transformers."""
    import evalkit.backends._bitsandbytes  # noqa: F401


def quantize(
    source: Path,
    variant: Variant,
    out: Path,
    device: str,
    calibration: Sequence[Sequence[int]] | None = None,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    listener: Listener = ignore,
) -> None:
    """Write the quantized checkpoint of `source` into the directory `out`.

    It is saved before any forward pass: the CPU kernels repack 4-bit weights at the first one,
    and what is saved afterwards is not what was loaded.
    """
    from evalkit.models.loading import quiet
    from evalkit.models.resolve import resolve_model

    checkpoint = resolve_model(
        str(source), allow_pickle=allow_pickle, trust_remote_code=trust_remote_code
    )
    if not _transformers_packs(checkpoint.config):
        reason = f"{variant.text} of this model is made on loading and has no file format"
        refuse(checkpoint, reason, *_by_gptq(variant))
    listener(Event(variant.label, "quantizing"))
    loaded = load(
        source,
        variant,
        device,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )
    with quiet():
        loaded.model.save_pretrained(out)


def load(
    source: Path,
    variant: Variant,
    device: str,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Loaded:
    """The model of `source` in the variant's precision on `device`.

    `source` is what `quantize` wrote, or an original checkpoint, which is converted on loading.
    """
    from evalkit.backends._bitsandbytes import prepare_layers
    from evalkit.backends._bitsandbytes_convert import FORMATS, convert
    from evalkit.models.checkpoint import read_config
    from evalkit.models.kernels import kernel_names
    from evalkit.models.layers import kept_16bit
    from evalkit.models.loading import Loaded, load_causal_lm

    check_device(SPEC, device)
    options = resolved_options(SPEC, variant)
    config = read_config(source)
    made = "quantization_config" in config
    own = not made and not _transformers_packs(config)

    def load_model() -> PreTrainedModel:
        model = load_causal_lm(
            source,
            dtype=DTYPES[str(options["dtype"])],
            device="cpu" if own else device,
            quantization_config=None if made or own else _config(variant, options, _kept(source)),
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
        )
        if own:
            convert(model, _config(variant, options, None), device)
        prepare_layers(model)
        return model

    model = load_model()
    check_quantized(model, variant)
    return Loaded(
        model,
        kernel_names(model, FORMATS),
        kept_16bit(model),
        _notes(variant, model),
        reload=load_model,
        formats=FORMATS,
    )


def load_random(checkpoint: Checkpoint, variant: Variant, device: str, *, seed: int = 0) -> Loaded:
    """The architecture of `checkpoint` with random weights, quantized layer by layer."""
    import torch

    from evalkit.backends._bitsandbytes import fill_at_random, prepare_layers
    from evalkit.backends._bitsandbytes_convert import FORMATS, convert
    from evalkit.models.kernels import kernel_names
    from evalkit.models.layers import kept_16bit
    from evalkit.models.loading import Loaded
    from evalkit.models.random_weights import NOTE, random_model

    check_device(SPEC, device)
    options = resolved_options(SPEC, variant)
    own = not _transformers_packs(checkpoint.config)
    config = _config(variant, options, None)
    model = random_model(
        checkpoint.config,
        dtype=getattr(torch, DTYPES[str(options["dtype"])]),
        device="cpu" if own else device,
        seed=seed,
        quantization_config=None if own else config,
        fill=fill_at_random,
    )
    if own:
        convert(model, config, device)
    check_quantized(model, variant)
    prepare_layers(model)
    kernel = kernel_names(model, FORMATS)
    return Loaded(model, kernel, kept_16bit(model), (NOTE,), formats=FORMATS)


def _transformers_packs(config: dict[str, Any]) -> bool:
    """Whether transformers packs enough of the architecture of config.json `config` by itself."""
    from evalkit.backends._bitsandbytes_convert import packs_enough
    from evalkit.errors import ModelError
    from evalkit.models.shapes import meta_model

    try:
        return packs_enough(meta_model(config))
    except ModelError:
        # An architecture of the checkpoint's own code, which is seen when it is loaded.
        return True


def _config(variant: Variant, options: dict[str, Any], kept: list[str] | None) -> Any:
    """transformers' configuration; `kept` are modules to leave alone beside the head, or None."""
    from transformers import BitsAndBytesConfig

    if variant.precision == "int8":
        return BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_threshold=options["threshold"], llm_int8_skip_modules=kept
        )
    return BitsAndBytesConfig(
        llm_int8_skip_modules=kept,
        load_in_4bit=True,
        bnb_4bit_quant_type=options["quant_type"],
        bnb_4bit_use_double_quant=options["double_quant"],
        bnb_4bit_compute_dtype=DTYPES[str(options["dtype"])],
    )


def _kept(source: Path) -> list[str] | None:
    """Modules whose weights the model's own kernels read, with the head; None where it has none."""
    from evalkit.models.safetensors_header import read_header

    names = (name for file in source.glob("*.safetensors") for name in read_header(file))
    return ["lm_head", "dt_proj"] if any(".dt_proj." in name for name in names) else None


def _notes(variant: Variant, model: PreTrainedModel) -> tuple[str, ...]:
    from evalkit.models.packed_parameters import unpackings

    notes = []
    if "batch_tokens" in run_settings(variant):
        notes.append(
            "LLM.int8() chooses its 16-bit columns from all tokens of a batch, so results depend "
            "slightly on what is batched together"
        )
    if variant.precision == "int8" and any(unpackings(model)):
        notes.append(
            "experts: 8-bit weights with a scale an output and 16-bit activations, for LLM.int8()"
            " takes linear layers only"
        )
    return tuple(notes)
