"""Every variant of Phi-3 Small on this machine's GPU: memory, prefill, decode, energy, heat.

Weights are random and made directly on the card in the target precision, so nothing is
downloaded: speed and memory do not depend on their values. Decode is measured with each engine at
batch 1, then with the fastest one from batch 1 to the knee; then a soak of three minutes.

Each variant's decode at batch 1 is a fraction of this card's roofline (bytes a step over the
card's bandwidth); the same fraction of the RTX 4090's is what to expect there, beside the
90 tokens/s that INT8 is said to reach. A fraction measured on another card is an estimate.

    python benchmarks/gpu.py [--soak 3m] [--variants fp16,int8@bitsandbytes,...]

    python benchmarks/gpu.py --model demo --weights checkpoint --device cpu --soak 3s
                             --variants fp16,int8 --save /tmp/gpu.json   (a rehearsal)
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from _common import machine, table, write_results

import evalkit
from evalkit.analysis.cards import card_of_driver, find_card
from evalkit.records.bench import Bench, BenchPoint
from evalkit.running.bench.plan import ENGINES
from evalkit.running.environment import gpu_names
from evalkit.view import render, show

VARIANTS = "fp16;int8@bitsandbytes;int8@torchao;int4@gptq;int4@torchao"
TARGET = "rtx-4090"
BRIEF = {"int8": 90.0}


def decode_at_one(bench: Bench, variant: str) -> BenchPoint | None:
    """The measured decode at batch 1 and the bench's prompt; None where it failed."""
    return next(
        (
            p for p in bench.points
            if (p.variant, p.phase, p.batch_size, p.context) == (variant, "decode", 1, bench.prompt)
            and p.tokens_per_second is not None
        ),
        None,
    )  # fmt: skip


def engines(variants: list[str], words: dict[str, Any], device: str) -> list[dict[str, Any]]:
    """Tokens/s at batch 1 by variant and engine; an engine that does not run says why."""
    found = []
    for engine in ENGINES if device != "cpu" else ("eager",):
        bench = evalkit.bench(*variants, batch_sizes=[1], engine=engine, rounds=2, **words)
        for point in bench.points:
            if point.phase == "decode":
                found.append({
                    "variant": point.variant, "engine": engine, "status": point.status,
                    "tokens_per_second": point.tokens_per_second,
                    "bandwidth_utilization": point.bandwidth_utilization,
                    "preparation_seconds": point.preparation_seconds,
                    "message": point.message, "warnings": list(point.warnings),
                })  # fmt: skip
    return found


def projected(point: BenchPoint, bandwidth: float) -> dict[str, float]:
    """The fraction of the roofline of a card of `bandwidth` bytes/s, carried over to TARGET."""
    assert point.bytes_per_step is not None
    assert point.tokens_per_second is not None
    fraction = point.tokens_per_second * point.bytes_per_step / bandwidth
    roofline = find_card(TARGET).bandwidth / point.bytes_per_step
    return {
        "fraction_of_roofline": fraction,
        "target_roofline": roofline,
        "target_tokens_per_second": fraction * roofline,
    }


def show_all(bench: Bench, rows: list[dict[str, Any]], projections: dict[str, Any]) -> None:
    show(bench)
    header = ["variant", "engine", "tokens/s", "of bandwidth", "prepared in"]
    table(
        "Decode at batch 1 by engine",
        [header]
        + [
            [
                row["variant"], row["engine"],
                f"{row['tokens_per_second']:.1f}" if row["tokens_per_second"] else row["status"],
                f"{row['bandwidth_utilization']:.0%}" if row["bandwidth_utilization"] else "-",
                f"{row['preparation_seconds']:.0f} s" if row["preparation_seconds"] else "-",
            ]
            for row in rows
        ],
    )  # fmt: skip
    lines = [["variant", "fraction of roofline", f"{TARGET} roofline", "expected there", "brief"]]
    for name, found in projections.items():
        said = next((f"{v:.0f}" for key, v in BRIEF.items() if name.startswith(key)), "-")
        lines.append([
            name, f"{found['fraction_of_roofline']:.0%}", f"{found['target_roofline']:.0f}",
            f"{found['target_tokens_per_second']:.0f} tokens/s", said,
        ])  # fmt: skip
    table(f"Carried over to {find_card(TARGET).title}", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="phi-3-small")
    parser.add_argument("--weights", default="random", choices=("random", "checkpoint"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--variants", default=VARIANTS, help="separated by ;")
    parser.add_argument("--soak", default="3m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", type=Path, help="write here instead of benchmarks/results")
    options = parser.parse_args()
    variants = options.variants.split(";")
    with tempfile.TemporaryDirectory() as folder:
        words: dict[str, Any] = {
            "model": options.model, "weights": options.weights, "device": options.device,
            "out": Path(folder),
        }  # fmt: skip
        rows = engines(variants, words, options.device)
        bench = evalkit.bench(*variants, soak=options.soak, rounds=options.rounds, **words)
    own = gpu_names()[0] if options.device != "cpu" else ""
    card = card_of_driver(own) if own else None
    assert bench.rates is not None
    bandwidth = card.bandwidth if card else bench.rates.bandwidth
    points = {name: decode_at_one(bench, name) for name in dict.fromkeys(
        point.variant for point in bench.points)}  # fmt: skip
    projections = {name: projected(p, bandwidth) for name, p in points.items() if p}
    show_all(bench, rows, projections)
    content = {
        "card": card.title if card else own, "bandwidth": bandwidth, "engines": rows,
        "projections": projections, "bench": json.loads(render(bench, "json")),
    }  # fmt: skip
    if options.save:
        options.save.write_text(json.dumps({"machine": machine(), **content}, indent=1))
        return
    name = re.sub(r"[^a-z0-9]+", "-", own.lower()).strip("-") or "cpu"
    print(f"  {write_results(f'gpu-{name}', content)}")


if __name__ == "__main__":
    main()
