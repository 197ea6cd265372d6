"""A card that is not there: Inductor generates its kernels and Triton compiles them, nothing runs.

Tensors on it are fake (shape, dtype and device, no storage). What is stood in for: the card's
properties, and the answer that there is a driver. Inductor's code generation and Triton's
compilation down to the card's machine code (ptxas) are the real ones.
"""

from __future__ import annotations

import copy
import importlib.util
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import triton
from _card import CAPABILITY, PROPERTIES
from torch._dynamo.device_interface import CudaInterface
from torch._inductor import config, graph, scheduler
from torch._inductor.compile_fx import compile_fx
from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._subclasses import FakeTensorMode
from triton.backends.compiler import GPUTarget

TARGET = GPUTarget("cuda", 10 * CAPABILITY[0] + CAPABILITY[1], PROPERTIES.warp_size)
_KERNEL = re.compile(r"^(\w+) = async_compile\.triton\('\w+', '''(.*?)''', device_str", re.S | re.M)


class _Generated(BaseException):
    """Ends a compilation once its code is generated; no handler of torch's catches it."""


@dataclass(frozen=True)
class Compiled:
    """One kernel in machine code: `shared` bytes of a block, `spilled` bytes of a thread."""

    name: str
    shared: int
    registers: int
    spilled: int
    warps: int
    stages: int


@contextmanager
def absent_card() -> Iterator[None]:
    """Within, torch.compile generates code for the card and ends there."""
    driver = SimpleNamespace(get_current_target=lambda: TARGET)
    answers = {
        (torch.cuda, "get_device_properties"): lambda *_: PROPERTIES,
        (torch.cuda, "get_device_capability"): lambda *_: CAPABILITY,
        (torch.cuda, "current_device"): lambda: 0,
        (CudaInterface, "get_device_properties"): staticmethod(lambda *_: PROPERTIES),
        (CudaInterface.Worker, "get_device_properties"): staticmethod(lambda *_: PROPERTIES),
        (CudaInterface, "is_bf16_supported"): staticmethod(lambda *_, **__: True),
        (triton.runtime.driver, "_active"): driver,
        (scheduler, "has_triton"): lambda: True,
        (triton_helpers, "set_driver_to_gpu"): lambda: None,
        # Folding would make real tensors on the card.
        (config, "joint_graph_constant_folding"): False,
    }
    with ExitStack() as stack:
        for (module, name), answer in answers.items():
            stack.enter_context(patch.object(module, name, answer))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


def generating(sources: list[dict[str, str]]) -> Callable[..., Any]:
    """A backend of torch.compile that adds the Triton kernels of each graph, by name, to `sources`.

    The graph itself then runs as it is, which on fake tensors gives shapes only.
    """

    def backend(traced: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        def save(code: str) -> None:
            sources.append(dict(_KERNEL.findall(code)))
            raise _Generated

        with (
            patch.object(graph.GraphLowering, "save_output_code", staticmethod(save)),
            suppress(_Generated),
        ):
            compile_fx(copy.deepcopy(traced), inputs)
        return traced.forward

    return backend


def compiled(name: str, source: str, folder: Path) -> Compiled:
    """One kernel, compiled by Triton with the options that Inductor would give on the card."""
    path = folder / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    autotuner = getattr(module, name)
    found: list[Any] = []

    def recorded(*args: Any, **words: Any) -> Any:
        found.append(triton.compile(*args, **words))
        return found[-1]

    stand_in = SimpleNamespace(**{**vars(triton), "compile": recorded})
    with patch.object(triton_heuristics, "triton", stand_in):
        for one in autotuner.configs:
            autotuner._precompile_config(one)
    kernel = max(found, key=lambda kernel: kernel.metadata.shared)
    assert kernel.metadata.target == TARGET
    registers, spilled = _resources(kernel.asm["cubin"], folder / f"{name}.cubin")
    return Compiled(
        name, kernel.metadata.shared, registers, spilled,
        kernel.metadata.num_warps, kernel.metadata.num_stages,
    )  # fmt: skip


def _resources(code: bytes, path: Path) -> tuple[int, int]:
    """Registers and spilled bytes of a thread, as NVIDIA's own tool reads the machine code."""
    path.write_bytes(code)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [tool, "--dump-resource-usage", path]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (re.search(rf"{word}:(\d+)", text) for word in ("REG", "STACK"))
    assert registers
    assert stack
    return int(registers[1]), int(stack[1])
