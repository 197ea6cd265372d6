"""Which kernel will run a variant's layers: settled before anything is loaded or quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit import plugins
from evalkit.records import Variant

if TYPE_CHECKING:
    from evalkit.models.shapes import Shape

# Compute capability of a card, such as (8, 9); None stands for a CPU.
Capability = tuple[int, int] | None


@dataclass(frozen=True)
class KernelChoice:
    """What will run the linear layers of a variant, on one kind of device and over real widths.

    `kernel` is the layers' class ("MarlinLinear"), one for the whole model. `reason` says why it
    is not the fastest that the library has, and `fix` the command that would bring that one; both
    are empty where there is none faster. `extensions` are what it is compiled from; `builds` those
    of them that this machine has not compiled before, which takes about `seconds`.
    """

    kernel: str
    reason: str = ""
    fix: str = ""
    extensions: tuple[str, ...] = ()
    builds: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for the run's record where something could be installed; else none."""
        return (f"{self.kernel}: {self.reason}; to mend it: {self.fix}",) if self.fix else ()


def kernel_for(
    variant: Variant, shapes: Mapping[str, Shape], capability: Capability
) -> KernelChoice | None:
    """What runs linear layers of `shapes`, each (outputs, inputs), in the words of the backend.

    None where that is known only when the layers are there. Raises VariantError where none can.
    """
    backend = plugins.load("backends", variant.backend)
    if not hasattr(backend, "kernel_for"):
        return None
    found: KernelChoice | None = backend.kernel_for(variant, shapes, capability)
    return found


def missing_tools(variant: Variant) -> tuple[str, ...]:
    """What this machine lacks to compile the kernels of `variant`, which decides what runs it."""
    backend = plugins.load("backends", variant.backend)
    return tuple(backend.missing_tools(variant)) if hasattr(backend, "missing_tools") else ()
