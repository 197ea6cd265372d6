"""Budgets come from bytes: what is kept, what is in flight, and what a full card does to a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from prefix_models import model_of, runner_of, tokenizer_of_words
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedModel,
    Qwen3Config,
)

from evalkit.errors import OutOfMemoryError
from evalkit.inference import budget as budgets
from evalkit.inference import decode_batch
from evalkit.inference.budget import Budget, plan_budget
from evalkit.inference.decode_batch import DecodeBatch
from evalkit.inference.decoding import Decoding
from evalkit.inference.generate import generate_texts
from evalkit.inference.prefix import PrefixRunner
from evalkit.models.activations import LiveBytes
from evalkit.models.phi3_small import Phi3SmallConfig
from evalkit.scoring import head as heads
from evalkit.scoring.device_memory import memory_of
from evalkit.scoring.head import Forward, open_forward

_GATED: dict[str, Any] = {
    "vocab_size": 600, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
KEEPING = {
    "phi-3-small": Phi3SmallConfig(
        vocab_size=600, hidden_size=64, ff_intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=256,
    ),
    "llama": LlamaConfig(**_GATED),
    "gemma": Gemma3TextConfig(**_GATED, head_dim=16, sliding_window=16),
    "qwen": Qwen3Config(**_GATED, head_dim=8),
}  # fmt: skip


def built(config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("name", KEEPING)
def test_what_is_kept_is_what_is_needed(name: str) -> None:
    """The storages behind kept keys and values hold them and nothing else."""
    config, rows, length = KEEPING[name], 3, 40
    runner = runner_of(built(config), Budget(512, 4096))
    prompts = [[5 + row, *range(10, 9 + length)] for row in range(rows)]
    steps = list(runner.run(prompts, reserve=8))
    storages = {
        storage._cdata: storage.nbytes()
        for step in steps
        if step.key_values is not None
        for pair in step.key_values.layers
        for storage in (tensor.untyped_storage() for tensor in pair)
    }
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    needed = 4 * 2 * config.num_hidden_layers * config.num_key_value_heads * size * rows * length
    assert needed <= sum(storages.values()) <= 1.05 * needed


class _Numbers:
    """Tokens as their ids."""

    def decode(self, tokens: Any, **_: Any) -> str:
        return " ".join(map(str, tokens))


NUMBERS: Any = _Numbers()
TOKENIZER = tokenizer_of_words()


class Card(LiveBytes):
    """A card of `room` bytes beside its weights: counts what tensors hold and refuses what is more.

    It stands in for `evalkit.scoring.device_memory.DeviceMemory`.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.highest = 0

    def __torch_dispatch__(self, *given: Any) -> Any:
        result = super().__torch_dispatch__(*given)
        self.highest = max(self.highest, self.now)
        if self.now > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return result

    def free(self) -> int:
        return self.room - self.now

    def peak(self, run: Callable[[], object]) -> int:
        before, self.highest = self.now, self.now
        run()
        return self.highest - before


@contextmanager
def card_of(room: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    card = Card(room)
    for module in (budgets, heads):
        monkeypatch.setattr(module, "memory_of", lambda _: card)
    with torch.inference_mode(), card:
        yield card


# Phi-3 Small at a sixty-fourth of its widths and a 32nd of all lengths, in float32: every tensor
# has 2/2048 of the bytes that the released model has in float16. A quarter of the layers has four
# times the key/value heads, which is as much to keep.
WIDTHS, LENGTHS = 64, 32
SCALE = 2 / (WIDTHS * LENGTHS)
PROMPT, GENERATED, BATCH_TOKENS = 950 // LENGTHS, 256 // LENGTHS, 16384 // LENGTHS
CARD, CONTEXT_OF_CUDA = 24e9, 0.5e9
# Of one row at its end: 128 KiB a token.
ROW = 131072 * (950 + 256)


@pytest.fixture(scope="module")
def geometry() -> PreTrainedModel:
    config = Phi3SmallConfig(
        vocab_size=100352 // WIDTHS, hidden_size=4096 // WIDTHS, num_hidden_layers=8,
        num_attention_heads=4, num_key_value_heads=4, ff_intermediate_size=14336 // WIDTHS,
        max_position_embeddings=8192 // LENGTHS, blocksparse_block_size=64 // LENGTHS,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return built(config)


@pytest.mark.parametrize(("weights", "halve"), [(14.8e9, True), (7.8e9, False), (4.4e9, True)])
def test_gsm8k_fits_24_gb(
    geometry: PreTrainedModel, weights: float, halve: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5 shots, prompts of 950 tokens and 256 generated, of FP16, LLM.int8() and INT4 weights."""
    room = CARD - CONTEXT_OF_CUDA - weights
    admitted = room / ROW
    examples = list(range(20, 20 + PROMPT * 5 // 6))
    questions = [
        [*examples, 500 + index, *range(700, 700 + PROMPT - len(examples) - 1)]
        for index in range(int(admitted))
    ]
    for module, name in (
        (budgets, "_TRIED_TOKENS"), (budgets, "_FEWEST_TOKENS"), (budgets, "_PROMPT_TOKENS"),
        (heads, "_FEWEST_AT_ONCE"), (heads, "_MOST_AT_ONCE"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, getattr(module, name) // LENGTHS)
    batches: list[int] = []
    halved: list[int] = []
    step = DecodeBatch.step
    monkeypatch.setattr(
        DecodeBatch, "step", lambda batch: batches.append(len(batch.rows)) or step(batch)
    )
    with card_of(int(SCALE * room), monkeypatch) as card:
        forward = open_forward(geometry, torch.arange(16))
        budget = plan_budget(forward, BATCH_TOKENS, halve=halve, generates=True)
        runner = PrefixRunner(forward, budget, halved.append)
        decoding = Decoding(GENERATED, (), {"do_sample": False})
        card.highest = 0
        generate_texts(runner, NUMBERS, questions, decoding, seeds=[0] * len(questions))
    assert not halved
    assert card.highest < card.room
    assert batches[0] >= max(8, admitted / 2)


def prompts() -> list[list[int]]:
    examples = list(range(30, 50))
    return [[*examples, 60 + row, 80 + row] for row in range(5)] + [[7, 8], [7, 9]]


def texts(runner: PrefixRunner, **options: Any) -> list[str]:
    decoding = Decoding(4, (), options or {"do_sample": False})
    return generate_texts(runner, TOKENIZER, prompts(), decoding, seeds=list(range(7)))


Refuse = Callable[[int], None]
Full = Callable[[pytest.MonkeyPatch, Refuse], None]


def joining(patch: pytest.MonkeyPatch, refuse: Refuse) -> None:
    join = decode_batch._joined

    def joined(parts: Any, fillers: Any, slots: int) -> Any:
        refuse(sum(rows for rows, _ in fillers))
        return join(parts, fillers, slots)

    patch.setattr(decode_batch, "_joined", joined)


def stepping(patch: pytest.MonkeyPatch, refuse: Refuse) -> None:
    run = PrefixRunner.states

    def states(runner: Any, cache: Any, inputs: Any) -> Any:
        if inputs["input_ids"].shape[1] == 1:
            refuse(len(inputs["input_ids"]))
        return run(runner, cache, inputs)

    patch.setattr(PrefixRunner, "states", states)


def choosing(patch: pytest.MonkeyPatch, refuse: Refuse) -> None:
    logits = Forward.next_logits

    def next_logits(forward: Any, rows: Any) -> Any:
        refuse(len(rows))
        return logits(forward, rows)

    patch.setattr(Forward, "next_logits", next_logits)


def prefilling(patch: pytest.MonkeyPatch, refuse: Refuse) -> None:
    step = PrefixRunner.step

    def limited(runner: Any, rows: Any, *rest: Any) -> Any:
        refuse(len(rows))
        return step(runner, rows, *rest)

    # Its passes are compared beforehand, and not halved.
    patch.setattr(PrefixRunner, "compare", lambda *_: None)
    patch.setattr(PrefixRunner, "step", limited)


def more_than(limit: int) -> Refuse:
    def refuse(rows: int) -> None:
        if rows > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return refuse


def at_call(number: int) -> Refuse:
    calls = iter(range(1, 10_000))

    def refuse(_: int) -> None:
        if next(calls) == number:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasGemmEx`")

    return refuse


PHASES = [prefilling, joining, stepping, choosing]


@pytest.mark.parametrize("refused", [partial(more_than, 2), partial(at_call, 3)])
@pytest.mark.parametrize("phase", PHASES)
def test_where_memory_runs_out_fewer_rows_give_the_same_text(
    phase: Full, refused: Callable[[], Refuse], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("phi-3-small")
    sampled = {"do_sample": True, "top_k": 0}
    expected = texts(runner_of(model), **sampled)
    halved: list[int] = []
    phase(monkeypatch, refused())
    assert texts(runner_of(model, on_halved=halved.append), **sampled) == expected
    assert halved


@pytest.mark.parametrize("phase", PHASES)
def test_a_row_that_does_not_fit_alone_ends_in_one_line(
    phase: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase(monkeypatch, more_than(0))
    with pytest.raises(OutOfMemoryError, match="does not fit in memory") as caught:
        texts(runner_of(model_of("phi-3-small")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("phase", PHASES)
def test_rows_whose_numbers_depend_on_each_other_are_not_parted(
    phase: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase(monkeypatch, more_than(3))
    with pytest.raises(OutOfMemoryError, match="not halved because"):
        texts(runner_of(model_of("phi-3-small"), Budget(256, 2048, halve=False)))


class Free:
    """A card of which only what is free is asked."""

    def __init__(self, free: float) -> None:
        self.bytes = free

    def free(self) -> int:
        return int(self.bytes)


@pytest.mark.parametrize(("free", "rows"), [(0.1e9, 64), (8.7e9, 256), (19.1e9, 512), (1e12, 4096)])
def test_the_head_takes_as_many_rows_as_memory_allows(
    free: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("llama-tied")
    assert Forward(model, model, None, 100352).rows_at_once == 64
    monkeypatch.setattr(heads, "memory_of", lambda _: Free(free))
    assert Forward(model, model, None, 100352).rows_at_once == rows


def test_a_cpu_keeps_the_batches_it_was_given() -> None:
    forward = open_forward(model_of("llama-tied"), torch.arange(4, 20))
    for generates in (False, True):
        assert plan_budget(forward, 1024, generates=generates) == Budget(1024, 8192)


def test_a_full_card_reads_fewer_tokens_in_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what is free is for activations; a batch that must not be halved stays."""
    model = model_of("phi-3-small")
    with card_of(40_000_000, monkeypatch):
        forward = open_forward(model, torch.arange(4, 20))
        found = [plan_budget(forward, 32768, halve=halve) for halve in (True, False)]
        assert found[0].batch_tokens in (2048, 4096, 8192, 16384)
        assert found[1].batch_tokens == 32768
        generating = plan_budget(forward, 32768, halve=False, generates=True)
    assert generating.batch_tokens == 4096
    assert generating.all_levels and generating.cache_tokens > found[0].cache_tokens


def test_held_levels_leave_room_for_those_below() -> None:
    """A budget of all levels counts what earlier batches keep; one of each batch does not."""
    model = model_of("phi-3-small")
    few = [[*range(10, 60), 100 + row] for row in range(12)]
    batches = {
        together: max(
            len(step.nodes)
            for step in runner_of(model, Budget(4096, 200, all_levels=together)).run(few)
        )
        for together in (False, True)
    }
    assert batches == {False: 3, True: 2}


def test_memory_of_a_gpu_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"now": 300, "most": 300}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: held["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: held["most"])
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda device: held.update(most=held["now"])
    )
    memory = memory_of(torch.device("cuda", 1))
    assert memory is not None and memory.device == torch.device("cuda", 1)
    assert memory.free() == 1200
    assert memory.peak(lambda: held.update(most=750)) == 450
    assert memory_of(torch.device("cpu")) is None
