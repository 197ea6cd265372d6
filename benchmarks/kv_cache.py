"""What a quantized KV cache costs: evalkit's simulated ones beside llama.cpp's own, on one text.

Both read the same tokens in one sequence: evalkit the checkpoint in float32 arithmetic, llama.cpp
the GGUF file of the same weights through llama-cpp-python, with flash attention. The divergence of
each is from its own run with an unquantized cache, so that arithmetic of the weights cancels out;
what llama.cpp's float32 cache differs from its float16 one by is its floor. llama.cpp rotates what
it quantizes where a head has a multiple of 64 channels; LLAMA_ATTN_ROT_DISABLE=1 turns that off.

evalkit's formats are read a second time, in chunks and the last tokens one by one: by how much
that differs from one pass is the last two columns, of chunks and of single tokens.

Goal: int8 below fp8 below int4 on either side, and figures of one size between the sides.

    python benchmarks/kv_cache.py --model DIR --gguf FILE --text FILE [--tokens 2048]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import table, write_results
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from evalkit.analysis.cache_formats import FORMATS
from evalkit.models.kv_cache import quantize_kv_cache
from evalkit.models.loading import load_causal_lm, load_tokenizer

Logits = NDArray[np.float32]
OURS = (("int8", False), ("fp8", False), ("int4", False), ("int8", True), ("int4", True))
# Names in llama.cpp's command line, and numbers in its API (ggml_type).
GGML_TYPES = {"f32": 0, "f16": 1, "q8_0": 8, "q4_0": 2}
CHUNK, STEPS, QUARTERS, BLOCK = 512, 32, 4, 256


def divergences(baseline: Logits, other: Logits) -> Tensor:
    """KL divergence of `other` from `baseline` (tokens, vocabulary) in nats, token by token."""
    found = []
    for start in range(0, len(baseline), BLOCK):
        p, q = (
            torch.from_numpy(np.array(one[start : start + BLOCK])).double().log_softmax(-1)
            for one in (baseline, other)
        )
        found.append((p.exp() * (p - q)).sum(-1))
    return torch.cat(found)


def compared(baseline: Logits, other: Logits, ids: list[int]) -> dict[str, Any]:
    """Mean divergence, its quarters by position, agreement of the top token, and perplexity."""
    each = divergences(baseline, other)
    nll = torch.nn.functional.cross_entropy(
        torch.from_numpy(np.array(other[:-1])), torch.tensor(ids[1:])
    )
    return {
        "kl_mean": float(each.mean()),
        "kl_by_quarter": [float(part.mean()) for part in each.tensor_split(QUARTERS)],
        "top1_agreement": float((baseline.argmax(-1) == other.argmax(-1)).mean()),
        "perplexity": float(nll.exp()),
    }


@torch.inference_mode()
def read(model: PreTrainedModel, ids: Tensor, lengths: list[int]) -> Logits:
    """Logits (tokens, vocabulary) of `ids` (1, tokens) in passes of `lengths`."""
    if len(lengths) == 1:
        return np.asarray(model(input_ids=ids, use_cache=False).logits[0].numpy())
    cache, found = None, []
    for chunk in ids.split(lengths, 1):
        output = model(input_ids=chunk, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        found.append(output.logits[0])
    return np.asarray(torch.cat(found).numpy())


def ours(folder: Path, ids: list[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A row for each format of evalkit, beside the model with an unquantized cache."""
    text, count = torch.tensor([ids]), len(ids)
    pieces = [*map(len, torch.arange(count - STEPS).split(CHUNK)), *[1] * STEPS]
    baseline = read(load_causal_lm(folder, dtype="float32", device="cpu"), text, [count])
    yield "16bit", compared(baseline, baseline, ids)
    for name, rotates in OURS:
        model = load_causal_lm(folder, dtype="float32", device="cpu")
        quantize_kv_cache(model, FORMATS[name], rotates=rotates)
        whole = read(model, text, [count])
        row = compared(baseline, whole, ids)
        if not rotates:
            apart = divergences(whole, read(model, text, pieces))
            row["kl_of_chunks"] = float(apart[:-STEPS].mean())
            row["kl_of_steps"] = float(apart[-STEPS:].mean())
        yield f"{name} hadamard" if rotates else name, row


def llama_logits(file: Path, ids: list[int], kind: str, *, rotates: bool, threads: int) -> Logits:
    """Logits (tokens, vocabulary) of llama.cpp with keys and values of a type."""
    from llama_cpp import Llama

    os.environ["LLAMA_ATTN_ROT_DISABLE"] = "0" if rotates else "1"
    model = Llama(
        str(file), n_ctx=len(ids), n_batch=CHUNK, logits_all=True, flash_attn=True,
        type_k=GGML_TYPES[kind], type_v=GGML_TYPES[kind], n_threads=threads,
        n_threads_batch=threads, verbose=False,
    )  # fmt: skip
    model.eval(ids)
    found = np.array(model.scores[: len(ids)], dtype=np.float32)
    model.close()
    return found


def theirs(file: Path, ids: list[int], threads: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """A row for each type of llama.cpp's cache, with and without its rotation."""
    baseline = llama_logits(file, ids, "f16", rotates=False, threads=threads)
    yield "f16", compared(baseline, baseline, ids)
    for kind, rotates in (
        ("f32", False), ("q8_0", False), ("q4_0", False), ("q8_0", True), ("q4_0", True),
    ):  # fmt: skip
        other = llama_logits(file, ids, kind, rotates=rotates, threads=threads)
        yield f"{kind} rotated" if rotates else kind, compared(baseline, other, ids)


def lines(rows: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Rows of the printed table, the first row its titles."""
    titles = ["cache", "KL", *[f"quarter {n + 1}" for n in range(QUARTERS)], "top-1", "perplexity",
              "chunks", "steps"]  # fmt: skip
    return [titles] + [
        [
            name,
            *[f"{value:.3g}" for value in (row["kl_mean"], *row["kl_by_quarter"])],
            f"{row['top1_agreement']:.2%}",
            f"{row['perplexity']:.4f}",
            *[f"{row[key]:.1e}" if key in row else "" for key in ("kl_of_chunks", "kl_of_steps")],
        ]
        for name, row in rows.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    text = asked.text.read_text(encoding="utf-8")[: 8 * asked.tokens]
    ids: list[int] = load_tokenizer(asked.model)(text)["input_ids"][: asked.tokens]
    found = {
        "evalkit": dict(ours(asked.model, ids)),
        "llama.cpp": dict(theirs(asked.gguf, ids, asked.threads)),
    }
    for side, rows in found.items():
        table(f"{side}: divergence from its own unquantized cache, {len(ids)} tokens", lines(rows))
    weights = asked.gguf.name
    content = {"weights": weights, "text": asked.text.name, "tokens": len(ids), "rows": found}
    write_results("kv-cache", content)


if __name__ == "__main__":
    main()
