"""GPTQModel's kernels for GPTQ and AWQ: what each takes and needs, and which one runs a model.

GPTQModel 7.6 itself chooses by the card alone and finds the rest out too late: on capability 9.0
it takes Machete, whose widths are checked when a quantized checkpoint is loaded and whose build
downloads sources; Marlin is compiled at load, and fails there without a compiler. So the kernel is
chosen here, of what is known of them all, layer by layer, and named to the library. Machete and
the kernels beyond (ExLlamaV2 with its two gigabytes of scratch memory, BitBLAS, Swordfish) are
never taken by themselves.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evalkit.backends._kernels import Capability, KernelChoice
from evalkit.errors import VariantError
from evalkit.models.cuda_build import install_line, missing_for_cuda_build
from evalkit.models.shapes import Shape
from evalkit.models.toolchain import missing_for_triton

Tools = Literal["", "cuda", "triton"]
Fits = Callable[[Shape, "Layout"], bool]
_ALL_GROUPS = (-1, 16, 32, 64, 128, 256, 512, 1024)
_MARLIN_GROUPS = (-1, 32, 64, 128)
# As the library took on a machine of its own; Machete's is a guess.
_BUILD_SECONDS = {"marlin_fp16": 120.0, "marlin_bf16": 120.0, "machete": 900.0}
# Seconds between two reports of a build that runs.
TOLD_EVERY = 1.0


@dataclass(frozen=True)
class Layout:
    """How a checkpoint of GPTQModel's holds its layers, and the dtype of their activations.

    `method` is "gptq" or "awq"; `reorders` says that columns are in the order of activations.
    """

    method: str
    bits: int
    group_size: int
    symmetric: bool
    reorders: bool
    dtype: str

    @classmethod
    def of_config(cls, made: Mapping[str, Any], dtype: str) -> Layout:
        """The layout that a config.json's `quantization_config` says."""
        method = str(made["quant_method"])
        symmetric = bool(made.get("sym", method == "gptq")) and not made.get("zero_point")
        group_size = made.get("group_size", made.get("q_group_size", 128))
        # transformers runs AWQ on CUDA in float16 only.
        return cls(
            method,
            int(made["bits"]),
            int(group_size),
            symmetric,
            bool(made.get("desc_act", False)),
            "float16" if method == "awq" else dtype,
        )


@dataclass(frozen=True)
class Kernel:
    """One kernel: the class of its layers, the library's name for it, what it takes and needs.

    `fits` looks at a layer's (outputs, inputs). `capabilities` are the lowest and the highest.
    """

    name: str
    layer: str
    selector: str
    methods: tuple[str, ...] = ("gptq",)
    device: Literal["cpu", "cuda"] = "cuda"
    bits: tuple[int, ...] = (2, 3, 4, 8)
    group_sizes: tuple[int, ...] = _ALL_GROUPS
    symmetric_only: bool = False
    capabilities: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (99, 9))
    fits: Fits = lambda shape, layout: True
    tools: Tools = ""
    by_itself: bool = True

    def refusal(self, layout: Layout, shapes: Mapping[str, Shape], capability: Capability) -> str:
        """Why it cannot run these layers on such a card, whatever is installed; "" where it can."""
        low, high = self.capabilities
        if capability is not None and not low <= capability <= high:
            return f"it does not run on compute capability {capability[0]}.{capability[1]}"
        if capability is not None and capability < (8, 0) and layout.dtype == "bfloat16":
            return "bfloat16 needs compute capability 8.0"
        if layout.bits not in self.bits:
            return f"it takes {_words(self.bits)} bit"
        if layout.group_size not in self.group_sizes:
            return f"it takes groups of {_words(g for g in self.group_sizes if g > 0)}"
        if self.symmetric_only and not layout.symmetric:
            return "it takes symmetric weights only"
        for name, shape in shapes.items():
            if not self.fits(shape, layout):
                return f"it cannot take {name} of {shape[0]} × {shape[1]} weights"
        return ""

    def extensions(self, dtype: str) -> tuple[str, ...]:
        """The library's extensions that it is compiled from."""
        if self.tools != "cuda":
            return ()
        if self.name == "machete":
            return ("machete",)
        # Weights are put in order by the extension for float16 whatever runs them later.
        return ("marlin_fp16", "marlin_bf16") if dtype == "bfloat16" else ("marlin_fp16",)


def _divides(outputs: int, inputs: int) -> Fits:
    return lambda shape, layout: shape[0] % outputs == 0 and shape[1] % inputs == 0


def _is_tiled(shape: Shape) -> bool:
    """Whether Marlin's tile of 64 × 128 covers the weights, this way or the other."""
    rows, columns = shape
    return (rows % 64 == 0 and columns % 128 == 0) or (rows % 128 == 0 and columns % 64 == 0)


def _marlin_fits(shape: Shape, layout: Layout) -> bool:
    """Other widths are padded, but not where columns are in the order of activations."""
    words = 32 // layout.bits
    packed = shape[0] % words == 0 and (layout.method == "awq" or shape[1] % words == 0)
    ordered = layout.reorders and layout.group_size not in (-1, shape[1])
    padded = not ordered and (layout.method == "gptq" or layout.bits == 4)
    return packed and (padded or _is_tiled(shape))


# The fastest first. transformers has no name for the AWQ kernel that it takes by itself on a CPU.
KERNELS = (
    Kernel("aten", "TorchAtenLinear", "gptq_torch_aten", device="cpu", bits=(4,),
           group_sizes=(32, 64, 128)),
    Kernel("torch", "TorchLinear", "gptq_torch", device="cpu"),
    Kernel("aten", "TorchAtenAwqLinear", "auto", methods=("awq",), device="cpu",
           bits=(4,), group_sizes=(32, 64, 128), fits=_divides(32, 32)),
    Kernel("torch", "AwqTorchLinear", "torch_awq", methods=("awq",), device="cpu",
           group_sizes=(-1, 16, 32, 64, 128), fits=_divides(8, 1)),
    Kernel("machete", "MacheteLinear", "gptq_machete", bits=(4, 8), group_sizes=(-1, 64, 128),
           capabilities=((9, 0), (9, 0)), fits=_divides(128, 64), tools="cuda", by_itself=False),
    Kernel("marlin", "MarlinLinear", "gptq_marlin", bits=(4, 8), group_sizes=_MARLIN_GROUPS,
           symmetric_only=True, capabilities=((7, 5), (99, 9)), fits=_marlin_fits, tools="cuda"),
    Kernel("triton", "TritonV2Linear", "gptq_triton", bits=(2, 4, 8), fits=_divides(32, 32),
           tools="triton"),
    Kernel("torch", "TorchLinear", "gptq_torch"),
    Kernel("marlin", "AwqMarlinLinear", "marlin", methods=("awq",), bits=(4, 8),
           group_sizes=_MARLIN_GROUPS, capabilities=((7, 5), (99, 9)), fits=_marlin_fits,
           tools="cuda"),
    Kernel("triton", "AwqGEMMTritonLinear", "gemm_triton", methods=("awq",), bits=(4,),
           group_sizes=_MARLIN_GROUPS, fits=_divides(8, 32), tools="triton"),
    Kernel("torch", "AwqTorchLinear", "torch_awq", methods=("awq",),
           group_sizes=(-1, 16, 32, 64, 128), fits=_divides(8, 1)),
)  # fmt: skip
# What can be asked for; "auto" is the first of them that can run.
NAMES = ("auto", *dict.fromkeys(kernel.name for kernel in KERNELS if kernel.device == "cuda"))
# Extensions whose build failed in this process, and how.
_failed: dict[str, str] = {}


def choose(
    layouts: Mapping[Layout, Mapping[str, Shape]], capability: Capability, asked: str = "auto"
) -> tuple[Kernel, KernelChoice]:
    """The fastest kernel that takes all layers, and whose tools this machine has.

    `layouts` are the shapes of the layers by how they are held: several of a mix. A kernel that is
    `asked` for by name is never replaced. Raises VariantError where none can run.
    """
    device = "cpu" if capability is None else "cuda"
    first = next(iter(layouts))
    passed: list[tuple[Kernel, str, str]] = []
    for kernel in KERNELS:
        if first.method not in kernel.methods or kernel.device != device:
            continue
        if kernel.name != asked if asked != "auto" else not kernel.by_itself:
            continue
        found = (_obstacle(kernel, *one, capability) for one in layouts.items())
        why, fix = next((one for one in found if one[0]), ("", ""))
        if not why:
            return kernel, _choice(kernel, first, passed)
        passed.append((kernel, why, fix))
    tried = "; ".join(f"{kernel.layer}: {why}" for kernel, why, _ in passed) or "there is none"
    fixes = [fix for _, _, fix in passed if fix]
    raise VariantError(
        f"kernel={asked} cannot run {first.method.upper()} in"
        f" {_words(dict.fromkeys(one.bits for one in layouts))} bit on {device}"
        f" ({tried}): {fixes[0] if fixes else 'use kernel=auto'}"
    )


def build(extensions: Iterable[str], told: Callable[[str, float, float], None]) -> dict[str, str]:
    """Load extensions, which compiles those that are not there for this torch and card.

    `told` hears each second which one, for how many seconds by now, and of how many. The result
    says of each that cannot be compiled why; in this process that is remembered, so that `choose`
    passes over what needs it.
    """
    from gptqmodel import extension

    failures = {}
    for name in extensions:
        start = time.perf_counter()
        with ThreadPoolExecutor(1) as pool:
            building = pool.submit(extension.load, name)
            while not wait([building], timeout=TOLD_EVERY).done:
                told(name, time.perf_counter() - start, _BUILD_SECONDS[name])
        if (error := building.exception()) is not None:
            failures[name] = _failed[name] = _cause(error)
    return failures


def _cause(error: BaseException) -> str:
    """The line of a failed build's message that says most: the first that is no heading."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.endswith(":")), repr(error))


def missing_tools() -> tuple[str, ...]:
    """What this machine lacks of compilers and headers: it decides which kernel runs on a card."""
    return tuple(filter(None, (missing_for_cuda_build(), missing_for_triton())))


def _obstacle(
    kernel: Kernel, layout: Layout, shapes: Mapping[str, Shape], capability: Capability
) -> tuple[str, str]:
    """Why `kernel` cannot run, and the command that mends it; empty where there is none."""
    if why := kernel.refusal(layout, shapes, capability):
        return why, ""
    for name in kernel.extensions(layout.dtype):
        if name in _failed:
            whole = f"""python -c "from gptqmodel import extension; extension.load('{name}')\""""
            return f"it could not be compiled ({_failed[name]})", whole
    if kernel.tools == "triton" and (missing := missing_for_triton()):
        return f"it needs {missing}", install_line(missing)
    builds = any(not _is_built(name) for name in kernel.extensions(layout.dtype))
    if builds and (missing := missing_for_cuda_build()):
        return f"it is compiled first, which needs {missing}", install_line(missing)
    return "", ""


def _choice(kernel: Kernel, layout: Layout, passed: list[tuple[Kernel, str, str]]) -> KernelChoice:
    """What is said of `kernel`, before which those of `passed` were tried."""
    extensions = kernel.extensions(layout.dtype)
    builds = tuple(name for name in extensions if not _is_built(name))
    return KernelChoice(
        kernel.layer,
        "; ".join(f"{other.layer} is faster, but {why}" for other, why, _ in passed),
        " && ".join(dict.fromkeys(fix for _, _, fix in passed if fix)),
        extensions,
        builds,
        sum(_BUILD_SECONDS[name] for name in builds),
    )


def _is_built(extension: str) -> bool:
    """Whether the library has compiled an extension here before, for whatever torch and card.

    `build` finds out whether it is for these.
    """
    named = os.environ.get("GPTQMODEL_TORCH_EXTENSIONS_DIR")
    root = Path(named) if named else Path.home() / ".cache" / "gptqmodel" / "torch_extensions"
    return any((root / extension).glob("*/*.so"))


def _words(numbers: Iterable[int]) -> str:
    return ", ".join(str(number) for number in numbers)
