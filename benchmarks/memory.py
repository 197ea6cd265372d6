"""Predicted against measured peak memory on CPU, phase by phase.

Every setting runs in a fresh process: libraries are imported, the resident set is read, then the
model is loaded, prompts of random tokens are read in one pass and a few tokens are decoded, twice
over: pages of a weights file count once they were read, so the first round does not hold them all.
The kernel's high-water mark is reset between the phases, and free blocks go back to the system at
once, as in `evalkit bench`. Beside it stands what `evalkit plan`
predicts from config.json alone.

Goal: the peak within 10 %, for the demo model and an 80 M Llama at three settings each.

    python benchmarks/memory.py [--models demo,llama-80m] [--variants fp16,fp32] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _common import ROOT, table, write_results

# Sequences and tokens of each prompt.
SETTINGS = {
    "demo": ((1, 512), (4, 512), (8, 960)),
    "llama-80m": ((1, 512), (4, 512), (2, 1920)),
}
STEPS = 4
GOAL = 0.10


def measure(source: Path, words: str, batch: int, context: int, threads: int) -> dict[str, float]:
    """Bytes above the level before loading, by phase; for one process only."""
    import torch

    from evalkit import plugins
    from evalkit.backends import parse_variant
    from evalkit.metrics.memory import (
        high_water_mark,
        level_before_loading,
        resident_bytes,
        unfragmented,
    )

    torch.set_num_threads(threads)
    variant = parse_variant(words)
    backend = plugins.load("backends", variant.backend)
    backend.prepare()
    before = level_before_loading("cpu")
    peaks = {}

    def phase(name: str) -> None:
        peaks[name] = max(peaks.get(name, 0), high_water_mark() - before)
        Path("/proc/self/clear_refs").write_text("5")

    phase("import")
    model = backend.load(source, variant, "cpu").model
    phase("load")
    peaks["loaded"] = resident_bytes() - before
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (batch, context - STEPS))
    with torch.inference_mode(), unfragmented():
        for _ in range(2):
            output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
            phase("prefill")
            for _ in range(STEPS):
                token = output.logits[:, -1:].argmax(-1)
                output = model(
                    input_ids=token, past_key_values=output.past_key_values, use_cache=True
                )
            phase("decode")
            del output
    return peaks


def quantize(source: Path, words: str, made: str) -> None:
    """Write the quantized checkpoint that `evalkit compare` would load."""
    from evalkit import plugins
    from evalkit.backends import parse_variant

    variant = parse_variant(words)
    Path(made).mkdir()
    plugins.load("backends", variant.backend).quantize(source, variant, Path(made), "cpu")


def predict(source: Path, words: str, batch: int, context: int) -> dict[str, float]:
    """What the planner says of the same setting, in bytes."""
    from evalkit import plugins
    from evalkit.analysis.footprint import CPU
    from evalkit.analysis.planner import memory
    from evalkit.backends import parse_variant
    from evalkit.models.resolve import resolve_config
    from evalkit.models.shape import model_shape

    variant = parse_variant(words)
    scheme = plugins.load("backends", variant.backend).scheme(variant)
    config = resolve_config(str(source)).config
    shape = model_shape(source.name, config, (scheme.rest_bytes,))
    # A file in the variant's own data type becomes the weights; otherwise they are made of it.
    file = source / "model.safetensors"
    mapped = file.stat().st_size if words == "fp32" else 0
    found = memory(shape, scheme, batch, context, runtime=CPU, mapped=mapped)
    return {
        "weights": found.weights.total,
        "kv_cache": found.kv_cache,
        "prefill": found.prefill,
        "decode": found.decode,
        "runtime": found.runtime,
        "total": found.total,
    }


def make_llama(path: Path) -> Path:
    """An 80 M Llama of random weights with grouped-query attention and a tied head."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=9,
        num_attention_heads=12, num_key_value_heads=4, tie_word_embeddings=True,
        max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    model.save_pretrained(path)
    return path


TASKS = {"measure": measure, "quantize": quantize, "predict": predict}


def child(task: str, *arguments: Any) -> Any:
    """One of TASKS in a process of its own."""
    given = json.dumps([task, *arguments], default=str)
    done = subprocess.run(
        [sys.executable, __file__, "--child", given], check=True, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout.splitlines()[-1])


def run_child(given: str) -> None:
    import evalkit.running.preload  # noqa: F401  imports torch without its libraries' remarks

    task, source, words, *more = json.loads(given)
    print(json.dumps(TASKS[task](Path(source), words, *more)))


def compare(
    name: str, source: Path, made: Path, words: str, setting: tuple[int, int], threads: int
) -> dict[str, Any]:
    measured = child("measure", made, words, *setting, threads)
    predicted = child("predict", source, words, *setting)
    peak = max(measured["load"], measured["prefill"], measured["decode"])
    return {
        "model": name,
        "variant": words,
        "batch": setting[0],
        "context": setting[1],
        "measured": measured,
        "predicted": predicted,
        "peak": peak,
        "error": predicted["total"] / peak - 1,
    }


def quantizes(words: str) -> bool:
    from evalkit.backends import parse_variant, spec_of

    return spec_of(parse_variant(words)).quantizes


def show(rows: list[dict[str, Any]]) -> None:
    header = ["", "load", "prefill", "decode", "peak", "predicted", "error"]
    lines = [
        [
            f"{row['model']} {row['variant']} {row['batch']} × {row['context']}",
            *(f"{row['measured'][phase] / 1e6:.1f}" for phase in ("load", "prefill", "decode")),
            f"{row['peak'] / 1e6:.1f}",
            f"{row['predicted']['total'] / 1e6:.1f}",
            f"{100 * row['error']:+.1f} %",
        ]
        for row in rows
    ]
    table("Resident set above the level before loading, MB", [header, *lines])
    worst = max(abs(row["error"]) for row in rows)
    print(f"  worst error {100 * worst:.1f} % (goal {100 * GOAL:.0f} %)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(SETTINGS))
    parser.add_argument("--variants", default="fp16;fp32;int8", help="separated by ;")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", default="memory-cpu", help="name of the results")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options.child)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models.split(","):
            demo = ROOT / "data" / "demo" / "model"
            source = demo if name == "demo" else make_llama(Path(folder) / name)
            for words in options.variants.split(";"):
                made = source
                if quantizes(words):
                    made = Path(folder) / f"{name}-{words}"
                    child("quantize", source, words, made)
                for setting in SETTINGS[name]:
                    rows.append(compare(name, source, made, words, setting, options.threads))
                    show(rows[-1:])
    show(rows)
    print(f"  {write_results(options.save, {'threads': options.threads, 'rows': rows})}")


if __name__ == "__main__":
    main()
