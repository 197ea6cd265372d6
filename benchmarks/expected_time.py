"""How long a comparison takes on a card that is not here: `--dry-run`'s own counts and functions.

    python benchmarks/expected_time.py [GPU] [--data DIR]

Counts the texts and prompts of `--suite standard` with Phi-3 Small's tokenizer, from WikiText-2
and task data in files, and tells the seconds of each step on the card's data sheet as `evalkit
compare --dry-run` does where nothing was measured: twice the roofline's. Derived, not measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from _common import SHARED, write_results

from evalkit.analysis.cards import find_card
from evalkit.analysis.duration import (
    Rates,
    Sizes,
    expected,
    loading_unseen,
    probe_cost,
    quantizing_cost,
    task_cost,
    text_cost,
    total,
)
from evalkit.metrics import Protocol
from evalkit.metrics.memory import DECODE_TOKENS
from evalkit.records import Cost

MODEL, SUITE = "phi-3-small", "standard"
# Microsoft's checkpoint, and GPTQ's calibration as `int4` asks for it.
WEIGHTS, CALIBRATION_TOKENS = 14_784_544_768, 128 * 512
NOISE_TOKENS = 20_000
VARIANTS = ("fp16", "int8", "int4")


def count(data: Path) -> dict[str, Any]:
    """Tokens of the suite's texts and of each task's prompts, and the sizes of the model."""
    from evalkit.models.phi3_small.tokenizer import Phi3SmallTokenizer
    from evalkit.models.resolve import resolve_config
    from evalkit.running.compare.cost import (
        model_sizes,
        noise_sample,
        prompt_counts,
    )
    from evalkit.tasks.loading import load_tasks
    from evalkit.tasks.prompts import build_requests
    from evalkit.texts.documents import load_texts
    from evalkit.texts.encoding import text_encoder
    from evalkit.texts.presets import load_preset
    from evalkit.texts.windows import make_windows

    suite = load_preset(SUITE)
    tokenizer = Phi3SmallTokenizer(vocab_file=str(data / "vocab" / "cl100k_base.tiktoken"))
    texts = load_texts([str(data / "text" / "wiki.test.raw")])
    windows = make_windows(text_encoder(tokenizer), texts, suite.convention, suite.context)
    tasks = {}
    for chosen in suite.tasks:
        found = load_tasks([chosen], data=data, offline=True)
        if found.failures:
            raise SystemExit("; ".join(failure.message for failure in found.failures))
        asked = [build_requests(task) for task in found.tasks]
        once = [prompt_counts(requests, tokenizer) for requests in asked]
        again = [prompt_counts(noise_sample(requests), tokenizer) for requests in asked]
        tasks[chosen.name] = {
            "once": [sum(numbers) for numbers in zip(*once, strict=True)],
            "again": [sum(numbers) for numbers in zip(*again, strict=True)],
        }
        print(chosen.name, tasks[chosen.name])
    sizes = model_sizes(resolve_config(MODEL).config)
    return {
        "sizes": {"body": sizes.body, "hidden": sizes.hidden, "vocabulary": sizes.vocabulary},
        "texts": {"tokens": int(windows.lengths.sum()), "scored": int(windows.scored.sum())},
        "tasks": tasks,
    }


def expect(counts: dict[str, Any], gpu: str) -> dict[str, Any]:
    """Seconds of each variant's steps on `gpu`, and of all, within a factor."""
    card = find_card(gpu)
    rates = Rates(card.flops, card.bandwidth)
    rows, every = [], []
    for variant in VARIANTS:
        steps = {"loading": loading_unseen(WEIGHTS)}
        for name, cost in costs(counts, variant).items():
            steps[name] = expected(cost, rates, (), MODEL, variant)
        every += steps.values()
        seconds = {name: round(step.seconds, 1) for name, step in steps.items()}
        rows.append({"variant": variant, "seconds": total(list(steps.values())).seconds,
                     "steps": seconds})  # fmt: skip
    whole = total(every)
    return {"rows": rows, "seconds": whole.seconds, "factor": whole.factor, "source": whole.source}


def costs(counts: dict[str, Any], variant: str) -> dict[str, Cost]:
    """What each part of a variant asks of the card, as `evalkit.running.compare.cost` counts it."""
    from evalkit.running.compare.cost import SPEED_REPETITIONS

    sizes, texts, baseline = Sizes(**counts["sizes"]), counts["texts"], variant == VARIANTS[0]
    protocol = Protocol()
    steps = (protocol.prompt, protocol.generate, SPEED_REPETITIONS)
    found = {"quantizing": quantizing_cost(sizes, CALIBRATION_TOKENS)} if variant == "int4" else {}
    found["memory"] = probe_cost("memory", sizes, protocol.prompt, DECODE_TOKENS, 1, WEIGHTS)
    found["speed"] = probe_cost("speed", sizes, *steps, WEIGHTS)
    noise = min(1.0, NOISE_TOKENS / texts["scored"])
    found["texts"] = text_cost(
        sizes, texts["tokens"], texts["scored"], baseline=baseline, noise=noise
    )
    for name, asked in counts["tasks"].items():
        read, scored, generated = (
            one + baseline * two for one, two in zip(asked["once"], asked["again"], strict=True)
        )
        found[name] = task_cost(sizes, read, scored, generated, WEIGHTS)
    return found


def main() -> None:
    """Count, tell and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gpu", nargs="?", default="rtx-4090")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    words = parser.parse_args()
    counts = count(words.data)
    found = expect(counts, words.gpu)
    what = "derived from the card's data sheet by the functions of --dry-run; nothing was measured"
    result = {"what": what, "gpu": words.gpu, "model": MODEL, "suite": SUITE, "counts": counts}
    print(write_results(f"expected-time-{words.gpu}", {**result, **found}))


if __name__ == "__main__":
    main()
