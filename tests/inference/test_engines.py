"""Engines of decode make eager's tokens; on a CPU the compiled step is replayed."""

from __future__ import annotations

import shutil
from typing import Any

import prefix_models
import pytest
import scoring_models
import torch
from torch import Tensor
from torch.nn import functional

from evalkit.errors import VariantError
from evalkit.inference import fused_step
from evalkit.inference.engines import Graphed, generate, prepare_engine

compiles = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
LENGTH = 24


def prompts(batch: int) -> Tensor:
    return torch.randint(3, 600, (batch, 5), generator=torch.Generator().manual_seed(1))


def compiled(model: Any, batch: int = 1, length: int = LENGTH) -> Any:
    prepared = prepare_engine("compile", model, prompts(batch), length)
    assert prepared.differs_at is None
    return prepared.engine


def is_replayed(engine: Any) -> bool:
    return (
        isinstance(engine._compiled, fused_step.FusedStep) and engine._compiled._place is not None
    )


@compiles
@pytest.mark.parametrize(
    "name",
    ["phi-3-small", *(pytest.param(n, marks=pytest.mark.slow) for n in ("llama-tied", "phi-1"))],
)
def test_a_compiled_step_is_replayed_and_makes_eagers_tokens(name: str) -> None:
    assert is_replayed(compiled(scoring_models.build(name)))


@compiles
@pytest.mark.slow
def test_compiled_steps_of_two_models_do_not_meet() -> None:
    models = [scoring_models.build("llama-tied", seed) for seed in range(2)]
    engines = [compiled(model) for model in models]
    with torch.inference_mode():
        wanted = [generate(prepare_engine("eager", m, prompts(1), LENGTH).engine, prompts(1), 12)
                  for m in models]  # fmt: skip
        tokens = [[engine.start(prompts(1))] for engine in engines]
        for _ in range(11):
            for engine, made in zip(engines, tokens, strict=True):
                made.append(engine.step(made[-1]))
    assert [torch.cat(made, 1).tolist() for made in tokens] == [one.tolist() for one in wanted]


@compiles
@pytest.mark.slow
def test_a_step_of_several_sequences_takes_no_other_batch() -> None:
    engine = compiled(scoring_models.build("llama-tied"), batch=3)
    assert is_replayed(engine)
    with pytest.raises(ValueError, match=r"tokens \(2, 1\): the step takes \(3, 1\)"):
        engine.step(torch.zeros(2, 1, dtype=torch.long))


def test_a_recurrent_state_is_not_captured() -> None:
    with pytest.raises(VariantError, match="a layer's cache is no plain one"):
        Graphed(prefix_models.model_of("recurrent"), 20)


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("length", [14, LENGTH])
def test_a_window_is_replayed_whatever_its_size(length: int) -> None:
    assert is_replayed(compiled(scoring_models.build("gemma-2"), length=length))


@compiles
@pytest.mark.slow
def test_weights_of_torchao_are_replayed() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model = scoring_models.build("llama-tied").bfloat16()
    quantization.quantize_(model.model, quantization.Int8WeightOnlyConfig())
    assert is_replayed(compiled(model))


def row(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_products_of_one_row() -> None:
    weights, bias = row(7, 16), row(7)
    wanted = functional.linear(row(1, 16), weights)
    torch.testing.assert_close(fused_step._mm(row(1, 16), weights.t()), wanted)
    torch.testing.assert_close(fused_step._addmm(bias, row(1, 16), weights.t()), wanted + bias)
    half = fused_step._mm(row(1, 16).half(), weights.half().t())
    torch.testing.assert_close(half, functional.linear(row(1, 16).half(), weights.half()))
    integers, scales = torch.randint(-127, 128, (7, 16)).to(torch.int8), row(7).abs()
    torch.testing.assert_close(
        fused_step._weight_int8pack_mm(row(1, 16), integers, scales),
        row(1, 16) @ (integers.float() * scales[:, None]).t(),
    )


@pytest.mark.parametrize("mask", [None, (1, 1, 1, 9), (2, 4, 1, 9)])
def test_attention_of_one_query(mask: tuple[int, ...] | None) -> None:
    query, keys, values = row(2, 4, 1, 8), row(2, 4, 9, 8), row(2, 4, 10, 8)[:, :, 1:]
    added = None if mask is None else row(*mask).masked_fill(row(*mask) > 1, -torch.inf)
    output, logsumexp = fused_step._attention(query, keys, values, attn_mask=added)
    wanted = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, keys, values, attn_mask=added
    )
    torch.testing.assert_close(output, wanted[0])
    torch.testing.assert_close(logsumexp, wanted[1].reshape(logsumexp.shape))


def test_other_products_are_left_alone() -> None:
    assert fused_step._mm(row(2, 16), row(7, 16).t()) is NotImplemented
    assert fused_step._mm(row(1, 16), row(16, 7)) is NotImplemented
    assert fused_step._addmm(row(7), row(1, 16), row(7, 16).t(), beta=2) is NotImplemented
    integers = torch.zeros(7, 16, dtype=torch.int8)
    assert fused_step._weight_int8pack_mm(row(2, 16), integers, row(7)) is NotImplemented
    query, keys = row(1, 4, 1, 8), row(1, 4, 9, 8)
    attention = fused_step._attention
    assert attention(row(1, 4, 2, 8), keys, keys) is NotImplemented
    assert attention(query, row(1, 2, 9, 8), row(1, 2, 9, 8)) is NotImplemented
    assert attention(query, keys, keys, is_causal=True) is NotImplemented
    mask = torch.ones(1, 1, 1, 9, dtype=torch.bool)
    assert attention(query, keys, keys, attn_mask=mask) is NotImplemented


@pytest.mark.parametrize("transposed", [True, False])
def test_int8_weights_are_converted_once(transposed: bool) -> None:
    convert = torch.ops.prims.convert_element_type.default
    stored = torch.randint(-128, 128, (3, 4)).to(torch.int8)
    graph = torch.fx.Graph()
    source = graph.placeholder("stored")
    source.meta["val"] = stored
    found = graph.call_function(convert, (source, torch.bfloat16))
    if transposed:
        found = graph.call_function(torch.ops.aten.permute.default, (found, [1, 0]))
    graph.output(graph.call_function(convert, (found, torch.float32)))
    fused_step._ReadInt8Directly()(graph)
    graph.eliminate_dead_code()
    module = torch.fx.GraphModule(torch.nn.Module(), graph)
    assert [node.target for node in graph.nodes].count(convert) == 1
    assert module(stored).equal(stored.t().float() if transposed else stored.float())
