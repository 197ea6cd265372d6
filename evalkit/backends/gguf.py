"""GGUF, llama.cpp's format: files made elsewhere or here, evaluated by their exact values.

What a file holds is unpacked and run as plain layers, so quality is that of the format and not of
llama.cpp's arithmetic, which rounds activations to 8 bit. Size is the file's, and speed that of
llama.cpp, which runs the very file; see docs/gguf.md.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.backends import _llama_cpp, _schemes
from evalkit.backends._checks import check_unquantized
from evalkit.backends._spec import BackendSpec, check_device
from evalkit.errors import ModelError, VariantError
from evalkit.models.unpacked import Unpacked
from evalkit.paths import expanded, is_dir
from evalkit.progress import Event, Listener, ignore
from evalkit.records import Variant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.analysis.footprint import Scheme
    from evalkit.models.checkpoint import Checkpoint
    from evalkit.models.gguf.header import GgufHeader
    from evalkit.models.loading import Loaded

SUFFIX = ".gguf"
# What the package gguf writes, and the presets that only llama.cpp itself makes.
PLAIN = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
BLOCKS = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
MIXES = (
    "q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k",
    "iq4_nl", "iq4_xs",
)  # fmt: skip
# Categories of bytes: of linear layers, of the embedding, of the output head.
_PARTS = (("linear", "packed"), ("embedding",), ("head",))
# Weights in a block of a K-quant.
_SUPER_BLOCK = 256
SPEC = BackendSpec(
    name="gguf",
    summary="llama.cpp's file in blocks: unpacked for quality, run by llama.cpp for speed",
    precisions=(*BLOCKS, *MIXES, *PLAIN),
    requires=("gguf",),
    quantizes=True,
    keeps=True,
    unpacks=True,
)


def check(checkpoint: Checkpoint, variant: Variant) -> None:
    """Raise VariantError where the variant's file is no form of `checkpoint`, or none can be made.

    A file must have its architecture, sizes and vocabulary, and tensors that can be unpacked.
    """
    from evalkit.models.gguf.check import check_file
    from evalkit.models.gguf.header import read_gguf_header
    from evalkit.models.gguf.names import architecture_of
    from evalkit.models.gguf.tokenizer import check_tokenizer

    try:
        if variant.checkpoint is not None:
            check_file(read_gguf_header(_file(variant.checkpoint)), checkpoint)
            return
        check_unquantized(checkpoint, variant)
        architecture_of(checkpoint.text_config)
        if checkpoint.weight_files:
            check_tokenizer(checkpoint.path)
    except ModelError as error:
        raise VariantError(str(error)) from error
    if variant.precision in MIXES and not _llama_cpp.installed():
        raise VariantError(
            f"{variant.text} is made by llama.cpp itself: {_llama_cpp.INSTALL}, or use one of "
            f"{', '.join(BLOCKS)}, or give a file"
        )


def label(variant: Variant) -> str:
    """The format with llama.cpp's name of it, or the file's own name."""
    if variant.checkpoint is not None:
        return Path(variant.checkpoint).name
    return f"GGUF {_preset(variant)}"


def libraries(variant: Variant) -> tuple[str, ...]:
    """What unpacks the file, and what runs it."""
    return ("gguf", _llama_cpp.DISTRIBUTION)


def scheme(variant: Variant) -> Scheme:
    """How a linear layer is stored, for the planner."""
    from evalkit.models.gguf.header import read_gguf_header

    if variant.checkpoint is not None:
        header = read_gguf_header(_file(variant.checkpoint))
        linear, embedding, head = (header.bits(*names) for names in _PARTS)
        return _schemes.gguf(label(variant), linear, embedding, head or embedding)
    if variant.precision in MIXES:
        raise VariantError(
            f"{variant.text} is a mix of types that llama.cpp chooses: make it with `evalkit"
            " quantize` and plan the file"
        )
    from evalkit.models.gguf.write import bits_of, kind_of_preset

    kind = kind_of_preset(_preset(variant))
    own, head = bits_of(kind), max(bits_of(kind), bits_of(kind_of_preset("q8_0")))
    return _schemes.gguf(label(variant), own, own, head)


def loaded_as(variant: Variant, device: str) -> Variant:
    """Unpacked it is as large as the model in float32 on a CPU, in float16 on a card."""
    return Variant("fp32" if device == "cpu" else "fp16", "transformers")


def content(
    variant: Variant,
    *,
    offline: bool,
    allow_pickle: bool,
    trust_remote_code: bool,
    hash_cache: Path | None,
) -> str:
    """The SHA-256 of the variant's file; "" for one that is made of the model."""
    from evalkit.models.identity import FileHashes

    if variant.checkpoint is None:
        return ""
    hashes = FileHashes(hash_cache)
    try:
        found = hashes.sha256(_file(variant.checkpoint))
    except OSError as error:
        raise VariantError(f"{variant.text} cannot be read: {error.strerror}") from error
    hashes.save()
    return found


def arithmetic(variant: Variant, device: str) -> str:
    """Blocks are made of the weights in float32."""
    return "float32"


def prepare() -> None:
    """Import torch, transformers and what unpacks."""
    import evalkit.models.gguf.unpack
    import evalkit.models.loading  # noqa: F401


def quantize(
    source: Path,
    variant: Variant,
    out: Path,
    device: str,
    calibration: Sequence[Sequence[int]] | None,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    listener: Listener = ignore,
) -> None:
    """Write the checkpoint `source` into `out` as one file that llama.cpp loads.

    config.json lies beside it, as of the model that the file is a form of.
    """
    from evalkit.models.gguf.write import kind_of_preset, write_gguf
    from evalkit.models.loading import load_causal_lm

    model = load_causal_lm(
        source,
        dtype="auto",
        device="cpu",
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )

    def passed(done: int, total: int) -> None:
        listener(Event(variant.label, "writing tensors", done, total, "tensors"))

    file = out / f"model-{_preset(variant)}.gguf"
    shutil.copyfile(source / "config.json", out / "config.json")
    try:
        if variant.precision not in MIXES:
            write_gguf(model, source, file, kind_of_preset(_preset(variant)), passed)
            return
        with tempfile.TemporaryDirectory(dir=out) as folder:
            whole = Path(folder) / "whole.gguf"
            write_gguf(model, source, whole, None, passed)
            listener(Event(variant.label, f"llama.cpp makes {_preset(variant)}"))
            _llama_cpp.quantize_file(whole, file, _preset(variant))
    except ModelError as error:
        raise VariantError(str(error)) from error


def load(
    source: Path,
    variant: Variant,
    device: str,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Loaded:
    """The variant's file, unpacked: in float32 on a CPU, in float16 on a card.

    `source` is the original checkpoint for a file from elsewhere, else what `quantize` wrote.
    """
    import torch

    from evalkit.models.gguf.header import read_gguf_header
    from evalkit.models.gguf.unpack import load_gguf
    from evalkit.models.kernels import kernel_names
    from evalkit.models.loading import Loaded

    check_device(SPEC, device)
    header = read_gguf_header(_file(variant.checkpoint or str(source)))
    dtype = torch.float32 if device == "cpu" else torch.float16
    model = load_gguf(header, source, dtype=dtype, device=device)
    return Loaded(
        model,
        f"{kernel_names(model)} unpacked from GGUF",
        notes=_notes(header),
        unpacked=_unpacked(header, device),
    )


def _preset(variant: Variant) -> str:
    """llama.cpp's name of the variant's precision: "Q4_K_M"."""
    return PLAIN.get(variant.precision, variant.precision.upper())


def _file(reference: str) -> Path:
    """The file that a variant names: itself, or the only one in the directory."""
    path = expanded(reference)
    if not is_dir(path):
        return path
    found = sorted(path.glob(f"*{SUFFIX}"))
    if len(found) != 1:
        raise VariantError(
            f"{reference} holds {len(found)} files *{SUFFIX}: name one of them; a model in several"
            " parts is put together by llama.cpp's gguf-split --merge"
        )
    return found[0]


def _notes(header: GgufHeader) -> tuple[str, ...]:
    """What the file holds: types of tensors, bytes, and rows that its preset does not fit."""
    size = header.path.stat().st_size
    held = (
        f"GGUF: tensors in {header.types}; {header.tensor_bytes:,} bytes of a file of {size:,}"
        " bytes, the rest is tokenizer and description"
    )
    padded = [one for one in header.tensors.values() if one.shape[-1] % _SUPER_BLOCK]
    narrow = sum(len(one.shape) > 1 for one in padded)
    if not narrow or header.file_type.lower() not in MIXES:
        return (held,)
    fallback = (
        f"GGUF: {narrow} matrices have rows of no whole blocks of {_SUPER_BLOCK}, so llama.cpp"
        f" holds them in other types than {header.file_type} says"
    )
    return held, fallback


def _unpacked(header: GgufHeader, device: str) -> Unpacked:
    why = "plain weights unpacked from the file are not what llama.cpp runs"
    missing = _llama_cpp.why_not_timed(device)
    if missing:
        return Unpacked(header.weight_bytes, header.quantized_weights, why, missing)
    import torch

    threads = torch.get_num_threads()
    engine = _llama_cpp.Engine(header.path, device, threads)
    name = _llama_cpp.engine_name(threads, device)
    held, quantized = header.weight_bytes, header.quantized_weights
    return Unpacked(held, quantized, why, name, engine.time_generation)
