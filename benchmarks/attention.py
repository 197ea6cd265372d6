"""Phi-3 Small's sparse attention beside dense causal attention, at the released geometry.

One layer's attention (32 heads, 8 key/value heads of width 128, one row) over whole prompts, in
one process and in turns. The sparse layers need only part of the causal blocks; the time of a
sparse pass over that of a dense one (PyTorch's fused causal attention) should come close to that
part. Goal: time ratio at most 1.5 times the block ratio. Extra memory is the peak during a sparse
pass beyond its output; goal at 8k tokens: under 256 MB.

On CUDA the fused block-sparse kernel (FlexAttention) is measured beside the chunks.

    python benchmarks/attention.py [--repetitions 5] [--lengths 2048,4096,8192] [--threads N]
                                   [--processor-time]
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from _common import Timings, interleaved, machine, table, write_results
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile

from evalkit.models.phi3_small import Phi3SmallConfig, flex
from evalkit.models.phi3_small.sparse import BlockPattern, chunked_attention, visible

CONFIG = Phi3SmallConfig()
PATTERN = BlockPattern.from_config(CONFIG)
GOAL = 1.5
SCALING = 1 / CONFIG.head_dim


def block_ratio(length: int) -> float:
    """Part of the causal blocks of a prompt that any head of a sparse layer needs, on average."""
    starts = torch.arange(0, length, PATTERN.block_size)[None]
    blocks = starts.shape[1]
    causal = PATTERN.heads * blocks * (blocks + 1) / 2
    return float(visible(PATTERN, starts, starts).sum()) / causal


def functions(length: int, device: str, dtype: torch.dtype) -> dict[str, Callable[[], Any]]:
    """The passes to time, by name."""
    generator = torch.Generator().manual_seed(length)
    query, key, value = (
        torch.randn(1, heads, length, CONFIG.head_dim, generator=generator).to(device, dtype)
        for heads in (CONFIG.num_attention_heads, *[CONFIG.num_key_value_heads] * 2)
    )

    def finished(function: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            with torch.inference_mode():
                output = function()
            if device == "cuda":
                torch.cuda.synchronize()
            return output

        return run

    made = {
        "dense": lambda: scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=SCALING, enable_gqa=True
        ),
        "chunks": lambda: chunked_attention(query, key, value, PATTERN, scaling=SCALING),
    }
    if flex.applies(query, key, PATTERN, dropout=0.0):
        made["flex"] = lambda: flex.flex_attention(query, key, value, PATTERN, scaling=SCALING)
    return {name: finished(function) for name, function in made.items()}


def extra_bytes(function: Callable[[], torch.Tensor], device: str) -> int:
    """Peak memory while `function` runs, beyond its inputs and its output."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        output = function()
        return torch.cuda.max_memory_allocated() - before - output.nbytes
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        output = function()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate(change for _, change in changes)) - output.nbytes


def rows_of(
    timings: Timings, passes: dict[str, Callable[[], Any]], length: int, device: str, dtype: str
) -> list[dict[str, Any]]:
    """One row for each way of computing the sparse layer."""
    blocks = block_ratio(length)
    rows = []
    for name in list(passes)[1:]:
        ratio = timings.ratio(name, "dense")
        rows.append(
            {
                "device": device,
                "dtype": dtype,
                "tokens": length,
                "way": name,
                "dense_seconds": timings.median("dense"),
                "sparse_seconds": timings.median(name),
                "time_ratio": ratio,
                "block_ratio": blocks,
                "over_block_ratio": ratio["median"] / blocks,
                "goal_met": ratio["median"] <= GOAL * blocks,
                "extra_mb": extra_bytes(passes[name], device) / 1e6,
            }
        )
    return rows


def cells(row: dict[str, Any]) -> list[str]:
    ratio = row["time_ratio"]
    return [
        f"{row['device']} {row['dtype']} {row['way']}",
        str(row["tokens"]),
        f"{row['dense_seconds']:.4g} s",
        f"{row['sparse_seconds']:.4g} s",
        f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]",
        f"{row['block_ratio']:.3f}",
        f"{row['over_block_ratio']:.2f}",
        "yes" if row["goal_met"] else "no",
        f"{row['extra_mb']:.0f} MB",
    ]


def machine_name() -> str:
    """The GPU, or else the processor and its threads, as part of a file name."""
    found = machine()
    name = found["gpus"][0] if found["gpus"] else f"{found['processor']} {found['threads']} threads"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--lengths", default="2048,4096,8192")
    parser.add_argument("--threads", type=int, help="CPU threads; by default PyTorch's own")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="time one thread by its processor time, which a busy machine disturbs less",
    )
    arguments = parser.parse_args()
    if arguments.processor_time:
        arguments.threads = 1
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    kinds = [("cpu", torch.float32)]
    if torch.cuda.is_available():
        kinds = [("cuda", torch.float16), ("cuda", torch.bfloat16)]
    rows = []
    for device, dtype in kinds:
        for length in map(int, arguments.lengths.split(",")):
            passes = functions(length, device, dtype)
            clock = time.process_time if arguments.processor_time else time.perf_counter
            timings = interleaved(passes, arguments.repetitions, clock)
            kind = str(dtype).removeprefix("torch.")
            rows.extend(rows_of(timings, passes, length, device, kind))
    header = ["", "tokens", "dense", "sparse", "time ratio", "blocks", "over", "≤ 1.5", "extra"]
    table("One layer's attention, prefill", [header, *map(cells, rows)])
    content = {
        "repetitions": arguments.repetitions,
        "threads": torch.get_num_threads(),
        "clock": "processor time" if arguments.processor_time else "wall time",
        "goal": GOAL,
        "rows": rows,
    }
    print(write_results(f"attention-{machine_name()}", content))


if __name__ == "__main__":
    main()
