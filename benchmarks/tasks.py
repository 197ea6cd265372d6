"""evalkit's lm-eval adapter side by side with lm-eval's own Hugging Face backend.

Both answer the same requests of the same task with the same model in one process, in turns: a task
of four choices with 0 and 5 examples before it, and generation up to a stop string. Answers must
agree to 1e-3 nats, or their times mean nothing. The choices are phrases: for choices of one token
lm-eval reads the context once as well, and there is little to gain.

What could be gained at most is counted: lm-eval takes every token of every request through the
body and the output head; needed are every distinct prefix token through the body, once, and the
scored positions through the head. Goal: 0.85 of that limit; generation, which has none, ≥ 2.

    python benchmarks/tasks.py [--repetitions 3] [--items 64] [--only phi-3-80m|demo|DIRECTORY]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from _common import SHARED, interleaved, table, write_results
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

from evalkit.demo_data import demo_directory
from evalkit.metrics.memory import PeakMeter, resident_bytes
from evalkit.models.loading import load_causal_lm, load_tokenizer
from evalkit.records import TaskSlice
from evalkit.running.build_job import BATCH_TOKENS
from evalkit.running.compare.cost import model_sizes
from evalkit.tasks.loading import load_tasks
from evalkit.tasks.local_model import LocalLanguageModel

NAMES = ("phi-3-80m", "demo")
# lm-eval's batch size: 8 is what its own help recommends to try; 1 is its default.
BATCH = 8
SHARE, GENERATION = 0.85, 2.0


def phi_3() -> tuple[Any, Any]:
    """A Phi-3 of 80 million random parameters with GPT-2's tokenizer of 50k entries."""
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=50304, hidden_size=512, intermediate_size=1408, num_hidden_layers=9,
        num_attention_heads=8, max_position_embeddings=2048, bos_token_id=0, eos_token_id=0,
        pad_token_id=0,
    )  # fmt: skip
    file = SHARED / "data" / "vocab" / "gpt2_tokenizer.json"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(file), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    return Phi3ForCausalLM(config).eval(), tokenizer


def checkpoint(path: Path) -> tuple[Any, Any]:
    return load_causal_lm(path, dtype=torch.float32, device="cpu"), load_tokenizer(path)


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens of the prefix that two texts share."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def limit(model: Any, lm: LocalLanguageModel, instances: Sequence[Instance]) -> float:
    """How many times less work is needed than lm-eval's own backend does."""
    pairs = [lm._encode_pair(*instance.args) for instance in instances]
    texts = sorted([*context, *continuation][:-1] for context, continuation in pairs)
    scored = {(tuple(c), tuple(n[:i])) for c, n in pairs for i in range(len(n))}
    distinct = sum(len(text) - shared(before, text) for before, text in pairwise([[], *texts]))
    sizes = model_sizes(model.config.to_dict())
    every = sum(map(len, texts))
    wanted = sizes.forward(distinct) + sizes.logits(len(scored))
    return (sizes.forward(every) + sizes.logits(every)) / wanted


def requests(task: str, shots: int, items: int) -> list[Instance]:
    """The requests lm-eval's own machinery makes of the first `items` of a task."""
    data = None if task.startswith("demo") else SHARED / "data"
    loaded = load_tasks([TaskSlice(task, shots, items)], data=data, offline=True)
    if loaded.failures:
        raise SystemExit(str(loaded.failures))
    one = loaded.tasks[0].task
    one.config.num_fewshot = shots
    one.set_fewshot_seed(1234)
    one.build_all_requests(limit=items, rank=0, world_size=1)
    return list(one.instances)


def answers(lm: Any, kind: str, instances: Sequence[Instance]) -> Callable[[], Any]:
    def run() -> Any:
        with contextlib.redirect_stderr(io.StringIO()):
            return getattr(lm, kind)(list(instances), disable_tqdm=True)

    return run


def difference(kind: str, mine: Sequence[Any], theirs: Sequence[Any]) -> float:
    """Largest difference of log-likelihoods in nats; of texts the share that differ."""
    if kind == "generate_until":
        return sum(a != b for a, b in zip(mine, theirs, strict=True)) / len(mine)
    return max(abs(a[0] - b[0]) for a, b in zip(mine, theirs, strict=True))


def measure(model: Any, tokenizer: Any, instances: list[Instance], repetitions: int) -> dict:
    kind = instances[0].request_type
    device = str(model.device)
    batch_tokens = BATCH_TOKENS[model.device.type]
    lms = {
        "evalkit": LocalLanguageModel(model, tokenizer, batch_tokens=batch_tokens),
        f"lm-eval, batch {BATCH}": HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH),
        "lm-eval, batch 1": HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1),
    }
    functions = {name: answers(lm, kind, instances) for name, lm in lms.items()}
    peaks = {}
    found = {}
    for name, function in functions.items():
        meter = PeakMeter(device, resident_bytes())
        meter.reset()
        found[name] = function()
        peaks[name] = meter.main()
    timings = interleaved(functions, repetitions)
    most = None if kind == "generate_until" else limit(model, lms["evalkit"], instances)
    return {
        "limit": most,
        "requests": len(instances),
        "seconds": timings.to_json(),
        "ratios": {name: timings.ratio(name, "evalkit") for name in functions if name != "evalkit"},
        "peak_bytes_above_model": peaks,
        "difference": difference(kind, found["evalkit"], found["lm-eval, batch 1"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--only", metavar="NAME", help="phi-3-80m, demo, or a model's directory")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    for name in [options.only] if options.only else NAMES:
        own = demo_directory() / "model" if name == "demo" else Path(name)
        model, tokenizer = phi_3() if name == "phi-3-80m" else checkpoint(own)
        generated = "demo_sums" if name == "demo" else "gsm8k"
        cases = {
            "0 shots": ("arc_easy", 0, options.items),
            "5 shots": ("arc_easy", 5, options.items),
            "long choices": ("hellaswag", 0, options.items),
            "generation": (generated, 0, 32),
        }
        whole: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
        rows = [["case", "requests", "evalkit s", "lm-eval s", "ratio", "limit", "share", "goal",
                 "differs by"]]  # fmt: skip
        for case, (task, shots, items) in cases.items():
            begun = time.perf_counter()
            one = measure(model, tokenizer, requests(task, shots, items), options.repetitions)
            best = min(one["ratios"], key=lambda key: one["ratios"][key]["median"])
            ratio, most = one["ratios"][best]["median"], one["limit"]
            rows.append([
                f"{case} of {task}", str(one["requests"]),
                f"{one['seconds']['evalkit']['median']:.2f}",
                f"{one['seconds'][best]['median']:.2f} ({best.removeprefix('lm-eval, ')})",
                f"{ratio:.2f}", f"{most:.2f}" if most else "–",
                f"{ratio / most:.2f}" if most else "–",
                f"share ≥ {SHARE:g}" if most else f"ratio ≥ {GENERATION:g}",
                f"{one['difference']:.1e}",
            ])  # fmt: skip
            whole[case] = {"task": task, "shots": shots, "items": items, **one}
            print(f"{name}, {case}: {time.perf_counter() - begun:.0f} s", flush=True)
        table(f"{name}: time of lm-eval's fastest batch size over evalkit's", rows)
        peaks = [["peak memory above the model", *cases]]
        for lm in whole["0 shots"]["peak_bytes_above_model"]:
            sizes = [whole[case]["peak_bytes_above_model"][lm] for case in cases]
            peaks.append([lm, *(f"{size / 1e6:.0f} MB" for size in sizes)])
        table("", peaks)
        write_results(
            f"tasks-{Path(name).name}", {"torch_threads": torch.get_num_threads(), **whole}
        )


if __name__ == "__main__":
    main()
