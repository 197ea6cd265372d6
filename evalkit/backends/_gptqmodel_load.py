"""Loading what GPTQModel made, GPTQ or AWQ, with the kernel that evalkit settles on.

`settle` is asked before a model is quantized, before it is loaded, and by whoever wants to know;
`build` compiles what the kernel needs, before the clock starts.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.backends import _gptqmodel_kernels as kernels
from evalkit.backends._gptqmodel import import_quietly, known_types, silence
from evalkit.backends._gptqmodel_dynamic import settings_of
from evalkit.backends._gptqmodel_kernels import Kernel, Layout
from evalkit.backends._kernels import Capability, KernelChoice
from evalkit.models.cuda_build import capability
from evalkit.models.safetensors_header import read_header
from evalkit.models.shapes import Shape
from evalkit.models.toolchain import missing_for_triton
from evalkit.progress import Event, Listener

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The formats whose kernels evalkit knows; GPTQModel itself chooses for the others.
_FORMATS = {"gptq": ("gptq", "gptq_v2"), "awq": ("gemm",)}


def settle(
    made: Mapping[str, Any],
    shapes: Mapping[str, Shape],
    on: Capability,
    dtype: str,
    asked: str = "auto",
) -> tuple[Kernel, KernelChoice] | None:
    """The kernel of a checkpoint whose config.json has `made` as its quantization_config.

    None for a format whose kernel GPTQModel chooses. Raises VariantError where none can run.
    """
    method = str(made["quant_method"])
    known = _FORMATS[method]
    written = made.get("checkpoint_format") or made.get("format") or made.get("version") or known[0]
    if str(written).lower() not in known:
        return None
    layouts: dict[Layout, dict[str, Shape]] = {}
    for name, shape in shapes.items():
        if (own := settings_of(made, name)) is not None:
            layouts.setdefault(Layout.of_config(own, dtype), {})[name] = shape
    return kernels.choose(layouts or {Layout.of_config(made, dtype): {}}, on, asked)


def written_dtype(config: Mapping[str, Any]) -> str:
    """The dtype that a checkpoint's config.json names, in the words of transformers 5 or 4."""
    return str(config.get("dtype") or config.get("torch_dtype") or "float16")


def packed_shapes(source: Path, made: Mapping[str, Any]) -> dict[str, Shape]:
    """Map each packed layer of the checkpoint `source` to (outputs, inputs).

    Where there are no safetensors files, the linear layers of its architecture.
    """
    from evalkit.models.checkpoint import read_config
    from evalkit.models.shapes import decoder_linears, meta_model

    found: dict[str, Shape] = {}
    for file in sorted(source.glob("*.safetensors")):
        for name, tensor in read_header(file).items():
            if name.endswith(".qweight"):
                rows, columns = (int(size) for size in tensor["shape"])
                module = name.removesuffix(".qweight")
                words = 32 / int((settings_of(made, module) or made)["bits"])
                gptq = made["quant_method"] == "gptq"
                found[module] = (
                    (columns, round(rows * words)) if gptq else (round(columns * words), rows)
                )
    return found or decoder_linears(meta_model(read_config(source)))


def build(settled: tuple[Kernel, KernelChoice] | None, label: str, listener: Listener) -> None:
    """Load what the settled kernel is compiled from, compiled first where needed, with progress.

    A failed build is said in a line; `settle` then gives the next kernel.
    """
    if settled is None or not settled[1].extensions:
        return
    choice = settled[1]
    stage = f"compiling {choice.kernel}, once on this machine"

    def told(extension: str, seconds: float, expected: float) -> None:
        done = min(seconds, 0.99 * expected)
        listener(Event(label, f"{stage} ({extension})", done, expected, "s"))

    if choice.builds:
        listener(Event(label, stage))
    import_quietly()
    with silence():
        failures = kernels.build(choice.extensions, told)
    for extension, line in failures.items():
        message = f"{extension} could not be compiled ({line}): the next kernel runs instead"
        listener(Event(label, "", message=message))


def load(
    source: Path, *, dtype: str, device: str, kernel: str = "auto", **permissions: bool
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The GPTQ or AWQ checkpoint `source` on `device`, and what is to be noted of its kernel."""
    from evalkit.models.checkpoint import read_config
    from evalkit.models.loading import load_causal_lm

    config = read_config(source)
    made = config["quantization_config"]
    activations = written_dtype(config) if dtype == "auto" else dtype
    packed = packed_shapes(source, made)
    settled = settle(made, packed, capability(device), activations, kernel)
    import_quietly()
    if not _is_plain(config, packed):
        model = _load_by_gptqmodel(source, dtype, device, settled, **permissions)
        _run_uncompiled(model)
        return model, settled[1].notes if settled else ()
    with silence(), warnings.catch_warnings():
        # transformers warns that the checkpoint's own settings win over the given kernel's.
        warnings.filterwarnings("ignore", message="You passed `quantization_config`")
        model = load_causal_lm(
            source,
            dtype=dtype,
            device=device,
            quantization_config=_config(made, settled),
            **permissions,
        )
    _run_uncompiled(model)
    return model, settled[1].notes if settled else ()


def _is_plain(config: dict[str, Any], packed: Mapping[str, Shape]) -> bool:
    """Whether the packed layers are linear layers of the architecture as transformers builds it.

    GPTQModel splits fused experts and projections before it quantizes, takes transposed layers,
    and may leave layers out: only its own loader builds such a model.
    """
    from torch import nn

    from evalkit.models.shapes import meta_model

    if str(config.get("model_type", "")) not in known_types():
        return True
    if config["quantization_config"].get("dynamic"):
        return False
    # transformers replaces every layer of this very class in the blocks.
    modules = meta_model(config).named_modules()
    plain = [name for name, module in modules if type(module) is nn.Linear]
    blocks = next(iter(packed), "").partition(".0.")[0] + "."
    return packed.keys() == {name for name in plain if name.startswith(blocks)}


def _load_by_gptqmodel(
    source: Path,
    dtype: str,
    device: str,
    settled: tuple[Kernel, KernelChoice] | None,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The checkpoint as GPTQModel builds it; raises ModelError in one line."""
    import gptqmodel
    import torch

    from evalkit.errors import ModelError, in_one_line, is_out_of_memory

    if settled is not None:
        _prefer_plain_torch(settled[0])
    try:
        with silence():
            wrapped = gptqmodel.GPTQModel.load(
                str(source),
                device=device,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                backend=settled[0].selector if settled else "auto",
                trust_remote_code=trust_remote_code,
            )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(f"{source} cannot be loaded: {in_one_line(error)}") from error
    model: PreTrainedModel = wrapped.model.eval()
    return model


def load_random(
    config: dict[str, Any],
    made: dict[str, Any],
    shapes: Mapping[str, Shape],
    *,
    dtype: str,
    device: str,
    seed: int,
    kernel: str = "auto",
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The architecture of `config` with random packed weights; see `load`."""
    import torch

    from evalkit.backends._gptqmodel_layers import fill_at_random
    from evalkit.models.random_weights import random_model

    settled = settle(made, shapes, capability(device), dtype, kernel)
    import_quietly()
    with silence():
        model = random_model(
            config,
            dtype=getattr(torch, dtype),
            device=device,
            seed=seed,
            quantization_config=_config(made, settled),
            packed=True,
            fill=fill_at_random,
        )
    _run_uncompiled(model)
    return model, settled[1].notes if settled else ()


def _config(made: Mapping[str, Any], settled: tuple[Kernel, KernelChoice] | None) -> Any:
    """transformers' configuration that names the settled kernel; None leaves the choice to it."""
    from transformers import AwqConfig, GPTQConfig

    if settled is None:
        return None
    kernel = settled[0]
    _prefer_plain_torch(kernel)
    wanted = ("bits", "group_size", "desc_act", "sym", "zero_point")
    kept = {name: made[name] for name in wanted if name in made}
    own = AwqConfig if made["quant_method"] == "awq" else GPTQConfig
    return own(**kept, backend=kernel.selector)


def _prefer_plain_torch(kernel: Kernel) -> None:
    if kernel.name == "torch" and missing_for_triton():
        # Its unpacking would be handed to Triton, which cannot be compiled here.
        os.environ["GPTQ_TORCH_TRITON_DEQUANT"] = "0"


def _run_uncompiled(model: PreTrainedModel) -> None:
    """Undo torch.compile of the general kernel's unpacking.

    It takes a compiler and a minute at the first forward pass, gains little beside the matrix
    product in 16 bit, and ends in silence after as many layers as torch recompiles one function.
    """
    for module in model.modules():
        vars(module).pop("dequantize_weight", None)
