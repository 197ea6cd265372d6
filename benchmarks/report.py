"""Time and size of `evalkit report`: 12 variants × 20 tasks × 10,000 items.

A store of made-up answers (four choices, about one item in fifty changes between right and wrong)
is written once; then the report is made from it as the command makes it.

Goals: under 5 seconds, under 5 MB.

    python benchmarks/report.py [--variants 12] [--tasks 20] [--items 10000]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import numpy as np
import pyarrow as pa
from _common import table, write_results

import evalkit
from evalkit.analysis.compare import compare
from evalkit.analysis.verdicts import parse_margin
from evalkit.backends import parse_variant
from evalkit.records import Measurement, Model, Run, Suite, TaskSlice, Variant
from evalkit.results.load_measured import load_measured
from evalkit.running.environment import environment
from evalkit.store.samples import SampleHead, SampleRecords, TaskScore
from evalkit.store.store import Store
from evalkit.store.task_requests import Request, TaskItem, TaskRequests

CHOICES = ("in the mill", "by the river", "at the market", "under the bridge")
REPETITIONS = 3


def requests(task: str, count: int) -> TaskRequests:
    items = []
    for number in range(count):
        context = f"Question {number} of {task}: where did the baker leave the lamp?\nAnswer:"
        asked = tuple(Request("loglikelihood", context, f" {choice}") for choice in CHOICES)
        gold = number % len(CHOICES)
        items.append(
            TaskItem(number, f"{number:064x}", f"{number:064x}", CHOICES[gold], gold, CHOICES,
                     number, asked)
        )  # fmt: skip
    return TaskRequests(
        task, "1", "multiple_choice", "test", "made up", 0, None, 1, "", {}, (), tuple(items)
    )


def records(task: TaskRequests, values: np.ndarray) -> SampleRecords:
    """Sample records of log-likelihoods (items, choices)."""
    count = len(values)
    gold = np.arange(count) % len(CHOICES)
    right = values.argmax(1) == gold
    hashes = [f"{number:064x}" for number in range(count)]
    columns = {
        "filter": ["none"] * count,
        "doc_id": pa.array(range(count), pa.int32()),
        "doc_hash": hashes,
        "prompt_hash": hashes,
        "target": [CHOICES[g] for g in gold],
        "gold": pa.array(gold, pa.int32()),
        "choice_lengths": [[len(choice) for choice in CHOICES]] * count,
        "cluster": pa.array(range(count), pa.int32()),
        "loglikelihoods": values.tolist(),
        "greedy": [[False] * len(CHOICES)] * count,
        "generated": pa.array([None] * count, pa.string()),
        "filtered": pa.array([None] * count, pa.string()),
        "correct": right.tolist(),
        "metric:acc": right.astype(float).tolist(),
    }
    score = TaskScore("acc", "none", float(right.mean()), count, "mean", True)
    head = SampleHead(
        task.task, "1", task.id, task.output_type, 0, "test", "made up", "", {}, (), (score,)
    )
    return SampleRecords(head, pa.table(columns))


def fill(store: Store, variants: list[Variant], tasks: int, items: int) -> None:
    """A comparison of made-up answers in `store`."""
    generator = np.random.default_rng(0)
    model = Model("made-up", "0" * 64, architecture="LlamaForCausalLM", parameters=7_392_272_384)
    here = environment("cpu")
    runs: dict[str, list[Run]] = {variant.text: [] for variant in variants}
    slices = tuple(TaskSlice(f"task_{number:02d}") for number in range(tasks))
    for place, piece in enumerate(slices):
        asked = requests(piece.name, items)
        prompts = store.root / "prompts" / f"{piece.name}.parquet"
        prompts.parent.mkdir(exist_ok=True)
        asked.save(prompts)
        base = generator.normal(-12, 1, (items, len(CHOICES)))
        base[np.arange(items), np.arange(items) % len(CHOICES)] += 1.5
        for index, variant in enumerate(variants):
            noise = 0.03 * index * generator.normal(size=base.shape)
            found = records(asked, base + noise)
            run = Run(f"run-{place}-{index}", model, variant, Suite("made-up", convention="",
                      context=0, bos="", tasks=(piece,)), "ok", environment=here)  # fmt: skip
            file = store.raw(run.id) / f"samples-{piece.name}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            found.save(file)
            score = found.primary
            details = {
                "task": piece.name, "score": "acc", "filter": "none", "aggregation": "mean",
                "primary": True, "higher_is_better": True, "n": items, "noise_nats": 1e-5,
                "prompts": str(prompts.relative_to(store.root)),
            }  # fmt: skip
            measurement = Measurement(
                metric=f"{piece.name}.acc", version=1, unit="", direction="higher",
                values=(score.value,), table=str(file.relative_to(store.root)), details=details,
            )  # fmt: skip
            run = Run(**{**run.__dict__, "measurements": (measurement,)})
            store.save(run)
            runs[variant.text].append(run)
    measured = [load_measured(store, v, tuple(runs[v.text]), None, "") for v in variants]
    suite = Suite("made-up", convention="", context=0, bos="", tasks=slices)
    comparison = compare(
        model, suite, measured, parse_margin("1pp"), notes=(), store=str(store.root)
    )
    store.save_comparison(comparison, "made-up")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", type=int, default=12)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--items", type=int, default=10_000)
    options = parser.parse_args()
    others = [f"int4@gptq,group_size={size}" for size in (16, 32, 64, 128, 256, 512, 1024)]
    others += ["int8", "int4@bitsandbytes", "int3", "int2", "bf16", "fp32"]
    variants = [parse_variant(text) for text in ("fp16", *others)][: options.variants]
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder).prepare()
        fill(store, variants, options.tasks, options.items)
        for _ in range(REPETITIONS):
            start = time.perf_counter()
            page = evalkit.report(store=folder)
            seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        flips = evalkit.flips(store=folder)
        flips_seconds = time.perf_counter() - start
    size = len(page.encode())
    middle = statistics.median(seconds)
    rows = [
        ["", "measured", "goal"],
        ["seconds", f"{middle:.2f}", "< 5"],
        ["megabytes", f"{size / 1e6:.2f}", "< 5"],
        ["of it the flips, seconds", f"{flips_seconds:.2f}", ""],
        ["flips", f"{len(flips):,}", ""],
    ]
    what = f"{options.variants} variants × {options.tasks} tasks × {options.items:,} items"
    table(f"evalkit report: {what}", rows)
    content = {
        "variants": options.variants, "tasks": options.tasks, "items": options.items,
        "seconds": seconds, "bytes": size, "flips": len(flips), "flips_seconds": flips_seconds,
    }  # fmt: skip
    print(f"  {write_results('report', content)}")


if __name__ == "__main__":
    main()
