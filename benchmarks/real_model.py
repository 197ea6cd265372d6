"""A first comparison of a small real model, as a newcomer makes it, and the same work by others.

    python benchmarks/real_model.py --model DIR --text FILE [--int4 int4@bitsandbytes]
                                    [--tasks arc_easy] [--limit 40] [--gguf FILE]

Each command runs in a process and with a store of its own, nothing cached: `--dry-run`, `compare`
with `--only quality`, the whole `compare`, and the same request again in the second store. Beside
them run lm-eval's own Hugging Face backend on the same variants, text and tasks, and llama.cpp on
the same windows of a GGUF file of the model (it scores texts in one process; tasks it cannot, as
nothing in its bindings reads a task).

Machines differ, so seconds are told in tokens as well: how many the float32 forward of plain
transformers reads in the same time, on windows of this text. Goals: quality within 33,600 of
those (120 s at 280 tokens/s), the whole within 56,000 (200 s), the estimate within a factor of 1.5,
the time left at half time within 25 %, no 30 s without a line, never behind for the same work.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from _common import SHARED, table, write_results

GOALS = {"quality": 33_600, "whole": 56_000}
LEFT = re.compile(r"; (?P<gone>[\d a-z]+) gone, about (?P<left>[\d a-z]+) left")
UNITS = {"s": 1, "min": 60, "h": 3600}
BATCH = 8
CONTEXT = 2048


def seconds_of(words: str) -> int:
    """Seconds of "1 min 23 s"."""
    parts = words.split()
    return sum(int(n) * UNITS[unit] for n, unit in zip(parts[::2], parts[1::2], strict=True))


def lines_of(command: Sequence[str]) -> Iterator[tuple[float, str]]:
    """Each line on stderr of a command with the seconds since its start; the last one is empty."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        for line in child.stderr:
            yield time.perf_counter() - start, line
    if child.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {child.returncode}")
    yield time.perf_counter() - start, ""


def timed(command: Sequence[str]) -> dict[str, Any]:
    """Seconds of a command, its longest silence, and what it foretold when half was over."""
    lines = list(lines_of(command))
    whole = lines[-1][0]
    silence = max(b - a for a, b in zip([0.0, *(t for t, _ in lines)], [t for t, _ in lines],
                                        strict=False))  # fmt: skip
    told = [(at, seconds_of(found["left"])) for at, line in lines if (found := LEFT.search(line))]
    result: dict[str, Any] = {"seconds": whole, "longest_silence": silence}
    if told:
        at, left = min(told, key=lambda pair: abs(pair[0] - whole / 2))
        result |= {"half_time": {"at": at, "told_left": left, "left": whole - at}}
    return result


def evalkit(asked: argparse.Namespace, variants: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Name and figures of each command."""
    base = [sys.executable, "-m", "evalkit", "compare", *variants, "--model", asked.model,
            "--text", asked.text, "--tasks", asked.tasks, "--limit", str(asked.limit),
            "--data", str(asked.data), "--offline"]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        first, second = [f"--out={folder}/{name}" for name in ("quality", "whole")]
        plan = [*base, second, "--dry-run", "--format=json"]
        start = time.perf_counter()
        made = json.loads(subprocess.run(plan, check=True, capture_output=True, text=True).stdout)
        dry = time.perf_counter() - start
        yield "dry run", {"seconds": dry, "estimate": made["time"]["seconds"]}
        yield "quality", timed([*base, first, "--only=quality"])
        yield "whole", timed([*base, second])
        yield "again", timed([*base, second])


def forward_rate(model: str, text: str) -> float:
    """Tokens a second of plain transformers' float32 forward on a window: the median of three."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(model)(Path(text).read_text())["input_ids"][:CONTEXT]
    own = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    window = torch.tensor([ids])

    def one() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            own(window)
        return len(ids) / (time.perf_counter() - start)

    one()
    return statistics.median(one() for _ in range(3))


def lm_eval_alone(variant: str, asked: argparse.Namespace) -> dict[str, float]:
    """Seconds in which lm-eval's backend loads a variant, scores the text, and does the tasks."""
    start = time.perf_counter()
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from evalkit.records import TaskSlice
    from evalkit.tasks.loading import load_tasks

    settings: dict[str, Any] = {
        "fp16": {},
        "int8": {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)},
        "int4@bitsandbytes": {
            "quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        },
    }[variant]
    # In 16 bit a processor computes many times slower: evalkit takes float32 as well.
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32, **settings)
    lm = HFLM(pretrained=model, tokenizer=asked.model, batch_size=BATCH, max_length=CONTEXT)
    loaded = time.perf_counter()
    one = Instance("loglikelihood_rolling", {}, (Path(asked.text).read_text(),), 0)
    lm.loglikelihood_rolling([one])
    scored = time.perf_counter()
    names = [TaskSlice(name, None, asked.limit) for name in asked.tasks.split(",")]
    tasks = [one.task for one in load_tasks(names, data=asked.data, offline=True).tasks]
    simple_evaluate(lm, tasks=tasks, limit=asked.limit, bootstrap_iters=0)
    return {"loading": loaded - start, "text": scored - loaded,
            "tasks": time.perf_counter() - scored}  # fmt: skip


def lm_eval(asked: argparse.Namespace, variants: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for variant in variants:
        command = [sys.executable, *sys.argv, "--lm-eval", variant]
        start = time.perf_counter()
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        whole = time.perf_counter() - start
        yield variant, {"seconds": whole, **json.loads(output.splitlines()[-1])}


def llama_cpp(file: str, model: str, text: str) -> dict[str, float]:
    """Seconds in which llama.cpp loads a GGUF file and scores the text's windows."""
    from llama_cpp import Llama
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(model)(Path(text).read_text())["input_ids"]
    start = time.perf_counter()
    own = Llama(file, n_ctx=CONTEXT, n_batch=CONTEXT, logits_all=True, verbose=False)
    loaded = time.perf_counter()
    for begin in range(0, len(ids), CONTEXT):
        own.reset()
        own.eval(ids[begin : begin + CONTEXT])
    return {"loading": loaded - start, "text": time.perf_counter() - loaded, "tokens": len(ids)}


def shown(rate: float, found: dict[str, Any]) -> None:
    """Print the commands with their seconds, those in tokens of the forward, and the goals."""
    lines = [["", "seconds", "tokens of a forward", "goal", "silence", "left at half time"]]
    for name, one in found["evalkit"].items():
        half = one.get("half_time")
        lines.append([
            name, f"{one['seconds']:.0f}", f"{one['seconds'] * rate:,.0f}",
            f"{GOALS[name]:,}" if name in GOALS else "–",
            f"{one['longest_silence']:.0f} s" if "longest_silence" in one else "–",
            f"{half['told_left']} s told, {half['left']:.0f} s" if half else "–",
        ])  # fmt: skip
    for name, one in found["lm-eval"].items():
        lines.append([f"lm-eval, {name}", f"{one['seconds']:.0f}", f"{one['seconds'] * rate:,.0f}",
                      "–", "–", "–"])  # fmt: skip
    table(f"float32 forward: {rate:.0f} tokens/s", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--int4", default="int4@bitsandbytes")
    parser.add_argument("--tasks", default="arc_easy")
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--gguf", help="a GGUF file of the model, for llama.cpp")
    parser.add_argument("--name", default="real-model", help="of the results' file")
    parser.add_argument("--lm-eval", metavar="VARIANT", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.lm_eval:
        print(json.dumps(lm_eval_alone(asked.lm_eval, asked)))
        return
    variants = ("fp16", "int8", asked.int4)
    found: dict[str, Any] = {"evalkit": {}, "lm-eval": {}}
    rate = forward_rate(asked.model, asked.text)
    for name, one in evalkit(asked, variants):
        found["evalkit"][name] = one
        print(name, json.dumps(one), flush=True)
    if asked.int4 == "int4@bitsandbytes":
        found["lm-eval"] = dict(lm_eval(asked, variants))
    if asked.gguf:
        found["llama.cpp"] = llama_cpp(asked.gguf, asked.model, asked.text)
    found["forward_tokens_per_second"] = [rate, forward_rate(asked.model, asked.text)]
    shown(statistics.mean(found["forward_tokens_per_second"]), found)
    write_results(asked.name, found)


if __name__ == "__main__":
    main()
