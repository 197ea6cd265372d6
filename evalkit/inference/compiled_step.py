"""A decode step that torch.compile makes one graph of, once.

torch.compile keeps what it made at the code object and, after a few shapes or objects, runs that
code eagerly from then on without a word. A step here is compiled under a code object of its own,
whole, on its first call; whatever would compile it a second time is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from evalkit.errors import VariantError


class CompiledStep:
    """A compiled `step` from tokens (batch, 1) to the next tokens (batch, 1).

    `options` are those of torch.compile. Raises VariantError from a call that did not make one
    graph of the step, or that would need another one.
    """

    def __init__(self, step: Callable[[Tensor], Tensor], **options: Any) -> None:
        self._step = step
        own = FunctionType(_call.__code__.replace(), globals())
        self._checked = torch.compile(own, fullgraph=True, dynamic=False, **options)
        self._is_compiled = False

    def __call__(self, tokens: Tensor) -> Tensor:
        """The next tokens."""
        if not self._is_compiled:
            return self._first(tokens)
        try:
            with torch.compiler.set_stance("fail_on_recompile"):
                made: Tensor = self._checked(self._step, tokens)
        except RuntimeError as error:
            if "fail_on_recompile" not in str(error):
                raise
            raise VariantError("a decode step would have to be compiled again") from error
        return made

    def _first(self, tokens: Tensor) -> Tensor:
        before = counters["stats"]["unique_graphs"]
        made: Tensor = self._checked(self._step, tokens)
        if (count := counters["stats"]["unique_graphs"] - before) != 1:
            raise VariantError(
                f"torch.compile made {count} graphs of a step, not one: is TORCH_COMPILE_DISABLE "
                "or TORCHDYNAMO_DISABLE set?"
            )
        self._is_compiled = True
        return made


def _call(step: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    return step(tokens)
