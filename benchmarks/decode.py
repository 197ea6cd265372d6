"""Decode at batch 1 on the CPU: evalkit's engines, transformers' generate, and llama.cpp.

One Llama of 80 M random parameters with a tied head, in 16, 8 and 4 bit (embedding and head in 16
bit everywhere). All generate the same number of tokens behind the same short prompt, greedily,
in turns; times include the prompt, not loading or compiling. llama.cpp runs beside in its own
environment (`pip install llama-cpp-python gguf`), named by --llama-python.

Goals: evalkit at least 2 times as fast as transformers' eager generate, at least 0.8 times as
fast as llama.cpp at equal bit width.

    python benchmarks/decode.py [--llama-python PATH] [--repetitions 5] [--tokens 128]
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from _common import ROOT, interleaved, table, write_results
from memory import make_llama
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import evalkit.running.preload  # noqa: F401  imports torch without its libraries' remarks
from evalkit import plugins
from evalkit.backends import parse_variant, spec_of
from evalkit.errors import EvalkitError
from evalkit.inference.engines import generate, prepare_engine
from evalkit.models.loading import Loaded
from evalkit.models.storage import weight_bytes
from evalkit.running.bench.machine_rates import measure_rates
from evalkit.running.environment import machine, threads

PROMPT = 8
VARIANTS = ("fp32", "fp16", "int8@torchao", "int4@gptq")
# llama.cpp's type of equal bit width.
PEERS = {"F16": "fp16", "Q8_0": "int8@torchao", "Q4_0": "int4@gptq"}
GOALS = {"transformers": 2.0, "llama.cpp": 0.8}


def prompt_ids() -> torch.Tensor:
    return torch.arange(3, 3 + PROMPT)[None]


def load(source: Path, words: str, folder: Path) -> Loaded:
    """The variant, loaded; one that needs calibration is quantized in a process of its own."""
    variant = parse_variant(words)
    if spec_of(variant).needs_calibration:
        made = folder / words.replace("@", "-")
        made.mkdir()
        # Threads that quantizing leaves behind would take turns with those that decode.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            pool.submit(quantize, source, words, made).result()
        source = made
    loaded: Loaded = plugins.load("backends", variant.backend).load(source, variant, "cpu")
    return loaded


def quantize(source: Path, words: str, made: Path) -> None:
    """Write the quantized checkpoint; samples are random ids, as text has no meaning here."""
    variant = parse_variant(words)
    samples = torch.randint(3, 32000, (16, 128), generator=torch.Generator().manual_seed(0))
    backend = plugins.load("backends", variant.backend)
    backend.quantize(source, variant, made, "cpu", samples.tolist())


def engine_run(model: Any, name: str, tokens: int) -> Callable[[], Any]:
    ids = prompt_ids()
    engine = prepare_engine(name, model, ids, PROMPT + tokens).engine

    def run() -> None:
        with torch.inference_mode():
            generate(engine, ids, tokens)

    return run


def transformers_run(model: Any, tokens: int) -> Callable[[], Any]:
    ids = prompt_ids()
    words = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}

    def run() -> None:
        with torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **words)

    return run


@contextmanager
def llama_run(python: str, source: Path, kind: str, tokens: int, folder: Path) -> Iterator[Any]:
    """A llama.cpp that generates once for every call."""
    file = folder / f"{kind}.gguf"
    writer = ROOT / "tests" / "serving" / "write_gguf.py"
    subprocess.run([python, writer, source, file, kind], check=True, capture_output=True)
    words = [python, ROOT / "benchmarks" / "_llama_cpp.py", file, PROMPT, tokens, threads()]
    process = subprocess.Popen(
        [str(word) for word in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stdout
    process.stdout.readline()

    def run() -> None:
        process.stdin.write("\n")
        process.stdin.flush()
        float(process.stdout.readline())

    try:
        yield run
    finally:
        process.stdin.close()
        process.wait()


def write_tokenizer(folder: Path) -> None:
    """Names for the 32,000 ids, which GGUF and GPTQModel want."""
    special = ["<unk>", "<s>", "</s>"]
    words = special + [f"<0x{byte:02X}>" for byte in range(256)]
    words += [f"▁w{number}" for number in range(32000 - len(words))]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast.save_pretrained(folder)


def measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    source = make_llama(folder / "llama-80m")
    write_tokenizer(source)
    runs: dict[str, Callable[[], Any]] = {}
    sizes: dict[str, int] = {}
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        for words in options.variants.split(";"):
            loaded = load(source, words, folder)
            model = loaded.model
            sizes[words] = sum(weight_bytes(model, loaded.formats).values())
            runs[f"transformers {words}"] = transformers_run(model, options.tokens)
            for engine in options.engines.split(","):
                try:
                    runs[f"evalkit {engine} {words}"] = engine_run(model, engine, options.tokens)
                except EvalkitError as error:
                    failures[f"evalkit {engine} {words}"] = str(error)
        for kind in PEERS if options.llama_python else ():
            run = llama_run(options.llama_python, source, kind, options.tokens, folder)
            runs[f"llama.cpp {kind}"] = stack.enter_context(run)
            sizes[kind] = (folder / f"{kind}.gguf").stat().st_size
        timings = interleaved(runs, options.repetitions)
    return {"timings": timings, "sizes": sizes, "failures": failures}


def ratios(timings: Any, variants: list[str]) -> dict[str, dict[str, Any]]:
    """evalkit's fastest engine of each variant over the peers, tokens/s over tokens/s."""
    found = {}
    for words in variants:
        own = [n for n in timings.samples if n.startswith("evalkit") and n.endswith(f" {words}")]
        best = min(own, key=timings.median)
        found[f"{words} over transformers"] = {
            "engine": best, **timings.ratio(f"transformers {words}", best)
        }  # fmt: skip
        for kind, peer in PEERS.items():
            if peer == words and f"llama.cpp {kind}" in timings.samples:
                found[f"{words} over llama.cpp {kind}"] = {
                    "engine": best, **timings.ratio(f"llama.cpp {kind}", best)
                }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-python", default="")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--variants", default=";".join(VARIANTS), help="separated by ;")
    parser.add_argument("--engines", default="eager,compile")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    rates = measure_rates("cpu", machine("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        found = measured(options, Path(folder))
    timings, rows = found["timings"], []
    for name in timings.samples:
        speed = options.tokens / timings.median(name)
        size = found["sizes"][name.rpartition(" ")[2]]
        rows.append([name, f"{speed:.1f}", f"{size / 1e6:.0f} MB",
                     f"{speed * size / rates.bandwidth:.0%}"])  # fmt: skip
    table("Decode at batch 1", [["", "tokens/s", "weights", "of bandwidth"], *rows])
    for name, why in found["failures"].items():
        print(f"  {name}: {why}")
    compared = ratios(timings, options.variants.split(";"))
    lines = [["evalkit over", "engine", "median", "low", "high", "goal"]]
    for name, ratio in compared.items():
        goal = next(goal for peer, goal in GOALS.items() if peer in name)
        values = [f"{ratio[key]:.2f}" for key in ("median", "low", "high")]
        lines.append([name, ratio["engine"], *values, f"≥ {goal}"])
    table("", lines)
    content = {
        "tokens": options.tokens, "prompt": PROMPT, "bandwidth": rates.bandwidth,
        "weight_bytes": found["sizes"], "seconds": timings.to_json(), "ratios": compared,
        "failures": found["failures"],
    }  # fmt: skip
    print(f"  {write_results('decode-cpu', content)}")


if __name__ == "__main__":
    sys.exit(main())
