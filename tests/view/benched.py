"""A hand-made bench for the tests of its views: a card with a roof, three variants, a soak."""

from __future__ import annotations

import dataclasses
import math
import random

from evalkit.analysis.soak import judge
from evalkit.records import Environment, Model
from evalkit.records.bench import Bench, BenchPoint, MachineRates, MemoryUse, Phase, SoakSample

NAMES = ("fp16", "int8@torchao", "int4")
BATCHES = (1, 2, 4, 8, 16, 32, 24)


def point(name: str, phase: Phase, batch: int, context: int, speed: float) -> BenchPoint:
    generator = random.Random(f"{name} {phase} {batch} {context}")
    rounds = tuple(speed * math.exp(generator.gauss(0, 0.02)) for _ in range(5))
    tokens = batch * (context if phase == "prefill" else 1)
    step = 1000 * tokens / speed
    return BenchPoint(
        name, name, "ok", phase, batch, context,
        engine="graph", kernel="Linear (float16)",
        samples=tuple(value for value in rounds for _ in range(3)), rounds=rounds,
        tokens_per_second=speed, low=0.96 * speed, high=1.04 * speed,
        latency_ms_p50=step, latency_ms_p95=1.2 * step, latency_ms_p99=1.5 * step,
        latencies_ms=tuple(step * math.exp(abs(generator.gauss(0, 0.1))) for _ in range(300)),
        bytes_per_step=7e9, flops_per_step=14e9 * tokens, bandwidth_utilization=0.5,
        flops_utilization=0.1, peak_memory_bytes=8e9, joules_per_token=2.5,
    )  # fmt: skip


def soak_samples(speed: float, sensors: bool = True) -> list[SoakSample]:
    samples = []
    for second in range(1, 180):
        falls = 0.9 if second > 60 else 1.0
        one = SoakSample(float(second), falls * speed)
        if sensors:
            throttle = ("power cap",) if second > 60 else ()
            one = dataclasses.replace(
                one, watts=400.0, celsius=40 + second / 6, clock_mhz=2500.0, throttle=throttle
            )
        samples.append(one)
    return samples


def bench(names: tuple[str, ...] = NAMES, *, sensors: bool = True) -> Bench:
    """Throughput saturates with the batch; the first variant is the slowest."""
    points, memory, soaks = [], [], []
    for place, name in enumerate(names):
        speed = 60.0 * (1 + place)
        for size in BATCHES:
            points.append(point(name, "prefill", size, 512, 5000.0))
            points.append(point(name, "decode", size, 512, speed * size / (1 + size / 20)))
        for context in (1024, 4096):
            points.append(point(name, "prefill", 1, context, 5000.0 - context / 4))
            points.append(point(name, "decode", 1, context, speed * (1 - context / 20000)))
        weights = {"packed": 5e9, "scales": 0.2e9, "embedding": 0.8e9}
        peaks = {"load allocated": 6e9, "decode allocated": 9e9}
        memory.append(MemoryUse(name, 32, 512, weights, 2e9, peaks, 8.6e9))
        soaks.append(judge(name, 16, soak_samples(10 * speed, sensors)))
    return Bench(
        model=Model("phi-3-small", "x", weights="random"),
        rates=MachineRates("m", 1e12, {"float16": 160e12}, "copy of 1 GiB"),
        points=tuple(points),
        prompt=512,
        generate=128,
        knee=dict.fromkeys(names, 16),
        memory=tuple(memory),
        soaks=tuple(soaks),
        environment=Environment("RTX 4090, 16 threads [1a2b]", "cuda", 16, "3.11", "Linux"),
    )


def with_failures(one: Bench) -> Bench:
    """All variants but the first failed, and the first ran out of memory at the end."""
    first = one.points[0].variant
    points = [
        p
        for p in one.points
        if p.variant == first and not (p.phase == "decode" and p.batch_size == 32)
    ]
    points.append(
        BenchPoint(first, first, "out_of_memory", "decode", 32, 512, message="needs 30 GB")
    )
    points += [
        BenchPoint(name, name, "failed", "decode", 1, 512, message="no kernel for this card")
        for name in dict.fromkeys(p.variant for p in one.points)
        if name != first
    ]
    kept = tuple(use for use in one.memory if use.variant == first)
    return dataclasses.replace(one, points=tuple(points), memory=kept, soaks=())
