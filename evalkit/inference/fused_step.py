"""A compiled decode step on a CPU: products of one row as loops that read each weight once.

A matrix product with one row does two operations a weight, so reading the weights bounds it. The
libraries behind torch's products are made for many rows: they reach a fraction of the bandwidth,
and each call ends what torch.compile can fuse. Written as a product and a sum, the row's products,
its attention and all between them become loops of one generated kernel; they add in float32.

torch.compile looks hundreds of conditions and weights up before each call, which would take a good
part of the step. Nothing of them changes between steps, so the call is recorded and replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._functorch import config as functorch_config
from torch._inductor.compile_fx import compile_fx
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch._inductor.decomposition import select_decomp_table

from evalkit.inference.compiled_step import CompiledStep

_aten: Any = torch.ops.aten
_convert: Any = torch.ops.prims.convert_element_type.default
# Checks of each weight's size would take a twentieth of the step.
_CONFIG = {"size_asserts": False, "alignment_asserts": False}
_PLAIN = (torch.float32, torch.float16, torch.bfloat16)


class FusedStep(CompiledStep):
    """A compiled `step` that is replayed without torch.compile's conditions.

    `step` may read and write tensors that stay in place, as a StepCache does, and nothing else
    that changes from call to call.
    """

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__(step, backend=self._compile)
        self._graph: Callable[..., Any] | None = None
        self._inputs: list[Any] = []
        self._outputs = 0
        self._place: int | None = None
        self._shape: tuple[int, ...] = ()

    def __call__(self, tokens: Tensor) -> Tensor:
        """The next tokens. Raises ValueError for another shape than the first call's."""
        if self._place is None or self._graph is None:
            return self._record(tokens)
        if tokens.shape != self._shape:
            raise ValueError(f"tokens {tuple(tokens.shape)}: the step takes {self._shape}")
        self._inputs[self._place] = tokens
        made: Tensor = self._graph(*self._inputs)[0]
        return made

    def _record(self, tokens: Tensor) -> Tensor:
        """Call by way of torch.compile; replay from now on what gives the tokens alone."""
        made = super().__call__(tokens)
        places = [place for place, value in enumerate(self._inputs) if value is tokens]
        if self._outputs == len(places) == 1:
            self._place, self._shape = places[0], tuple(tokens.shape)
        return made

    def _compile(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        """A backend of torch.compile: Inductor with this module's decompositions."""
        decompositions = {**select_decomp_table(), **_DECOMPOSITIONS}
        # Its cache does not look at decompositions; Inductor's own sees what they have made.
        with functorch_config.patch(enable_autograd_cache=False):
            compiled: Any = compile_fx(
                graph,
                inputs,
                decompositions=decompositions,
                config_patches=_CONFIG | {"post_grad_custom_pre_pass": _ReadInt8Directly()},
            )
        self._graph = compiled

        def run(*values: Any) -> Any:
            made = compiled(*values)
            self._inputs, self._outputs = list(values), len(made)
            return made

        return run


def _mm(row: Tensor, weights: Tensor) -> Tensor:
    """(1, inputs) times the transpose of weights stored as (outputs, inputs)."""
    if row.shape[0] != 1 or weights.stride(0) != 1 or row.dtype not in _PLAIN:
        return NotImplemented
    return (_stored(row.float()) * weights.t().float()).sum(-1).to(row.dtype)[None]


def _addmm(
    bias: Tensor, row: Tensor, weights: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    product = NotImplemented if beta != 1 or alpha != 1 else _mm(row, weights)
    return product if product is NotImplemented else bias + product


def _weight_int8pack_mm(row: Tensor, weights: Tensor, scales: Tensor) -> Tensor:
    """(1, inputs) times the transpose of INT8 weights (outputs, inputs) with a scale an output."""
    if row.shape[0] != 1:
        return NotImplemented
    sums = (_stored(row.float()) * weights.float()).sum(-1)
    return (sums * scales.float()).to(row.dtype)[None]


def _attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of one query a head (batch, heads, 1, width) over cached keys and values.

    Returns the output (batch, heads, 1, width) and the logarithm of the sum (batch, heads, 1).
    """
    masked = attn_mask is not None and not attn_mask.is_floating_point()
    if query.shape[2] != 1 or query.shape[1] != keys.shape[1] or masked:
        return NotImplemented
    if is_causal or dropout_p:
        return NotImplemented
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (_stored(query.float() * scale) * keys.float()).sum(-1)
    if attn_mask is not None:
        scores = scores + attn_mask[..., 0, :].float()
    most = scores.amax(-1, keepdim=True)
    weights = _stored((scores - most).exp())
    total = weights.sum(-1, keepdim=True)
    output = (weights[..., None] * values.float()).sum(-2) / total
    return output[:, :, None].to(query.dtype), most + total.log()


def _stored(values: Tensor) -> Tensor:
    """`values` computed once: Inductor would fuse what makes a row into the loop of each weight,
    but keeps in memory what is viewed by strides."""
    return torch.as_strided(values, values.shape, values.stride())


_DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    _aten.mm.default: _mm,
    _aten.addmm.default: _addmm,
    _aten._weight_int8pack_mm.default: _weight_int8pack_mm,
    _aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
}


class _ReadInt8Directly(CustomGraphPass):
    """INT8 weights to float32 in one conversion instead of two by way of 16 bit.

    Every INT8 value is exact in all three types; only the direct conversion is vectorized.
    """

    def __call__(self, graph: torch.fx.Graph) -> None:
        """Rewrite `graph` in place."""
        for node in graph.find_nodes(op="call_function", target=_convert):
            source, dtype = node.args
            transposed = source.target is _aten.permute.default
            inner = source.args[0] if transposed else source
            if dtype is not torch.float32 or inner.target is not _convert:
                continue
            stored = inner.args[0]
            if stored.meta["val"].dtype is not torch.int8:
                continue
            if transposed:
                order = source.args[1]
                with graph.inserting_before(node):
                    value = stored.meta["val"].permute(order)
                    stored = graph.call_function(source.target, (stored, order))
                    stored.meta["val"] = value
            node.replace_input_with(source, stored)

    def uuid(self) -> Any:
        """What Inductor's cache knows the pass by."""
        return get_hash_for_files((__file__,))
