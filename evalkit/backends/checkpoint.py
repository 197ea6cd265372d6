"""Checkpoints that are already quantized, given as a directory or hub id and loaded as they are."""

from __future__ import annotations

import contextlib
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.backends import _gptqmodel_kernels, _gptqmodel_load, _schemes
from evalkit.backends._autogptq import standard_names
from evalkit.backends._kernels import Capability, KernelChoice
from evalkit.backends._spec import BackendSpec, check_device
from evalkit.errors import EvalkitError, ModelError, VariantError, did_you_mean
from evalkit.paths import called
from evalkit.progress import Listener
from evalkit.records import Variant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from evalkit.analysis.footprint import Scheme
    from evalkit.models.checkpoint import Checkpoint
    from evalkit.models.layer_format import LayerFormat
    from evalkit.models.loading import Loaded
    from evalkit.models.shapes import Shape

SPEC = BackendSpec(
    name="checkpoint",
    summary="a directory or hub id with a quantization_config",
    precisions=("checkpoint",),
)
# What transformers needs to load each method: distribution names.
METHODS = {
    "gptq": ("gptqmodel", "optimum"),
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed-tensors",),
    "torchao": ("torchao",),
}
_GPTQMODEL = ("gptq", "awq")


def check(checkpoint: Checkpoint, variant: Variant) -> None:
    """Raise VariantError where the variant's directory is no quantized form of `checkpoint`.

    It must carry a quantization_config of a known method whose libraries are installed, and have
    the same vocabulary.
    """
    from evalkit.models.resolve import resolve_config

    try:
        own = resolve_config(_reference(variant))
    except ModelError as error:
        raise VariantError(str(error)) from error
    _check_method(variant, own.config.get("quantization_config"))
    sizes = own.embedding_rows, checkpoint.embedding_rows
    if None not in sizes and sizes[0] != sizes[1]:
        raise VariantError(
            f"{variant.text} has a vocabulary of {sizes[0]} and {checkpoint.name} one of "
            f"{sizes[1]}: give a checkpoint that was made from this model"
        )


def label(variant: Variant) -> str:
    """The directory's name or the hub id."""
    return called(_reference(variant))


def run_settings(variant: Variant) -> tuple[str, ...]:
    """Those of LLM.int8(), where its own config.json says that it is made by that method."""
    from evalkit.models.resolve import resolve_config

    try:
        made = resolve_config(_reference(variant)).config.get("quantization_config")
    except ModelError:
        # What cannot be read is refused by `check`, with the reason.
        return ()
    if not isinstance(made, dict) or made.get("quant_method") != "bitsandbytes":
        return ()
    mixes = made.get("load_in_8bit") and made.get("llm_int8_threshold", 6.0) != 0.0
    return ("batch_tokens",) if mixes else ()


def scheme(variant: Variant) -> Scheme:
    """How its own config.json says that a linear layer is stored, for the planner."""
    from evalkit.models.resolve import resolve_config

    made = resolve_config(_reference(variant)).config.get("quantization_config") or {}
    method = _check_method(variant, made)
    return _schemes.of_checkpoint(variant.text, method, made)


def kernel_for(
    variant: Variant, shapes: Mapping[str, Shape], capability: Capability
) -> KernelChoice | None:
    """The kernel of a GPTQ or AWQ checkpoint; those of the other methods have one for all cards."""
    settled = _settled(variant, capability, shapes)
    return settled[1] if settled else None


def missing_tools(variant: Variant) -> tuple[str, ...]:
    """What this machine lacks to compile kernels, where its method has such."""
    return _gptqmodel_kernels.missing_tools() if "gptqmodel" in libraries(variant) else ()


def build(checkpoint: Checkpoint, variant: Variant, device: str, listener: Listener) -> None:
    """Compile what its kernel needs on a card and is not there yet, with progress."""
    from evalkit.models.cuda_build import capability

    if (on := capability(device)) is not None:
        _gptqmodel_load.build(_settled(variant, on), variant.label, listener)


def _settled(
    variant: Variant, on: Capability, shapes: Mapping[str, Shape] | None = None
) -> tuple[_gptqmodel_kernels.Kernel, KernelChoice] | None:
    """The kernel for layers of `shapes`, or of its own where they are not given."""
    from evalkit.models.resolve import resolve_config

    own = resolve_config(_reference(variant))
    made = own.config.get("quantization_config") or {}
    if _check_method(variant, made) not in _GPTQMODEL:
        return None
    widths = shapes or _gptqmodel_load.packed_shapes(own.path, made)
    return _gptqmodel_load.settle(made, widths, on, _gptqmodel_load.written_dtype(own.config))


def prepare() -> None:
    """Import transformers; the library of the method is known when the checkpoint is read."""
    import evalkit.models.loading  # noqa: F401


def load(
    source: Path,
    variant: Variant,
    device: str,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Loaded:
    """The variant's own checkpoint on `device`; `source`, the original, is not read."""
    from evalkit.models.kernels import kernel_names
    from evalkit.models.layers import kept_16bit
    from evalkit.models.loading import Loaded, load_causal_lm

    check_device(SPEC, device)
    own = resolve(variant, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    method = _check_method(variant, own.config.get("quantization_config"))

    def load_model(kernel: str = "auto") -> tuple[PreTrainedModel, tuple[str, ...]]:
        if method in _GPTQMODEL:
            with standard_names(own) as folder:
                return _gptqmodel_load.load(
                    folder,
                    dtype="auto",
                    device=device,
                    kernel=kernel,
                    allow_pickle=allow_pickle,
                    trust_remote_code=trust_remote_code,
                )
        with _loading(method):
            model = load_causal_lm(
                own.path,
                dtype="auto",
                device=device,
                allow_pickle=allow_pickle,
                trust_remote_code=trust_remote_code,
            )
        if method == "bitsandbytes":
            from evalkit.backends._bitsandbytes import prepare_layers

            prepare_layers(model)
        return model, ()

    model, notes = load_model()
    formats = _formats(method)
    kernel = kernel_names(model, formats)
    notes = (*_notes(method), *notes)
    reorders = method in _GPTQMODEL and device != "cpu"
    return Loaded(
        model,
        kernel,
        kept_16bit(model),
        notes,
        reload=lambda: load_model()[0],
        unpackable=(lambda: load_model("torch")[0]) if reorders else None,
        formats=formats,
    )


def resolve(
    variant: Variant,
    *,
    offline: bool = False,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    hash_cache: Path | None = None,
) -> Checkpoint:
    """The variant's own checkpoint with its content identity; raises VariantError."""
    from evalkit.models.resolve import resolve_model

    try:
        return resolve_model(
            _reference(variant),
            offline=offline,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
            hash_cache=hash_cache,
        )
    except ModelError as error:
        raise VariantError(str(error)) from error


def libraries(variant: Variant) -> tuple[str, ...]:
    """What its quantization method runs on; nothing where it cannot be read."""
    from evalkit.models.resolve import resolve_config

    try:
        config = resolve_config(_reference(variant), offline=True).config
        return METHODS[_check_method(variant, config.get("quantization_config"))]
    except EvalkitError:
        return ()


def content(
    variant: Variant,
    *,
    offline: bool,
    allow_pickle: bool,
    trust_remote_code: bool,
    hash_cache: Path | None,
) -> str:
    """What identifies the variant's own weights: their content, wherever they lie."""
    own = resolve(
        variant,
        offline=offline,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
        hash_cache=hash_cache,
    )
    return own.identity.weights


def _reference(variant: Variant) -> str:
    if variant.checkpoint is None:
        raise VariantError(f"{variant.text} names no checkpoint: give a directory or hub id")
    return variant.checkpoint


def _check_method(variant: Variant, config: object) -> str:
    method = str(config.get("quant_method", "")) if isinstance(config, dict) else ""
    if not method:
        raise VariantError(
            f"{variant.text} is not quantized (no quantization_config in its config.json): give "
            f"it as --model with variants such as fp16 int8 int4"
        )
    if method == "gguf":
        # Plain transformers loads it without a word as random weights.
        raise VariantError(
            f"{variant.text} is GPTQModel's own container of GGUF blocks, which llama.cpp cannot"
            " read: make a GGUF file by a variant such as q4_0@gguf"
        )
    if method not in METHODS:
        raise VariantError(
            f"{variant.text} is quantized by {method!r}: allowed are {', '.join(METHODS)}"
            f"{did_you_mean(method, METHODS)}"
        )
    for name in METHODS[method]:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise VariantError(
                f"{variant.text} is quantized by {method}, which needs the package {name!r}: "
                f"install it with `pip install {name}`"
            ) from None
    return method


def _loading(method: str) -> contextlib.AbstractContextManager[None]:
    """What is mended in a method's library while transformers loads by it."""
    if method != "compressed-tensors":
        return contextlib.nullcontext()
    from evalkit.backends import _compressed_tensors

    return _compressed_tensors.loading()


def _formats(method: str) -> tuple[LayerFormat, ...]:
    """The layers of the method's library, which is imported here."""
    if method in ("gptq", "awq"):
        from evalkit.backends import _gptqmodel_layers

        return _gptqmodel_layers.FORMATS
    if method == "bitsandbytes":
        from evalkit.backends import _bitsandbytes

        return _bitsandbytes.FORMATS
    if method == "torchao":
        from evalkit.backends import _torchao

        return _torchao.FORMATS
    from evalkit.backends import _compressed_tensors

    return _compressed_tensors.FORMATS


def _notes(method: str) -> tuple[str, ...]:
    if method == "compressed-tensors":
        return (
            "compressed-tensors unpacks the weights when they first run: its quality and size are "
            "measured here, not the speed and memory of a packed kernel",
        )
    return ()
