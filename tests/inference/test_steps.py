"""One decode step needs nothing of the host, is compiled once, and holds one cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from host_reads import OnDevice
from prefix_models import model_of
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from evalkit.errors import VariantError
from evalkit.inference import engines, fused_step
from evalkit.inference.compiled_step import CompiledStep
from evalkit.inference.engines import Compiled, Eager, Graphed, generate, prepare_engine
from evalkit.models.phi3_small import Phi3SmallConfig

_SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
}
# The blocks of Phi-3 Small are the released ones: 64 tokens, 16 local ones, stripes of 8.
_LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 2048,
}
_LARGE = {
    "phi-3-small-8k": Phi3SmallConfig(**_SIZES, ff_intermediate_size=48),
    "phi-3-small-128k": Phi3SmallConfig(**_SIZES, ff_intermediate_size=48, rope_scaling=_LONGROPE),
    "llama": LlamaConfig(**_SIZES, intermediate_size=48),
    "gemma-3": Gemma3TextConfig(
        **_SIZES,
        intermediate_size=48,
        head_dim=8,
        sliding_window=1024,
        layer_types=["sliding_attention", "full_attention"],
    ),
}


def prompts(length: int, batch: int = 1) -> Tensor:
    return torch.randint(3, 60, (batch, length), generator=torch.Generator().manual_seed(1))


class Plain(engines._Static):
    """The work that `graph` and `compile` record, run as it is."""

    name = "plain"

    def _replay(self, tokens: Tensor) -> Tensor:
        return self._whole_step(tokens)


def on_no_device(name: str) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(_LARGE[name]).eval()


@pytest.mark.parametrize("context", [640, 4096])
@pytest.mark.parametrize("name", list(_LARGE))
@pytest.mark.parametrize("make", [lambda model, _: Eager(model), Plain], ids=["eager", "recorded"])
def test_a_step_needs_no_host(make: Callable[..., Any], name: str, context: int) -> None:
    engine = make(on_no_device(name), context + 8)
    with torch.inference_mode():
        tokens = engine.start(torch.zeros((2, context), dtype=torch.long, device="meta"))
        tokens = engine.step(tokens)  # makes what is made once
        with OnDevice():
            tokens = engine.step(tokens)
    assert tokens.shape == (2, 1)


@pytest.mark.parametrize("name", ["block-sparse", "sliding and full", "sliding window"])
@pytest.mark.parametrize("length", [1, 5, 30])
def test_recorded_work_makes_eagers_tokens(name: str, length: int) -> None:
    model = model_of(name)
    with torch.inference_mode():
        wanted = generate(Eager(model), prompts(length, 2), 24)
        engine = Plain(model, length + 24)
        assert generate(engine, prompts(length, 2), 24).equal(wanted)
        # A second text does not meet the first.
        assert generate(engine, prompts(length, 2), 24).equal(wanted)


def test_recorded_work_reads_the_text_anew_where_rotary_factors_change() -> None:
    model = model_of("block-sparse longrope")
    with torch.inference_mode():
        wanted = generate(Eager(model), prompts(40, 2), 20)
        assert generate(Plain(model, 60), prompts(40, 2), 20).equal(wanted)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs that are compiled, by a compiler that runs them as they are."""
    made: list[Any] = []

    def count(graph: Any, *_: Any, **__: Any) -> Any:
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(fused_step, "compile_fx", count)
    return made


class Small(torch.nn.Module):
    """The least that reads and fills a cache as a language model does."""

    config = LlamaConfig(**_SIZES | {"num_hidden_layers": 1})
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.eye(64))

    def forward(self, input_ids: Tensor, past_key_values: Any = None, **_: Any) -> Any:
        cache = DynamicCache() if past_key_values is None else past_key_values
        states = self.table[input_ids][:, None]
        keys, _ = cache.update(states, states, 0)
        logits = -keys.sum((1, 2))[:, None] @ self.table.t()
        return CausalLMOutputWithPast(logits=logits, past_key_values=cache)


def test_twelve_engines_compile_once_each(graphs: list[Any]) -> None:
    model: Any = Small()
    for extra in range(12):
        prepared = prepare_engine("compile", model, prompts(5), 22 + extra)
        assert prepared.differs_at is None
        assert len(graphs) == extra + 1
        prepared.engine.release()


def test_steps_of_a_window_compile_nothing_more(graphs: list[Any]) -> None:
    prepared = prepare_engine("compile", model_of("sliding and full"), prompts(5), 40)
    assert prepared.differs_at is None
    with torch.inference_mode():
        generate(prepared.engine, prompts(5), 33)
    assert len(graphs) == 1


def counting(made: list[Any]) -> Callable[..., Any]:
    def backend(graph: Any, _: Any) -> Any:
        made.append(graph)
        return graph.forward

    return backend


def test_checked_steps_compile_once_and_refuse_to_compile_again() -> None:
    """The way on CUDA, where a step goes through torch.compile's conditions."""
    made: list[Any] = []
    model: Any = Small()
    plain = Plain(model, 60)
    step = CompiledStep(plain._whole_step, backend=counting(made))
    with torch.inference_mode():
        tokens = plain.start(prompts(5))
        for _ in range(33):
            tokens = step(tokens)
        assert len(made) == 1
        with pytest.raises(VariantError, match="would have to be compiled again"):
            step(tokens.expand(2, 1))


def test_a_step_that_was_not_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    model: Any = Small()
    with pytest.raises(VariantError, match="made 0 graphs of a step, not one"):
        prepare_engine("compile", model, prompts(5), 22)


def test_a_step_of_several_graphs_is_refused() -> None:
    def broken(tokens: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return tokens + 1

    with pytest.raises(torch._dynamo.exc.Unsupported):
        CompiledStep(broken, backend=counting([]))(prompts(1))


def test_compiling_on_cuda_without_a_toolchain_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = Small()
    monkeypatch.setattr(Small, "device", torch.device("cuda"))
    monkeypatch.setattr(engines, "missing_for_triton", lambda: "a C compiler (gcc)")
    with pytest.raises(VariantError, match=r"needs a C compiler \(gcc\): install it"):
        Compiled(model, 22)


@pytest.mark.parametrize("name", ["compile", "graph"])
def test_two_caches_are_never_alive(
    name: str, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[Any] = []

    def remembered(self: Eager, model: Any) -> None:
        self.model, self.cache = model, None
        alive.append(self)

    def checked(self: Any, model: Any, length: int) -> None:
        assert [one for one in alive if one.cache is not None] == []
        own(self, model, length)

    made = {"compile": Compiled, "graph": Graphed}[name]
    own = made.__init__
    monkeypatch.setattr(Eager, "__init__", remembered)
    monkeypatch.setattr(made, "__init__", checked)
    monkeypatch.setattr(Graphed, "_replay", Graphed._whole_step)
    model: Any = Small()
    engine: Any = prepare_engine(name, model, prompts(5), 22).engine
    assert len(alive) == 1
    engine.release()
    assert engine.cache is None


class _Stream:
    def wait_stream(self, _: Any) -> None: ...


def test_a_failed_capture_gives_the_stream_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch leaves the capture stream current where the end of a capture raises."""
    current: list[Any] = [_Stream()]
    first = current[0]

    class Capture:
        def __init__(self, *_: Any) -> None: ...

        def __enter__(self) -> None:
            current[0] = _Stream()

        def __exit__(self, *_: Any) -> None:
            raise RuntimeError("operation failed due to a previous error during capture")

    class Within(Capture):
        def __exit__(self, *_: Any) -> None:
            current[0] = first

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: current.__setitem__(0, stream))
    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "stream", Within)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    with pytest.raises(VariantError, match="graph does not run this model: operation failed"):
        model: Any = Small()
        prepare_engine("graph", model, prompts(5), 22)
    assert current[0] is first
