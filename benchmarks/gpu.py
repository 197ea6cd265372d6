"""Every figure that needs a GPU, in one go: speed, energy, memory, lm-eval beside it, heat.

Weights are random and made directly on the card in the target precision, so nothing is
downloaded: speed and memory do not depend on their values. In turn, each variant in processes of
its own:

- prefill and decode with each engine at batch 1, 8 and 16: tokens/s, share of the card's memory
  bandwidth (MBU: bytes of a step times steps/s over the data sheet's bytes/s), joules a token
- with the fastest engine from batch 1 to the knee of the throughput, then a soak of three minutes
- peak memory against `evalkit plan`
- time of lm-eval's own backend over evalkit's: a task with 0 and 5 examples, generation, perplexity
- 32 texts continued by 256 tokens behind prompts of 950, as gsm8k's with 5 examples: batch, peak

Beside the figures stands what others report, and no pass or fail. On a card of capability 9.0
GPTQ runs by Marlin, which an RTX 4090 has too, and once more by Machete if that can be built.

    python benchmarks/gpu.py [--soak 3m] [--variants 'fp16;int8@bitsandbytes;...'] [--save FILE]

Without a card the same path runs on the CPU with the demo model at small sizes, in under three
minutes (most of one is torch.compile):
a rehearsal, whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import _gpu_parts
from _common import machine, write_results
from _gpu_tables import show_all

import evalkit
from evalkit.analysis.cards import card_of_driver, find_card
from evalkit.declaration import resolved
from evalkit.errors import EvalkitError
from evalkit.options import BenchOptions
from evalkit.progress import Event, ignore
from evalkit.records.bench import Bench, BenchPoint
from evalkit.running.bench.plan import ENGINES, make_bench_plan
from evalkit.running.environment import gpu_names
from evalkit.running.job import Job
from evalkit.running.process import run_child
from evalkit.running.quantize import make_checkpoint
from evalkit.view import render

VARIANTS = "fp16;int8@bitsandbytes;int8@torchao;int4@gptq;int4@torchao"
HOPPER = (9, 0)
TARGET = "rtx-4090"


@dataclass(frozen=True)
class Scale:
    """How much is measured; `sweep` is batch sizes with the fastest engine, () up to the knee.

    `few` is the number of variants that the slow parts take (torch.compile, the sweep, lm-eval), 0
    for all.
    """

    model: str = "phi-3-small"
    device: str = "cuda"
    soak: str = "3m"
    rounds: int = 3
    batch_sizes: tuple[int, ...] = (1, 8, 16)
    sweep: tuple[int, ...] = ()
    prompt: int = 512
    generate: int = 128
    few: int = 0
    items: int = 24
    repetitions: int = 3
    texts: int = 32
    text_prompt: int = 950
    text_generate: int = 256


REHEARSAL = Scale(
    model="demo", device="cpu", soak="1s", rounds=1, sweep=(1,), prompt=16, generate=4,
    few=1, items=4, repetitions=1, texts=4, text_prompt=200, text_generate=8,
)  # fmt: skip


class Measuring:
    """One run of the benchmark: its scale, what every bench is told, and progress."""

    def __init__(self, scale: Scale, variants: list[str], weights: str, store: Path) -> None:
        self.scale, self.variants = scale, variants
        self.words: dict[str, Any] = {
            "model": scale.model, "weights": weights, "device": scale.device, "out": store,
            "prompt": scale.prompt, "generate": scale.generate, "progress": self._note,
        }  # fmt: skip
        self.begun, self._said = time.monotonic(), ""

    def say(self, what: str) -> None:
        print(f"  {time.monotonic() - self.begun:5.0f} s  {what}", file=sys.stderr, flush=True)

    def engines(self) -> list[Bench]:
        """All variants with each engine; one that this machine lacks is left out with a word."""
        found = []
        for engine in ENGINES:
            few = self.scale.few if engine == "compile" else 0
            sizes = self.scale.batch_sizes[: 1 if few else None]
            self.say(f"decode with engine {engine}, batch {', '.join(map(str, sizes))}")
            try:
                found.append(evalkit.bench(
                    *self.variants[: few or None], engine=engine, batch_sizes=sizes,
                    rounds=min(2, self.scale.rounds), repetitions=self.scale.repetitions,
                    **self.words,
                ))  # fmt: skip
            except EvalkitError as error:
                self.say(f"left out: {error}")
        return found

    def sweep(self) -> Bench:
        """All variants with their fastest engine, to the knee, and the soak."""
        self.say(f"from batch 1 to the knee, and a soak of {self.scale.soak}")
        return evalkit.bench(
            *self.variants[: self.scale.few or None], batch_sizes=self.scale.sweep or "auto",
            soak=self.scale.soak, rounds=self.scale.rounds,
            repetitions=self.scale.repetitions, **self.words,
        )  # fmt: skip

    def parts(self, function: Any, most: int = 0) -> dict[str, Any]:
        """What `function` finds of each variant (of `most` at most), or why there is nothing."""
        given = {name: value for name, value in self.words.items() if name != "progress"}
        plan = make_bench_plan(self.variants, resolved(BenchOptions, given))
        found = {}
        for job in plan.jobs[: most or None]:
            self.say(f"{function.__name__.replace('_', ' ')}: {job.variant.text}")
            try:
                if job.refusal:
                    raise EvalkitError(job.refusal)
                make_checkpoint(job, self._note)
                found[job.variant.label] = run_child(
                    function, self._part(job), self._note, gpu=job.visible
                )
            except EvalkitError as error:
                found[job.variant.label] = {"message": str(error)}
        return found

    def _part(self, job: Job) -> _gpu_parts.Part:
        scale = self.scale
        return _gpu_parts.Part(
            job, scale.items, scale.repetitions, scale.texts, scale.text_prompt,
            scale.text_generate, scale.prompt,
        )  # fmt: skip

    def _note(self, event: Event) -> None:
        line = event.message or f"{event.variant}: {event.stage}"
        if line != self._said:
            self.say(line)
        self._said = line


def settled(variants: list[str], capability: tuple[int, ...]) -> list[str]:
    """The variants for a card: where GPTQModel would take Machete, Marlin first."""
    if tuple(capability) != HOPPER:
        return variants
    kernels = ("marlin", "machete")
    return [
        word
        for name in variants
        for word in ([f"{name},kernel={k}" for k in kernels] if "@gptq" in name else [name])
    ]


def projected(point: BenchPoint, bandwidth: float) -> dict[str, float]:
    """The fraction of the roofline of a card of `bandwidth` bytes/s, carried over to TARGET."""
    assert point.bytes_per_step is not None
    assert point.tokens_per_second is not None
    steps = point.tokens_per_second / point.batch_size
    fraction = steps * point.bytes_per_step / bandwidth
    roofline = find_card(TARGET).bandwidth / point.bytes_per_step
    return {
        "fraction_of_roofline": fraction,
        "target_roofline": roofline,
        "target_tokens_per_second": fraction * roofline,
    }


def decoded(benches: list[Bench], bandwidth: float) -> list[dict[str, Any]]:
    """One row for each variant, engine and batch size of decode, with its share of bandwidth."""
    rows = []
    for bench in benches:
        for point in bench.points:
            if point.phase == "decode" and point.context == bench.prompt:
                row: dict[str, Any] = {
                    "variant": point.variant, "engine": point.engine, "batch": point.batch_size,
                    "status": point.status, "kernel": point.kernel, "message": point.message,
                    "tokens_per_second": point.tokens_per_second,
                    "joules_per_token": point.joules_per_token,
                    "preparation_seconds": point.preparation_seconds,
                    "warnings": list(point.warnings),
                }  # fmt: skip
                if point.tokens_per_second and point.bytes_per_step:
                    row |= projected(point, bandwidth)
                rows.append(row)
    return rows


def peaks_against_plan(benches: list[Bench]) -> list[dict[str, Any]]:
    """The largest peak of each variant, engine and batch size beside its plan.

    The plan holds the context of the driver, so on CUDA the driver's own count is compared.
    """
    rows = []
    for bench in benches:
        engine = next((point.engine for point in bench.points if point.engine), "")
        for use in bench.memory:
            counted = {key: peak for key, peak in use.peaks.items() if key.endswith(" used")}
            peak = max((counted or use.peaks).values())
            rows.append({
                "variant": use.variant, "engine": engine, "batch": use.batch_size, "peak": peak,
                "planned": use.planned,
                "ratio": peak / use.planned if use.planned else None, "peaks": use.peaks,
            })  # fmt: skip
    return rows


def measured(run: Measuring, card: dict[str, Any]) -> dict[str, Any]:
    own = card_of_driver(card["name"]) if card else None
    benches = run.engines()
    sweep = run.sweep()
    assert sweep.rates is not None
    bandwidth = own.bandwidth if own else sweep.rates.bandwidth
    return {
        "card": card, "bandwidth": bandwidth,
        "bandwidth_from": "data sheet" if own else "this machine's own measurement",
        "decode": decoded([*benches, sweep], bandwidth),
        "peaks": peaks_against_plan([*benches, sweep]),
        "continued_texts": run.parts(_gpu_parts.continued_texts),
        "against_lm_eval": run.parts(_gpu_parts.against_lm_eval, run.scale.few),
        "benches": [json.loads(render(bench, "json")) for bench in [*benches, sweep]],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    rehearsal = not gpu_names()
    own = REHEARSAL if rehearsal else Scale()
    parser.add_argument("--model", default=own.model)
    parser.add_argument("--weights", default="random", choices=("random", "checkpoint"))
    parser.add_argument("--device", default=own.device)
    parser.add_argument("--variants", default=VARIANTS, help="separated by ;")
    parser.add_argument("--soak", default=own.soak)
    parser.add_argument("--rounds", type=int, default=own.rounds)
    parser.add_argument("--save", type=Path, help="write here instead of benchmarks/results")
    options = parser.parse_args()
    changed = {key: getattr(options, key) for key in ("model", "device", "soak", "rounds")}
    scale = Scale(**{**asdict(own), **changed})
    card = run_child(_gpu_parts.card, scale.device, ignore)
    variants = settled(options.variants.split(";"), card.get("capability", ()))
    with tempfile.TemporaryDirectory() as folder:
        run = Measuring(scale, variants, options.weights, Path(folder))
        found = measured(run, card)
        run.say("done")
    content = {
        "rehearsal": rehearsal, "scale": asdict(scale), "target": TARGET,
        "seconds": time.monotonic() - run.begun, **found,
    }  # fmt: skip
    show_all(content)
    if options.save or rehearsal:
        path = options.save or Path(tempfile.gettempdir()) / "gpu-rehearsal.json"
        path.write_text(json.dumps({"machine": machine(), **content}, indent=1))
        print(f"  {path}")
        return
    name = re.sub(r"[^a-z0-9]+", "-", card["name"].lower()).strip("-")
    print(f"  {write_results(f'gpu-{name}', content)}")


if __name__ == "__main__":
    main()
